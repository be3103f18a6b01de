"""How much of what a prompt states is true of the picture: on captioned shapes, exactly, without learned judges.

    python -m metrics.adherence checkpoints/shapes32
    python -m metrics.adherence checkpoints/unified64 --splits test pair --num-prompts 200 --seed 1

For every split: the share of pictures with every stated fact right, that of each kind of fact, and the ceiling, which
is what the image tokenizer alone leaves right of the true pictures.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Measures a checkpoint and writes the figures into docs/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or hub id")
    parser.add_argument("--splits", nargs="+", help="splits of data.shapes (default: test and all held-out ones)")
    parser.add_argument("--num-prompts", type=int, default=1000, help="prompts of each split (default: 1000)")
    parser.add_argument("--world", help="world of data.shapes (default: that of the checkpoint's card)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures that are drawn (default: 0)")
    parser.add_argument("--guidance", type=float, help="default: the checkpoint's recipe")
    parser.add_argument("--insistence", type=float, help="default: the checkpoint's recipe")
    parser.add_argument("--temperature", type=float, help="default: the checkpoint's recipe")
    parser.add_argument("--top-p", type=float, help="default: the checkpoint's recipe")
    parser.add_argument("--min-p", type=float, help="default: the checkpoint's recipe")
    parser.add_argument("--best-of", type=int, help="pictures drawn of each prompt to keep one (default: 1)")
    parser.add_argument("--effort", choices=("full", "auto"), help="auto: fewer than --best-of where it feels sure")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: docs/results/adherence-<checkpoint's name>.json")
    arguments = parser.parse_args()

    from data.shapes.scene import WORLDS
    from data.shapes.splits import SHARES, SPLITS, occurs
    from metrics.models import open_model
    from metrics.record import RESULTS, record

    started = time.perf_counter()
    plantain = open_model(arguments.checkpoint, arguments.device)
    names = ("guidance", "insistence", "temperature", "top_p", "min_p", "best_of", "effort")
    settings = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    world = world_of(parser, arguments.world, plantain.card)
    elsewhere = [split for split in SPLITS if split not in SHARES and occurs(split, WORLDS[world])]
    figures = {}
    for split in arguments.splits or ["test", *elsewhere]:
        figures[split] = measure(plantain, split, arguments.num_prompts, world, arguments.seed, settings)
        print(split, {name: value for name, value in figures[split].items() if name != "facts"}, flush=True)
    name = Path(arguments.checkpoint).name
    # a twin has one recipe, and no best of several
    recipe = plantain.sampling(best_of=arguments.best_of) if arguments.best_of else plantain.recipe
    config = {"checkpoint": arguments.checkpoint, "recipe": asdict(recipe), "settings": settings}
    config |= {"world": world, "num_prompts": arguments.num_prompts, "tokenizer": plantain.image_tokenizer.digest}
    out = arguments.out or RESULTS / f"adherence-{name}.json"
    record(out, figures, arguments.seed, config, time.perf_counter() - started)
    print(f"wrote {out}")


def world_of(parser: argparse.ArgumentParser, named: str | None, card: dict[str, Any]) -> str:
    """The world to judge in: the one named, else that of a model's training, as its run or release wrote it down."""
    from data.shapes.scene import WORLDS

    world = named or card.get("model", card).get("config", {}).get("data", {}).get("world")
    if world not in WORLDS:
        parser.error(f"{world} is no world of data.shapes: give one of {', '.join(WORLDS)} as --world")
    return world


def measure(
    plantain: Any, split: str, num_prompts: int, world: str, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Draws one picture for each of a split's first prompts, of the sizes that the model knows, and judges it.

    Returns:
        adherence: share of pictures with every stated fact right.
        ceiling: the same share for the split's own pictures, encoded and decoded.
        same_scene: share of those whose every object is still recognised where it was, stated or not.
        relative: adherence over ceiling.
        facts: for each kind of fact, the share of the prompts stating it whose picture has it right.
        drawn_a_prompt: pictures drawn to keep one.
    """
    from data.pictures import by_shape, to_images, to_pixels
    from data.shapes.checker import check, parse, same_scene
    from data.shapes.scene import WORLDS
    from data.shapes.source import Shapes, ShapesConfig

    stride = plantain.image_tokenizer.stride
    sizes = tuple((rows * stride, columns * stride) for rows, columns in plantain.grids)
    source = Shapes(ShapesConfig(num_prompts, split=split, image_size=min(sizes[0]), world=world, sizes=sizes))
    examples = [source[index] for index in range(num_prompts)]
    right, ceiling, same = [], [], []
    facts: dict[str, list[bool]] = defaultdict(list)
    num_drawn = 0
    for places in by_shape(example.image for example in examples):
        group = [examples[place] for place in places]
        texts, size = [example.text for example in group], group[0].image.shape[:2]
        drawn = plantain.generate(texts, seed=seed, first=places, size=size, **settings)
        num_drawn += drawn.num_drawn
        for start in range(0, len(group), 64):
            batch = group[start : start + 64]
            images = to_images(np.stack([example.image for example in batch])).to(plantain.device)
            redrawn = to_pixels(plantain.image_tokenizer.decode(plantain.image_tokenizer.encode(images)))
            for example, image, true in zip(batch, drawn.images[start : start + 64], redrawn, strict=True):
                program = example.metadata["program"]
                verdict = check(np.asarray(image), program, WORLDS[world])
                right.append(verdict.ok)
                for name, value in verdict.facts.items():
                    facts[name].append(value)
                ceiling.append(check(true, program, WORLDS[world]).ok)
                same.append(same_scene(parse(true, WORLDS[world]), example.metadata["scene"]))
    return {
        "adherence": float(np.mean(right)),
        "ceiling": float(np.mean(ceiling)),
        "same_scene": float(np.mean(same)),
        "relative": float(np.mean(right) / max(np.mean(ceiling), 1e-9)),
        "facts": {name: {"share": float(np.mean(values)), "stated": len(values)} for name, values in facts.items()},
        "num_prompts": num_prompts,
        "drawn_a_prompt": num_drawn / num_prompts,
    }


if __name__ == "__main__":
    main()
