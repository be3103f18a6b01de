"""Draw pictures of prompts with a trained checkpoint; edit, describe and ask about pictures; or talk with it.

python sample.py "a small red circle and a large blue square on a white background"
python sample.py "two green squares" "a cyan cross above a red circle" -n 4 --seed 7 --out outputs/mine.png
python sample.py "three small green rings" --film outputs/rings.gif
python sample.py "make the circle green" --image in.png
python sample.py "a red circle and a blue square" --image in.png --mask mask.png
python sample.py --image in.png
python sample.py --image in.png --ask "how many circles are there?"
python sample.py --chat
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "checkpoints" / "unified64"
# Chosen among prompts that this model draws as they say. metrics/adherence.py asks for all kinds.
DEMO = (
    "a large red circle on a white background",
    "a small blue square and a large green triangle on a black background",
    "three small green rings on a white background",
    "a large magenta cross and a small yellow circle on a gray background",
    "four small red diamonds on a white background",
    "a large red diamond and two small blue circles on a black background",
    "a large cyan cross above a small red square on a gray background",
    "a large blue square above a small magenta triangle on a black background",
    "a small red square below a green triangle on a white background",
)


def main() -> None:
    """Parses the command line, and draws into one PNG, or answers in text."""
    parser = _parser()
    arguments = parser.parse_args()
    prompts: list[str] = arguments.prompts or (list(DEMO) if arguments.demo else [])
    if arguments.demo:
        arguments.out, arguments.overwrite = arguments.out or Path("outputs/demo.png"), True
    if arguments.mask and not (arguments.image and prompts):
        parser.error("--mask says where to draw anew: give the picture with --image, and what to draw as the prompt")
    if arguments.ask and not arguments.image:
        parser.error("--ask is about a picture: give it with --image")
    if (arguments.best_of and arguments.ask) or (arguments.effort and not (prompts or arguments.chat)):
        parser.error("--best-of is for what is drawn or described, --effort for what is drawn: leave it out")
    foreign = (arguments.num_images > 1, arguments.image, arguments.out, arguments.best_of, arguments.effort)
    if arguments.film and (len(prompts) != 1 or any(foreign)):
        parser.error("--film shows one picture: give one prompt, and no -n, --image, --out, --best-of or --effort")
    if not (prompts or arguments.image or arguments.chat):
        parser.error('say what to draw, such as: python sample.py "two red circles"; or --demo')
    try:
        if prompts:
            (_film if arguments.film else _draw)(arguments, prompts)
            return
        plantain = _load(arguments)
        if arguments.chat:
            _chat(plantain, arguments, sys.stdin)
        elif arguments.ask:
            print(plantain.ask(arguments.image[0], arguments.ask, arguments.seed)[0])
        else:
            print("\n".join(plantain.describe(arguments.image, arguments.seed, best_of=arguments.best_of or 1)))
    except (ValueError, OSError, MemoryError) as error:
        parser.exit(2, f"sample.py: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw; with --image, what to change")
    parser.add_argument("--demo", action="store_true", help="draw the demonstration's prompts into outputs/demo.png")
    parser.add_argument("--image", nargs="+", type=Path, help="pictures to edit, to describe or to ask about")
    parser.add_argument("--mask", type=Path, help="white where --image is to be drawn anew, as the prompt says")
    parser.add_argument("--ask", metavar="QUESTION", help="a question about --image")
    parser.add_argument("--chat", action="store_true", help="a conversation, line by line; pictures go to outputs/")
    parser.add_argument("--checkpoint", default=str(SHIPPED), help="folder or hub id (default: the shipped model)")
    parser.add_argument("-n", "--num-images", type=int, default=1, help="pictures of each prompt (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="chooses among all pictures of a prompt (default: 0)")
    parser.add_argument("--negative", metavar="PROMPT", help="what the pictures are not to show")
    parser.add_argument("--guidance", type=float, help="how much the prompt is insisted on (default: as trained)")
    parser.add_argument("--insistence", type=float, help="how much colours and shapes are, each (default: as trained)")
    parser.add_argument("--guidance-until", type=float, help="share of the codes that are guided (default: as trained)")
    parser.add_argument(
        "--image-guidance", type=float, help="how much an edit insists on --image (default: not at all)"
    )
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest codes (default: as trained)")
    parser.add_argument("--top-k", type=int, help="draw among the k likeliest codes; 0: all (default: as trained)")
    parser.add_argument("--top-p", type=float, help="draw among the likeliest codes that hold this probability")
    parser.add_argument("--min-p", type=float, help="draw among codes at least this share as likely as the likeliest")
    parser.add_argument("--size", help="HEIGHTxWIDTH in pixels, one that was trained (default: the first)")
    parser.add_argument(
        "--best-of", type=int, help="draw or describe so many times and keep what the model finds best (default: 1)"
    )
    parser.add_argument("--effort", choices=("full", "auto"), help="auto: fewer than --best-of where it feels sure")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures drawn at once (default: 64)")
    parser.add_argument(
        "--decoding",
        choices=("sequential", "jacobi"),
        default="jacobi",
        help="jacobi draws the same pictures as sequential, in fewer passes (default: jacobi)",
    )
    parser.add_argument("--steps", type=int, help="of a diffusion twin, from noise to picture (default: as trained)")
    parser.add_argument("--solver", choices=("euler", "midpoint", "heun"), help="of a diffusion twin")
    parser.add_argument("--compile", action="store_true", help="compile first: wait a minute, then draw sooner")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: the best there is)")
    parser.add_argument("--scale", type=int, help="enlargement of each pixel in the PNG (default: to about 256)")
    parser.add_argument(
        "--out", type=Path, help="the PNG to write (default: a new file in outputs/); of --chat, all together"
    )
    parser.add_argument("--film", type=Path, help="a GIF to write in place of a PNG: how one picture comes into being")
    parser.add_argument("--overwrite", action="store_true", help="replace --out or --film if it exists")
    return parser


def _load(arguments: argparse.Namespace) -> Any:
    from model import Plantain

    plantain = Plantain.from_pretrained(arguments.checkpoint, arguments.device)
    return plantain.compile() if arguments.compile else plantain


def _draw(arguments: argparse.Namespace, prompts: list[str]) -> None:
    """Draws, edits or fills holes, writes one PNG and prints its path."""
    out = _free_path(arguments.out, prompts[0], arguments.seed, arguments.overwrite)
    way = _way(arguments, prompts, _parse_size(arguments.size))

    # Heavy imports come after all that can be refused without them.
    from tqdm import tqdm

    if _is_twin(arguments.checkpoint):
        twin, settings = _twin(arguments)
        size = _parse_size(arguments.size)
        result = twin.generate(prompts, arguments.num_images, arguments.seed, size, arguments.batch_size, **settings)
    else:
        plantain, settings = _plantain(arguments)
        with tqdm(unit="code", desc="drawing") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            result = way(plantain, num_images=arguments.num_images, progress=progress, **settings)
    _save(out, result, arguments, prompts)
    print(f"{out}  ({len(result.images)} pictures in {result.seconds:.1f} s)")


def _film(arguments: argparse.Namespace, prompts: list[str]) -> None:
    """Draws one picture, writes what is seen of it on the way as one GIF and prints its path."""
    out = _free_path(arguments.film, prompts[0], arguments.seed, arguments.overwrite, ".gif")
    size = _parse_size(arguments.size)
    _way(arguments, prompts, size)  # refuses what is not for drawing from words

    from data.pictures import save_film

    if _is_twin(arguments.checkpoint):
        twin, settings = _twin(arguments)
        frames = list(twin.stream(prompts[0], arguments.seed, size, **settings))
    else:
        plantain, settings = _plantain(arguments)
        grown = plantain.stream(prompts[0], negative=arguments.negative, size=size, **settings)
        frames = [seen.image for seen in grown]
    save_film(out, frames, arguments.scale)
    print(f"{out}  ({len(frames)} frames)")


def _is_twin(checkpoint: str) -> bool:
    config = Path(checkpoint) / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("model_type") == "plantain_twin"


def _plantain(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The model, and what all its ways to draw have in common."""
    if arguments.steps or arguments.solver:
        raise ValueError("--steps and --solver are for a diffusion twin: leave them out, or give its --checkpoint")
    names = ("seed", "guidance", "guidance_until", "insistence", "temperature", "top_k", "top_p", "min_p")
    names += ("batch_size", "decoding")
    return _load(arguments), {name: getattr(arguments, name) for name in names}


