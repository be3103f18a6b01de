"""How much a model's pictures, as a set, are like true ones.

    python -m metrics checkpoints/shapes32
    python -m metrics runs/cifar10/model/checkpoint --npz outputs/cifar10.npz \\
        --extractors random classifier=runs/cifar10/classifier/checkpoint

Pictures are drawn for the captions of as many held-out examples and set beside these examples. The same figures of
the image tokenizer's reconstructions are the ceiling, and those of as many other true pictures what a perfect model
would reach. None of them is FID but that of Inception's features of 50,000 pictures or more.

An extractor whose weights are not there is left out, with a word on what is expected where. Several processes share the
drawing when they are started by `accelerate launch -m metrics ...`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np


def main() -> None:
    """Measures a checkpoint and writes the figures into docs/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or hub id")
    parser.add_argument("--num-samples", type=int, default=1000, help="pictures to draw, at least 50 (default: 1000)")
    parser.add_argument("--split", default="test", help="of data.shapes, for models of shapes (default: test)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures that are drawn (default: 0)")
    parser.add_argument(
        "--extractors",
        nargs="+",
        default=["random"],
        help="random, and inception, clip, dinov2 or classifier with =PATH (default: random)",
    )
    parser.add_argument("--npz", type=Path, help="also writes the samples here, as evaluators of others read them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: docs/results/fidelity-<checkpoint's name>.json")
    arguments = parser.parse_args()

    from metrics.extractors import open_extractor
    from metrics.models import drawn, open_model
    from metrics.record import RESULTS, record

    started = time.perf_counter()
    if arguments.num_samples < 50:
        parser.error(f"--num-samples is {arguments.num_samples}: fewer than 50 pictures say nothing of a set")
    model = open_model(arguments.checkpoint, arguments.device)
    extractors = []
    for description in arguments.extractors:
        try:
            extractors.append(open_extractor(description, model.device))
        except (FileNotFoundError, ModuleNotFoundError) as error:
            print(f"left out {description}: {error}")
        except ValueError as error:
            parser.error(str(error))
    if not extractors:
        parser.error("no extractor is left: `random` needs no weights")
    try:
        prompts, reference, others = held_out(model, arguments.num_samples, arguments.split)
    except ValueError as error:
        parser.error(str(error))
    size = (reference.shape[1], reference.shape[2])
    samples = drawn(model, prompts, arguments.seed, size)
    if samples is None:
        return
    if arguments.npz is not None:
        save_npz(arguments.npz, samples)
    redrawn = reconstructions(model, reference)
    training = learned_from(model, size)
    figures: dict[str, Any] = {"num_samples": len(samples), "reconstruction": likeness(redrawn, reference)}
    figures["extractors"] = {}
    for extractor in extractors:
        judged = judge(extractor, reference, samples, redrawn, others, prompts, training)
        figures["extractors"][extractor.name] = judged
        for name, values in judged.items():
            print(extractor.name, name, values)
    config = {"checkpoint": arguments.checkpoint, "num_samples": len(samples), "split": arguments.split, "size": size}
    out = arguments.out or RESULTS / f"fidelity-{Path(arguments.checkpoint).name}.json"
    record(out, figures, arguments.seed, config, time.perf_counter() - started)
    print(f"wrote {out}")


