"""From a study's cells to all the numbers of its report. Nothing is measured here: each number follows from a line."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from statistics import median
from typing import Any

import numpy as np
import torch

from data.sources import SourceConfig, open_source
from metrics.distances import compare, near_copies, spread
from metrics.extractors import features_of
from runtime.config import to_dict
from study.contenders import CONTENDERS, Contender
from study.contests import Study
from study.plan import Contest, name_of
from study.statistics import Interval, front, of_means, of_share

# pictures of the training set among which copies are looked for
_NUM_TRAINING = 5000
DISTANCES = ("frechet", "frechet_limit", "kernel", "precision", "recall", "density", "coverage")


def figures(study: Study) -> dict[str, Any]:
    """All that the report says, in plain values."""
    plan = study.plan
    names = [extractor.name for extractor in study.extractors]
    found: dict[str, Any] = {"plan": to_dict(plan), "digest": study.digest, "extractors": names}
    found["verdict"] = plan.verdict
    found["num_examples"] = {contest.name: len(open_source(contest.data)) for contest in study.contests}
    found["waiting"] = [contest.name for contest in plan.contests if contest not in study.contests]
    only = f" --contests {' '.join(contest.name for contest in study.contests)}" if found["waiting"] else ""
    found["command"] = f"python -m study configs/study/{study.folder.name}.yaml{only}"
    found["seed"] = list(plan.contests[0].seeds)
    found["cells"] = [study.read(cell.name)[0] for cell in study.cells]
    found["commit"] = ", ".join(sorted({cell["commit"] for cell in found["cells"]}))
    found["machine"] = found["cells"][-1]["machine"]
    found["truth"] = {name_of(test): _truth(study, test) for test in plan.tests}
    found["match"] = {contest.name: study.read(f"match.{contest.name}")[1] for contest in study.contests}
    found["tuning"] = {
        contest.name: {contender.name: _tuning(study, contest, contender) for contender in CONTENDERS}
        for contest in study.contests
    }
    found["curves"] = {
        contest.name: {contender.name: _curves(study, contest, contender) for contender in CONTENDERS}
        for contest in study.contests
    }
    found["quality"] = [
        _quality(study, contest, contender, test, way)
        for contest in study.contests
        for contender in CONTENDERS
        for test, way in study.drawn(contest, contender, contest.seeds[0])
        if way != "repeated"
    ]
    found["variety"] = {contender.name: _variety(study, contender) for contender in CONTENDERS}
    found["cost"] = _cost(study)
    found["fronts"] = {price: _front(found, price) for price in ("flops", "passes", "latency")}
    # Two figures of the first contest are what the study is about: each is given half of the doubt (Bonferroni).
    main, *others = study.contests
    found["differences"] = _differences(study, main, found["quality"], 1 - (1 - plan.confidence) / 2)
    found["elsewhere"] = {
        contest.name: _differences(study, contest, found["quality"], plan.confidence) for contest in others
    }
    found["conclusion"] = conclude(found)
    return found


def conclude(found: dict[str, Any]) -> list[str]:
    """What the intervals say, in plain words."""
    sentences = list(_compared(found["differences"], found["verdict"]))
    ours, theirs = _row(found["cost"], "autoregression", "sequential"), _row(found["cost"], "diffusion", "best")
    sentences.append(
        f"A picture takes diffusion {theirs['flops'] / ours['flops']:.1f} times the operations of autoregression and "
        f"{theirs['passes']:.0f} forward passes in place of {ours['passes']:.0f}."
    )
    fastest = min((_row(found["cost"], "autoregression", way) for way in ("sequential", "jacobi")), key=_latency)
    sentences.append(
        f"Alone, a picture takes diffusion {_latency(theirs) / _latency(fastest):.2f} times as long as autoregression, "
        f"decoded by way of {fastest['way']}."
    )
    sizes = sorted({row["batch_size"] for row in found["cost"]})
    many = [row for row in found["cost"] if row["batch_size"] == sizes[-1]]
    left = min((row for row in many if row["contender"] == "autoregression"), key=_latency)
    right = next(row for row in many if row["contender"] == "diffusion" and row["way"] == "best")
    sentences.append(
        f"{sizes[-1]} at once take diffusion {_latency(right) / _latency(left):.2f} times as long as autoregression "
        f"({left['way']})."
    )
    for contest, differences in found["elsewhere"].items():
        sentences += _compared(differences, found["verdict"], f" in {contest}")
    return sentences


def _compared(differences: dict[str, Any], verdict: str, where: str = "") -> Iterator[str]:
    """What the differences of a contest say, a sentence each."""
    for name, words, better in (("adherence", verdict, 1), ("frechet", "Frechet distance", -1)):
        scale, unit = (100, " points") if name == "adherence" else (1, "")
        value, low, high = (scale * round(number, 9) for number in differences[name])  # equal means differ in last bits
        difference = f"autoregression minus diffusion: {value:+.3g}{unit}"
        if math.isinf(low):
            yield f"{words.capitalize()}{where}: one training each shows no difference ({difference})."
            continue
        interval = f"{differences['confidence']:.1%} interval {low:+.3g} to {high:+.3g}"
        if low <= 0 <= high:
            yield f"{words.capitalize()}{where}: no difference shown ({difference}, {interval})."
        else:
            winner = "Autoregression" if value * better > 0 else "Diffusion"
            yield f"{winner} has the better {words}{where} ({difference}, {interval})."


def _truth(study: Study, test: SourceConfig) -> dict[str, Any]:
    """What true pictures come to: through the image tokenizer, and one half of them beside the other."""
    _, lines = study.read(f"truth.{name_of(test)}")
    half = len(lines) // 2
    source, pixels = open_source(test), _true_pixels(test)
    redrawn = study.paint(torch.tensor([line["codes"] for line in lines[:half]]))
    return {
        "num_pictures": half,
        "right": {
            "reconstructions": _mean([line["ok"] for line in lines[:half]]),
            "true pictures": _mean([study.verdict(source, place, pixels[place])["ok"] for place in range(half)]),
        },
        "copied": float(np.mean([line["copied"] for line in lines])),
        "reconstructions": _distances(study, test, redrawn),
        "true pictures": _distances(study, test, pixels[half : 2 * half]),
    }


def _tuning(study: Study, contest: Contest, contender: Contender) -> dict[str, Any]:
    _, lines = study.read(f"tune.{contest.name}.{contender.name}")
    tried = [{"settings": line["settings"], "score": line["score"]} for line in lines]
    return {"tried": tried, "chosen": to_dict(study.chosen(contest, contender)), "num_pictures": len(lines[0]["ok"])}


def _curves(study: Study, contest: Contest, contender: Contender) -> dict[str, list[dict[str, Any]]]:
    return {str(seed): study.read(f"train.{contest.name}.{contender.name}.{seed}")[1] for seed in contest.seeds}


def _quality(study: Study, contest: Contest, contender: Contender, test: SourceConfig, way: str) -> dict[str, Any]:
    """Figures of one way to draw: of each seed's model, and over all of them."""
    seeds = [
        seed for seed in contest.seeds if any(drawn == (test, way) for drawn in study.drawn(contest, contender, seed))
    ]
    each, learned, true = [], _training_features(study, contest), _true_features(study, test)[-1]
    for seed in seeds:
        _, lines = study.read(study.drawing(contest, contender, seed, test, way))
        pixels = study.paint(torch.tensor([line["codes"] for line in lines]))
        right = [line["ok"] for line in lines]
        stated = sorted({name for line in lines for name in line["facts"]})
        facts = {name: _mean([line["facts"][name] for line in lines if name in line["facts"]]) for name in stated}
        each.append(
            {
                "seed": seed,
                "adherence": _mean(right),
                "adherence_interval": list(_share(right, study)),
                "facts": facts,
                "copied": _mean([line["copied"] for line in lines]),
                "near_copies": near_copies(_main(study, pixels), learned, true),
                "distances": _distances(study, test, pixels),
            }
        )
    names = {"contest": contest.name, "contender": contender.name, "test": name_of(test), "way": way}
    adherence = list(of_means([one["adherence"] for one in each], study.plan.confidence, (0.0, 1.0)))
    distances = {
        extractor: {
            name: list(_means([one["distances"][extractor][name] for one in each], study)) for name in DISTANCES
        }
        for extractor in each[0]["distances"]
    }
    return {**names, "seeds": each, "adherence": adherence, "distances": distances}


