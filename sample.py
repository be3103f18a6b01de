"""Draw pictures of prompts with a trained checkpoint.

python sample.py "a small red circle and a large blue square on a white background"
python sample.py "two green squares" "a cyan cross above a red circle" -n 4 --seed 7 --out outputs/mine.png
"""

import argparse
import re
from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoints" / "shapes32"
# What this model does well: objects and their attributes. metrics/adherence.py asks for what it does badly too.
DEMO = (
    "a large red circle on a white background",
    "a small blue square and a large green triangle on a black background",
    "two small yellow squares on a gray background",
    "a large magenta cross and a small yellow circle on a gray background",
    "two large blue circles on a white background",
    "a small green cross on a black background",
    "a large cyan triangle and a large red square on a gray background",
    "a large blue square above a small magenta triangle on a black background",
    "a small red square below a green triangle on a white background",
)


def main() -> None:
    """Parses the command line, draws, writes one PNG and prints its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw")
    parser.add_argument("--demo", action="store_true", help="draw the demonstration's prompts into outputs/demo.png")
    parser.add_argument("--checkpoint", default=str(CHECKPOINT), help="folder or hub id (default: the one shipped)")
    parser.add_argument("-n", "--num-images", type=int, default=1, help="pictures of each prompt (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="chooses among all pictures of a prompt (default: 0)")
    parser.add_argument("--guidance", type=float, help="how much the prompt is insisted on (default: as trained)")
    parser.add_argument("--guidance-until", type=float, help="share of the codes that are guided (default: as trained)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest codes (default: as trained)")
    parser.add_argument("--top-k", type=int, help="draw among the k likeliest codes; 0: all (default: as trained)")
    parser.add_argument("--top-p", type=float, help="draw among the likeliest codes that hold this probability")
    parser.add_argument("--min-p", type=float, help="draw among codes at least this share as likely as the likeliest")
    parser.add_argument("--size", help="HEIGHTxWIDTH in pixels, one that was trained (default: the first)")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures drawn at once (default: 64)")
    parser.add_argument(
        "--decoding",
        choices=("sequential", "jacobi"),
        default="jacobi",
        help="jacobi draws the same pictures as sequential, in fewer passes (default: jacobi)",
    )
    parser.add_argument("--compile", action="store_true", help="compile first: wait a minute, then draw sooner")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: the best there is)")
    parser.add_argument("--scale", type=int, help="enlargement of each pixel in the PNG (default: to about 256)")
    parser.add_argument("--out", type=Path, help="the PNG to write (default: a new file in outputs/)")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    arguments = parser.parse_args()
    prompts = arguments.prompts or (list(DEMO) if arguments.demo else [])
    if not prompts:
        parser.error('say what to draw, such as: python sample.py "two red circles"; or --demo')
    if arguments.demo:
        arguments.out, arguments.overwrite = arguments.out or Path("outputs/demo.png"), True
    try:
        out = _free_path(arguments.out, prompts[0], arguments.seed, arguments.overwrite)
        size = _parse_size(arguments.size)

        # Heavy imports come after all that can be refused without them.
        from tqdm import tqdm

        from data.pictures import save_sheet
        from model import Plantain

        plantain = Plantain.from_pretrained(arguments.checkpoint, arguments.device)
        if arguments.compile:
            plantain.compile()
        with tqdm(unit="code", desc="drawing") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            names = ("num_images", "seed", "guidance", "guidance_until", "temperature", "top_k", "top_p", "min_p")
            settings = {name: getattr(arguments, name) for name in (*names, "batch_size", "decoding")}
            result = plantain.generate(prompts, size=size, progress=progress, **settings)
        labels = [str(prompt) for prompt in result.prompts] if len(result.images) > 1 else []
        facts = {"prompt": "\n".join(prompts), "seed": str(arguments.seed), "num_images": str(arguments.num_images)}
        facts |= {name: str(value) for name, value in vars(result.sampling).items()}
        scale = max(1, 256 // result.images[0].width) if arguments.scale is None else arguments.scale
        save_sheet(out, result.images, labels, scale, facts | {"checkpoint": str(arguments.checkpoint)})
    except (ValueError, OSError, MemoryError) as error:
        parser.exit(2, f"sample.py: {error}\n")
    print(f"{out}  ({len(result.images)} pictures in {result.seconds:.1f} s)")


def _free_path(out: Path | None, prompt: str, seed: int, overwrite: bool) -> Path:
    """The path asked for, or one in outputs/ that nothing holds yet."""
    if out is not None:
        if out.suffix.lower() != ".png":
            raise ValueError(f"--out is {out}, but pictures are written as PNG: end its name in .png")
        if out.exists() and not overwrite:
            raise FileExistsError(f"{out} exists: choose another --out, or add --overwrite")
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