def held_out(plantain: Any, count: int, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Captions and pictures of `count` held-out examples, and as many further pictures; all of one size.

    Raises:
        ValueError: The checkpoint's card does not say what it was validated on, or that has too few examples.
    """
    from data.shapes.source import ShapesConfig
    from data.sources import SourceConfig, open_source
    from runtime.config import from_dict

    card = plantain.card.get("model", plantain.card).get("config", {})
    if "validation" not in card:
        raise ValueError("the checkpoint's card does not say what it was validated on: train it with train.py")
    config: Any = from_dict(get_args(SourceConfig), card["validation"])
    if isinstance(config, ShapesConfig):
        config = replace(config, num_examples=2 * count, split=split, sizes=(), num_questions=0, edits=False)
    source = open_source(config)
    if len(source) < 2 * count:
        raise ValueError(f"{len(source)} held-out examples are too few for {count} samples and a floor: ask for fewer")
    examples = [source[index] for index in range(2 * count)]
    pixels = np.stack([example.image for example in examples])
    return [example.captions[0] for example in examples[:count]], pixels[:count], pixels[count:]


def learned_from(model: Any, size: tuple[int, int], most: int = 5000) -> np.ndarray | None:
    """The first `most` pictures of training that are of a size (height, width); None where they are not here."""
    from data.sources import SourceConfig, open_source
    from runtime.config import from_dict

    card = model.card.get("model", model.card).get("config", {})
    try:
        config: Any = from_dict(get_args(SourceConfig), card["data"])
        source = open_source(config)
    except (KeyError, OSError, ValueError) as error:
        print(f"near copies are not looked for: the pictures of training are not to be had ({error})")
        return None
    pixels = [source[index].image for index in range(min(most, len(source)))]
    return np.stack([image for image in pixels if image.shape[:2] == size])


def likeness(redrawn: np.ndarray, pixels: np.ndarray) -> dict[str, float]:
    """How near pictures, uint8 (n, H, W, 3), are to others, one by one: PSNR in dB and SSIM, on average."""
    from data.pictures import to_images
    from tokenizer.quality import psnr, ssim

    left, right = to_images(redrawn), to_images(pixels)
    return {"psnr": float(psnr(left, right).mean()), "ssim": float(ssim(left, right).mean())}


def reconstructions(plantain: Any, pixels: np.ndarray, batch_size: int = 100) -> np.ndarray:
    """What the image tokenizer makes of pictures, uint8 (n, H, W, 3)."""
    from data.pictures import to_images, to_pixels

    tokenizer, parts = plantain.image_tokenizer, []
    for start in range(0, len(pixels), batch_size):
        images = to_images(pixels[start : start + batch_size]).to(plantain.device)
        parts.append(to_pixels(tokenizer.decode(tokenizer.encode(images))))
    return np.concatenate(parts)


def judge(
    extractor: Any,
    reference: np.ndarray,
    samples: np.ndarray,
    redrawn: np.ndarray,
    others: np.ndarray,
    prompts: Sequence[str] = (),
    training: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """All figures of samples, of reconstructions and of other true pictures against a reference.

    Args:
        extractor: See metrics.extractors. What it knows beside features is asked too: classes, or how captions fit.
        reference, samples, redrawn, others: uint8 (n, H, W, 3), as many of each.
        prompts: Of the samples, and captions of the reference.
        training: Pictures that the model learned from, among which near copies are looked for.
    """
    import warnings

    from metrics.distances import compare, inception_score, near_copies
    from metrics.extractors import features_of

    true = features_of(extractor, reference)
    learned = None if training is None else features_of(extractor, training)
    if len(true) < true.shape[1]:
        warnings.warn(
            f"{len(true)} pictures are fewer than the {true.shape[1]} features of {extractor.name}: read its distances "
            "beside those of other true pictures, which are far from 0 too",
            stacklevel=2,
        )
    sets = {}
    for name, pixels in (("samples", samples), ("reconstructions", redrawn), ("true pictures", others)):
        found = features_of(extractor, pixels)
        sets[name] = compare(found, true)
        if learned is not None:
            sets[name]["near_copies"] = near_copies(found, learned, true)
        if hasattr(extractor, "log_probabilities"):
            sets[name]["class_score"], sets[name]["class_score_error"] = inception_score(
                extractor.log_probabilities(found)
            )
        if hasattr(extractor, "score") and prompts and name != "true pictures":
            sets[name]["caption_score"] = extractor.score(pixels, prompts)
    return sets


def save_npz(path: Path, samples: Sequence[np.ndarray] | np.ndarray) -> None:
    """Writes `arr_0`, uint8 (n, H, W, 3), the layout that the evaluator of guided diffusion reads."""
    from runtime.checkpoint import write_atomic

    def write(beside: Path) -> None:
        with beside.open("wb") as file:  # given a name, numpy would add another ending to it
            np.savez(file, arr_0=np.asarray(samples))

    write_atomic(path, write)


if __name__ == "__main__":
    main()
