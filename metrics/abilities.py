"""What a model of one stream can do, judged exactly on captioned shapes: edit, describe, answer, fill holes, converse.

    python -m metrics.abilities checkpoints/unified64
    python -m metrics.abilities checkpoints/unified64 --splits val --num-cases 200 --abilities edit ask
    python -m metrics.abilities checkpoints/unified64 --abilities describe --best-of 4
    python -m metrics.abilities checkpoints/unified64 --abilities inpaint dialogue --best-of 8 --effort auto

What it draws of prompts is judged by metrics.adherence. The pictures that it reads here are true ones, passed through
its image tokenizer; a dialogue goes on with what it drew itself. Each ability's share counts only what is wholly right.
Of the split `relation` no edits are judged: none states one.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ABILITIES = ("describe", "ask", "edit", "inpaint", "dialogue")
SEVERAL = ("describe", "inpaint", "dialogue")  # what is said, or drawn of words, may be the best of several


def main() -> None:
    """Measures a checkpoint and writes the figures into docs/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or hub id")
    parser.add_argument("--splits", nargs="+", default=["test"], help="splits of data.shapes (default: test)")
    parser.add_argument("--abilities", nargs="+", choices=ABILITIES, default=ABILITIES)
    parser.add_argument("--num-cases", type=int, default=1000, help="cases of each ability and split (default: 1000)")
    parser.add_argument("--world", help="world of data.shapes (default: that of the checkpoint's card)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--guidance", type=float, help="default: the checkpoint's recipe")
    parser.add_argument("--temperature", type=float, help="default: the checkpoint's recipe")
    parser.add_argument("--image-guidance", type=float, default=1.0, help="of edits (default: 1, for none)")
    parser.add_argument("--best-of", type=int, default=1, help="descriptions, or pictures of words, to keep one")
    parser.add_argument(
        "--effort", choices=("full", "auto"), default="full", help="of drawing, see `Plantain.generate`"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: docs/results/abilities-<checkpoint's name>.json")
    arguments = parser.parse_args()
    if "relation" in arguments.splits and set(arguments.abilities) == {"edit"}:
        parser.error("no edit states a relation: judge another ability on the split 'relation'")

    from dataclasses import asdict

    from metrics.adherence import world_of
    from metrics.record import RESULTS, record
    from model import Plantain

    started = time.perf_counter()
    plantain = Plantain.from_pretrained(arguments.checkpoint, arguments.device)
    names = ("guidance", "temperature")
    settings = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    world = world_of(parser, arguments.world, plantain.card)
    config = {"checkpoint": arguments.checkpoint, "recipe": asdict(plantain.recipe)}
    config |= {"editing": asdict(plantain.sampling("edit")), "inpainting": asdict(plantain.sampling("inpaint"))}
    config |= {"choosing": asdict(plantain.sampling(best_of=2)), "settings": settings}
    config |= {"image_guidance": arguments.image_guidance, "num_cases": arguments.num_cases, "world": world}
    if arguments.best_of > 1:
        config["settings"] = settings | {"best_of": arguments.best_of, "effort": arguments.effort}
    out = arguments.out or RESULTS / f"abilities-{Path(arguments.checkpoint).name}.json"
    figures: dict[str, Any] = {}
    for split in arguments.splits:
        cases = Cases(plantain, split, arguments.num_cases, world)
        figures[split] = {}
        for name in arguments.abilities:
            if name == "edit" and not cases.edits:
                continue
            extra = {"image_guidance": arguments.image_guidance} if name == "edit" else {}
            extra |= {"best_of": arguments.best_of, "effort": arguments.effort} if name in SEVERAL else {}
            figures[split][name] = JUDGES[name](plantain, cases, arguments.seed, settings | extra)
            print(split, name, figures[split][name], flush=True)
            record(out, figures, arguments.seed, config, time.perf_counter() - started)  # a later one may take an hour
    print(f"wrote {out}")


class Cases:
    """A split's examples in all sizes of a model, with what is asked of them; `edits` is empty where it has none."""

    def __init__(self, plantain: Any, split: str, number: int, world: str) -> None:
        from PIL import Image

        from data.shapes.scene import WORLDS
        from data.shapes.source import Shapes, ShapesConfig
        from data.shapes.splits import COMBINATIONS

        stride = plantain.image_tokenizer.stride
        sizes = tuple((rows * stride, columns * stride) for rows, columns in plantain.grids)
        config = ShapesConfig(number, split, min(sizes[0]), world, sizes=sizes, num_questions=1)

        def drawn(edits: bool) -> list[Any]:
            source = Shapes(replace(config, edits=edits))
            return [source[index] for index in range(number)]

        self.world = WORLDS[world]
        self.edits = drawn(edits=True) if split != "relation" else []
        # an edit leads to a combination that is held out, from a picture without one: all else is asked of others
        self.examples = drawn(edits=False) if split in COMBINATIONS or not self.edits else self.edits
        self.pictures = [Image.fromarray(example.image) for example in self.examples]
        self.scenes = [example.metadata["scene"] for example in self.examples]


def _describe(plantain: Any, cases: Cases, seed: int, settings: dict[str, Any]) -> dict[str, float]:
    """Share of descriptions that say nothing wrong and name every object."""
    from data.shapes.captions import check_caption

    texts = plantain.describe(cases.pictures, seed, best_of=settings.get("best_of", 1))
    return {"right": _share(check_caption(text, scene).ok for text, scene in zip(texts, cases.scenes, strict=True))}


def _ask(plantain: Any, cases: Cases, seed: int, settings: dict[str, float]) -> dict[str, float]:
    """Share of right answers; and `chance`, that of always giving a sort of question its most frequent answer here."""
    from data.shapes.questions import parse_question

    asked, true = zip(*(example.questions[0] for example in cases.examples), strict=True)
    answers = plantain.ask(cases.pictures, asked, seed)
    sorts: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for question, said, answer in zip(asked, answers, true, strict=True):
        sorts[type(parse_question(question)).__name__].append((answer, said == answer))
    guessed = sum(max(Counter(answer for answer, _ in given).values()) for given in sorts.values())
    by_sort = {name: _share(right for _, right in given) for name, given in sorted(sorts.items())}
    right = _share(right for given in sorts.values() for _, right in given)
    return {"right": right, "chance": guessed / len(asked), **by_sort}


def _edit(plantain: Any, cases: Cases, seed: int, settings: dict[str, float]) -> dict[str, float]:
    """Share of edits that are done and keep everything else; and of each by itself."""
    from PIL import Image

    from data.shapes.edits import check_edit

    pictures = [Image.fromarray(example.image) for example in cases.edits]
    drawn = plantain.edit(pictures, [example.edit.instruction for example in cases.edits], seed=seed, **settings)
    verdicts = [
        check_edit(np.asarray(image), example.metadata["scene"], example.metadata["change"], cases.world)
        for image, example in zip(drawn.images, cases.edits, strict=True)
    ]
    sorts = defaultdict(list)
    for verdict, example in zip(verdicts, cases.edits, strict=True):
        sorts[type(example.metadata["change"]).__name__].append(verdict.ok)
    return {
        "right": _share(verdict.ok for verdict in verdicts),
        "done": _share(verdict.done for verdict in verdicts),
        "preserved": _share(verdict.preserved for verdict in verdicts),
        **{name: _share(given) for name, given in sorted(sorts.items())},
    }


def _inpaint(plantain: Any, cases: Cases, seed: int, settings: dict[str, Any]) -> dict[str, float]:
    """Share of filled pictures of which the whole caption is true, and of those whose known codes are as they were."""
    from PIL import Image

    from data.shapes.checker import check

    masks, kept = [], []
    for index, picture in enumerate(cases.pictures):
        rng = np.random.default_rng((seed, index))
        height, width = picture.height, picture.width
        top, left = rng.integers(0, height // 2, endpoint=True), rng.integers(0, width // 2, endpoint=True)
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + height // 2, left : left + width // 2] = 255
        masks.append(Image.fromarray(mask))
    prompts = [example.text for example in cases.examples]
    drawn = plantain.inpaint(cases.pictures, masks, prompts, seed=seed, **settings)
    stride = plantain.image_tokenizer.stride
    for picture, mask, codes in zip(cases.pictures, masks, drawn.codes, strict=True):
        grid = np.asarray(mask).reshape(codes.shape[0], stride, codes.shape[1], stride)
        known = ~(grid > 127).any((1, 3))
        kept.append((plantain.look(picture)[known] == codes[known]).all())
    verdicts = [
        check(np.asarray(image), example.metadata["program"], cases.world).ok
        for image, example in zip(drawn.images, cases.examples, strict=True)
    ]
    drawn_a_case = drawn.num_drawn / len(verdicts)
    return {"right": _share(verdicts), "known_codes_kept": _share(kept), "drawn_a_case": drawn_a_case}


def _dialogue(plantain: Any, cases: Cases, seed: int, settings: dict[str, Any]) -> dict[str, float]:
    """Share of dialogues of which all three turns are right: draw, edit what was drawn, answer about the result.

    What is asked in the second and third turn is drawn from what the picture before shows, as a user would ask it.
    """
    from data.shapes.checker import check, parse
    from data.shapes.edits import check_edit, sample_edit, write_edit
    from data.shapes.questions import sample_questions, write_question
    from model.best import draw_best
    from model.drawing import Generation
    from model.reading import write
    from model.request import ImageRequest, guides_of, insisting
    from model.sampling import SamplingConfig
    from model.write import TextRequest
    from tasks.conversation import again, line
    from tokenizer.sequence import ImageSegment

    encode, count = plantain.text_tokenizer.encode, len(cases.examples)
    settings = dict(settings)
    effort = settings.pop("best_of", 1), settings.pop("effort", "full")
    grids = [plantain.grid_of(example.image.shape[:2]) for example in cases.examples]
    said = [example.text for example in cases.examples]
    talks: list[list[Any]] = [[line(text, encode)] for text in said]

    def drawn_next(numbers: Sequence[int], effort: tuple[int, Any] = (1, "full")) -> Generation:
        requests = []
        for number in numbers:
            *past, _ = talks[number]
            talks[number] = again(talks[number])
            before = [segment for segment in talks[number] if isinstance(segment, ImageSegment)]
            sampling = plantain.sampling("edit" if before else "text_to_image", effort[0], **settings)
            guides = guides_of(sampling.guidance, without=before)
            short = plantain.shortened(said[number], sampling)
            guides += insisting(sampling, [again([*past, line(less, encode)]) for less in short])
            requests.append(ImageRequest(talks[number], grids[number], sampling, seed, number, guides))
        drawn = draw_best(plantain, requests, [cases.examples[number].text for number in numbers], *effort)
        for number, codes in zip(numbers, drawn.codes, strict=True):
            talks[number] = [*talks[number], ImageSegment(codes)]
        return drawn

    first = drawn_next(range(count), effort)
    live, scenes, changes = [], {}, {}
    for number, (picture, example) in enumerate(zip(first.images, cases.examples, strict=True)):
        rng, image = np.random.default_rng((seed, number)), np.asarray(picture)
        if not check(image, example.metadata["program"], cases.world).ok:
            continue
        scene = parse(image, cases.world).scene
        if (found := sample_edit(rng, scene, cases.world)) is not None:
            live.append(number)
            scenes[number], changes[number] = scene, found[0]
            said[number] = write_edit(rng, found[0])
            talks[number] = [*talks[number], line(said[number], encode)]
    drawn_right = len(live)
    answers = {}
    for number, picture in zip(live.copy(), drawn_next(live).images if live else [], strict=True):
        verdict = check_edit(np.asarray(picture), scenes[number], changes[number], cases.world)
        rng = np.random.default_rng((seed, number, 1))
        if not verdict.ok:
            live.remove(number)
            continue
        ((question, answer),) = sample_questions(rng, verdict.scene, cases.world)
        talks[number] = [*talks[number], line(write_question(rng, question), encode)]
        answers[number] = answer
    requests = [TextRequest(talks[number], SamplingConfig(temperature=0.0), seed, number) for number in live]
    said = [written.text for written in write(plantain, requests)] if live else []
    right = sum(text == answers[number] for text, number in zip(said, live, strict=True))
    shares = {"right": right / count, "first_turn": drawn_right / count, "first_two": len(live) / count}
    return shares | {"drawn_a_case": first.num_drawn / count}


def _share(verdicts: Any) -> float:
    return float(np.mean(list(verdicts)))


JUDGES: dict[str, Callable[..., dict[str, float]]] = {
    "describe": _describe,
    "ask": _ask,
    "edit": _edit,
    "inpaint": _inpaint,
    "dialogue": _dialogue,
}


if __name__ == "__main__":
    main()