def _twin(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """A diffusion twin, which knows less than the other, and what its ways to draw have in common."""
    from diffusion.twin import Twin

    foreign = ("image", "mask", "guidance_until", "insistence", "temperature", "top_k", "top_p", "min_p")
    foreign += ("best_of", "effort")
    if given := [f"--{name.replace('_', '-')}" for name in foreign if getattr(arguments, name) is not None]:
        raise ValueError(f"{', '.join(given)} is nothing that a diffusion twin knows: leave it out")
    twin = Twin.from_pretrained(arguments.checkpoint, arguments.device)
    names = {"negative": "negative", "guidance": "guidance", "num_steps": "steps", "solver": "solver"}
    settings = {name: value for name, given in names.items() if (value := getattr(arguments, given)) is not None}
    return twin.compile() if arguments.compile else twin, settings


def _way(arguments: argparse.Namespace, prompts: list[str], size: tuple[int, int] | None) -> Callable[..., Any]:
    """Which of Plantain's ways to draw is asked for, with what is its own."""
    own: dict[str, tuple[str, ...]] = {
        "generate": ("negative", "best_of", "effort"),
        "edit": ("image_guidance",),
        "inpaint": ("best_of", "effort"),
    }
    way = "inpaint" if arguments.mask else "edit" if arguments.image else "generate"
    every = {name for names in own.values() for name in names}
    given = {name: value for name in sorted(every) if (value := getattr(arguments, name)) is not None}
    if foreign := [f"--{name.replace('_', '-')}" for name in given if name not in own[way]]:
        raise ValueError(f"{', '.join(foreign)} is nothing that `{way}` knows: leave it out")
    if way != "generate" and len(prompts) > 1:
        raise ValueError(f"{len(prompts)} prompts for --image: give one")
    if way == "inpaint" and (size is not None or len(arguments.image) > 1):
        raise ValueError("--mask is for one --image, whose size the result has: leave --size out")

    def call(plantain: Any, **settings: Any) -> Any:
        if way == "generate":
            return plantain.generate(prompts, size=size, **given, **settings)
        if way == "edit":
            return plantain.edit(arguments.image, prompts[0], size=size, **given, **settings)
        return plantain.inpaint(arguments.image[0], arguments.mask, prompts[0], **given, **settings)

    return call


def _save(out: Path, result: Any, arguments: argparse.Namespace, prompts: list[str]) -> None:
    from data.pictures import save_sheet

    labels = [str(prompt) for prompt in result.prompts] if len(result.images) > 1 else []
    facts = {"prompt": "\n".join(prompts), "seed": str(arguments.seed), "num_images": str(arguments.num_images)}
    facts |= {name: str(value) for name, value in vars(result.sampling).items()}
    facts |= {name: str(given) for name in ("mask", "negative") if (given := getattr(arguments, name))}
    if arguments.image:
        facts["image"] = "\n".join(map(str, arguments.image))
    save_sheet(out, result.images, labels, arguments.scale, facts | {"checkpoint": str(arguments.checkpoint)})


def _chat(plantain: Any, arguments: argparse.Namespace, lines: Any) -> None:
    """A conversation, a line at a time, until the lines end; `--image` is shown before the first. With `--out` all its
    pictures stand on one sheet as well, each above what was said to get it and about it."""
    from data.pictures import save_sheet

    sheet = _free_path(arguments.out, "", arguments.seed, arguments.overwrite) if arguments.out else None
    effort = {"best_of": arguments.best_of or 1, "effort": arguments.effort or "full"}
    chat = plantain.chat(_parse_size(arguments.size), arguments.seed, **effort)
    shown, prompt = arguments.image or [], "> " if lines.isatty() else ""
    drawn: list[Any] = []
    told: list[str] = []
    print(prompt, end="", flush=True)
    for said in map(str.strip, lines):
        try:
            reply = chat.say(said, shown) if said else None
        except ValueError as error:  # the conversation stays as it was
            print(f"({error})")
            reply = None
        if reply is not None:
            shown = []
            if reply.text:
                print(reply.text)
            if reply.image is not None:
                drawn.append(reply.image)
                told.append(said)
                out = _free_path(None, said, arguments.seed, overwrite=False)
                save_sheet(out, [reply.image], [], arguments.scale, {"prompt": said})
                print(out)
            elif told:
                told[-1] += f"\n{said} {reply.text}"
            if sheet and drawn:
                save_sheet(sheet, drawn, told, arguments.scale, {"prompt": "\n".join(told)}, columns=4)
        print(prompt, end="", flush=True)


def _free_path(out: Path | None, prompt: str, seed: int, overwrite: bool, suffix: str = ".png") -> Path:
    """The path asked for, or one in outputs/ that nothing holds yet."""
    if out is not None:
        if out.suffix.lower() != suffix:
            raise ValueError(f"{out} is to be written as {suffix[1:].upper()}: end its name in {suffix}")
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out} exists: choose another name, or add --overwrite")
        return out
    name = "-".join(re.findall(r"[a-z0-9]+", prompt.lower()))[:60] or "picture"
    paths = (Path("outputs") / f"{name}-seed{seed}{suffix}.png" for suffix in ("", *(f"-{i}" for i in range(2, 10**6))))
    return next(path for path in paths if not path.exists())


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--size is {text!r}, but must look like 64x64, height first")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    main()