def _variety(study: Study, contender: Contender) -> dict[str, float]:
    """How much pictures of one prompt differ, as a share of how much those of different prompts do."""
    contest, test = study.plan.contests[0], study.plan.tests[0]
    spreads = []
    for seed in contest.seeds:
        _, lines = study.read(study.drawing(contest, contender, seed, test, "repeated"))
        features = _main(study, study.paint(torch.tensor([line["codes"] for line in lines])))
        spreads.append(spread(features.view(-1, study.plan.num_images, features.shape[-1])))
    value, low, high = _means(spreads, study)
    return {"value": value, "low": low, "high": high}


def _cost(study: Study) -> list[dict[str, Any]]:
    """Every way to draw, with quantiles of its time over the median of sequential decoding of one picture."""
    _, lines = study.read("cost")
    unit = median(_row(lines, "autoregression", "sequential", min(study.plan.batch_sizes))["seconds"])
    return [
        line
        | {
            "median": median(line["seconds"]) / unit,
            "p95": float(np.quantile(line["seconds"], 0.95)) / unit,
            "pictures_a_unit": line["batch_size"] * unit / median(line["seconds"]),
            "unit_seconds": unit,
        }
        for line in lines
    ]


def _front(found: dict[str, Any], price: str) -> list[dict[str, Any]]:
    """The price of each way to draw, and how good the first seed's pictures of the first test are; `on_front_of` holds
    the figures in which none surpasses them."""
    contest, test = found["plan"]["contests"][0]["name"], found["quality"][0]["test"]
    smallest = min(row["batch_size"] for row in found["cost"])
    points = []
    for row in found["cost"]:
        if row["batch_size"] != smallest:
            continue
        way = "best" if row["contender"] == "autoregression" else row["way"]
        names = {"contest": contest, "contender": row["contender"], "test": test, "way": way}
        (quality,) = (one for one in found["quality"] if names.items() <= one.items())
        paid = row["median"] if price == "latency" else row[price]
        seed, extractor = quality["seeds"][0], found["extractors"][-1]
        point = {"contender": row["contender"], "way": row["way"], "price": paid}
        points.append(point | {"adherence": seed["adherence"], "frechet": seed["distances"][extractor]["frechet"]})
    kept = {
        quality: front([(point["price"], better * point[quality]) for point in points])
        for quality, better in (("adherence", 1), ("frechet", -1))
    }
    return [
        point | {"on_front_of": [quality for quality in kept if place in kept[quality]]}
        for place, point in enumerate(points)
    ]


def _differences(study: Study, contest: Contest, quality: list[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Autoregression minus diffusion, seed by seed, in both figures that the study is about."""
    test, main = study.plan.tests[0], study.extractors[-1].name
    found: dict[str, Any] = {"confidence": confidence}
    for name in ("adherence", "frechet"):
        sides = []
        for contender in CONTENDERS:
            names = {"contest": contest.name, "contender": contender.name, "test": name_of(test), "way": "best"}
            (row,) = (one for one in quality if names.items() <= one.items())
            each = row["seeds"]
            sides.append([one[name] if name == "adherence" else one["distances"][main][name] for one in each])
        found[name] = list(of_means([left - right for left, right in zip(*sides, strict=True)], confidence))
    return found


def _distances(study: Study, test: SourceConfig, pixels: np.ndarray) -> dict[str, dict[str, float]]:
    """Of pictures to the drawn half of a test, by every extractor."""
    pairs = zip(study.extractors, _true_features(study, test), strict=True)
    return {extractor.name: compare(features_of(extractor, pixels), true) for extractor, true in pairs}


def _main(study: Study, pixels: np.ndarray) -> torch.Tensor:
    return features_of(study.extractors[-1], pixels)


@cache
def _true_pixels(test: SourceConfig) -> np.ndarray:
    source = open_source(test)
    return np.stack([source[index].image for index in range(len(source))])


@cache
def _true_features(study: Study, test: SourceConfig) -> tuple[torch.Tensor, ...]:
    """Of the drawn half of a test, by every extractor."""
    pixels = _true_pixels(test)
    return tuple(features_of(extractor, pixels[: len(pixels) // 2]) for extractor in study.extractors)


@cache
def _training_features(study: Study, contest: Contest) -> torch.Tensor:
    source = open_source(contest.data)
    return _main(study, np.stack([source[index].image for index in range(min(len(source), _NUM_TRAINING))]))


def _share(right: Sequence[bool], study: Study) -> Interval:
    return of_share(sum(right), len(right), study.plan.confidence)


def _means(values: Sequence[float], study: Study) -> Interval:
    return of_means(values, study.plan.confidence)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _row(rows: Sequence[dict[str, Any]], contender: str, way: str, batch_size: int | None = None) -> dict[str, Any]:
    smallest = min(row["batch_size"] for row in rows) if batch_size is None else batch_size
    return next(row for row in rows if (row["contender"], row["way"], row["batch_size"]) == (contender, way, smallest))


def _latency(row: dict[str, Any]) -> float:
    return row["median"]
