"""The report of a study: one HTML file that needs no other, the same in Markdown, and all numbers as JSON."""

import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.checkpoint import write_atomic
from study.contenders import CONTENDERS
from study.contests import Study
from study.figures import figures
from study.plan import name_of
from study.render import Figure, Part, Table, as_html, as_markdown, as_svg, canvas

_COLOURS = {"autoregression": "#c2571a", "diffusion": "#2a6f97"}
_SHOWN = 8  # prompts whose pictures are shown side by side


def write(study: Study, docs: Path | None = None) -> list[Path]:
    """Computes the report and writes it into the study's folder.

    Args:
        study: All of whose cells are done.
        docs: A Markdown file that is to have the report too; the figures go to a folder of its name beside it, and the
            numbers to `results`.

    Raises:
        FileNotFoundError: A cell is not done.
    """
    found = figures(study)
    parts = list(_parts(study, found))
    numbers = json.dumps(_plain(found), indent=1, allow_nan=False) + "\n"
    files = {
        study.folder / "report.json": numbers.encode(),
        study.folder / "report.html": as_html(study.plan.question, parts).encode(),
        study.folder / "report.md": as_markdown(parts).encode(),
    }
    drawn = [part for part in parts if isinstance(part, Figure)]
    files |= {study.folder / figure.name: figure.content for figure in drawn}
    if docs is not None:
        files[docs] = as_markdown(parts, f"{docs.stem}/").encode()
        files[docs.parent / "results" / f"study-{study.folder.name}.json"] = numbers.encode()
        files |= {docs.with_suffix("") / figure.name: figure.content for figure in drawn}
    for path, content in files.items():
        write_atomic(path, lambda beside, content=content: beside.write_bytes(content))
    return list(files)


def _parts(study: Study, found: dict[str, Any]) -> Iterator[Part]:
    plan = study.plan
    yield "# " + plan.question
    yield "## What the intervals say"
    yield found["conclusion"]
    yield (
        f"All numbers follow from the lines under `cells/`, of plan `{study.digest}`. Intervals hold the true mean "
        f"over trainings with {plan.confidence:.0%} confidence, by Student's distribution over the seeds of training; "
        "differences are taken seed by seed. The two of the first contest are given half of the doubt each, those of "
        "other contests stand by themselves."
    )
    yield "## What was equal"
    yield _matching(found)
    yield "## Quality"
    for extractor in found["extractors"]:
        yield _quality(found, extractor)
    variety = ", ".join(f"{name} {one['value']:.3f}" for name, one in found["variety"].items())
    yield (
        "How much pictures of one prompt differ, as a share of how much those of different prompts do, means over "
        f"seeds: {variety}."
    )
    if any(one["facts"] for row in found["quality"] for one in row["seeds"]):
        yield "## Facts"
        yield _facts(found)
    if found["elsewhere"]:
        yield "## By size, budget and data"
        yield _scales(found)
        yield _by_scale(found)
    yield "## Price"
    yield _price(found)
    yield from _fronts(found)
    yield _by_batch(found)
    yield "## Learning"
    yield from _curves(found)
    yield "## Pictures"
    yield _samples(study)
    yield "## Tuning"
    yield _tuning(found)
    yield "## What was not equal"
    yield list(plan.unmatched)
    if found["waiting"]:
        yield f"Contests of the plan that have not been run: {', '.join(found['waiting'])}."
    yield _limits(found)
    yield "## Cells"
    yield _cells(found)


def _matching(found: dict[str, Any]) -> Table:
    rows = []
    for contest in found["plan"]["contests"]:
        for line in found["match"].get(contest["name"], []):
            parts = ", ".join(f"{name} {count:,}" for name, count in line["parameters"].items())
            rows.append(
                [
                    contest["name"],
                    line["contender"],
                    f"{line['total']:,}",
                    f"{line['flops'] * 3 * found['plan']['loop']['batch_size'] / 1e9:,.1f}",
                    f"{contest['num_steps']:,}",
                    f"{_examples(found, contest):,}",
                    _epochs(found, contest),
                    str(len(contest["seeds"])),
                    parts,
                ]
            )
    header = ["contest", "contender", "parameters", "GFLOP a step", "steps", "examples", "epochs", "seeds", "parts"]
    return Table(header, rows, "Operations of a step are three times those of its forward pass.")


def _quality(found: dict[str, Any], extractor: str) -> Table:
    shares = ("precision", "recall", "density", "coverage")
    header = ["contest", "test", "contender", "way", found["verdict"], "FD", "its limit", "kernel distance x 1,000"]
    header += [*shares, "copied", "near copies"]
    rows = []
    for row in found["quality"]:
        one = row["distances"][extractor]
        copied, near = (np.mean([seed[name] for seed in row["seeds"]]) for name in ("copied", "near_copies"))
        kernel = [1000 * value for value in one["kernel"]]
        rows.append(
            [row["contest"], row["test"], row["contender"], row["way"], _percent(row["adherence"])]
            + [_interval(one["frechet"], 3), _interval(one["frechet_limit"], 3), _interval(kernel, 2)]
            + [*(f"{one[share][0]:.2f}" for share in shares), f"{copied:.1%}", f"{near:.1%}"]
        )
    for test, truth in found["truth"].items():
        for name in ("reconstructions", "true pictures"):
            one = truth[name][extractor]
            numbers = [f"{one['frechet']:.3f}", f"{one['frechet_limit']:.3f}", f"{1000 * one['kernel']:.2f}"]
            copied = f"{truth['copied']:.1%}" if name == "true pictures" else ""
            rows.append(
                ["", test, name, "", f"{truth['right'][name]:.1%}", *numbers]
                + [*(f"{one[share]:.2f}" for share in shares), copied, ""]
            )
    sizes = ", ".join(f"{truth['num_pictures']:,} of {test}" for test, truth in found["truth"].items())
    note = (
        f"FD is the Frechet distance of features `{extractor}` of {sizes}; other true pictures give its floor. Copied: "
        "pictures whose codes are those of a picture that training had; near copies: pictures nearer to one of these "
        "than 99% of the test's own are."
    )
    if found["plan"]["classifier"] is not None:
        note += " Class accuracy: pictures that the classifier takes for the class of their caption."
    return Table(header, rows, note)


def _scales(found: dict[str, Any]) -> Table:
    """What both contenders came to in every contest, drawing in the way chosen there."""
    extractor, unseen = found["extractors"][-1], list(found["truth"])[1:]
    header = ["contest", "parameters", "steps", "epochs", "contender", found["verdict"]]
    header += [f"{found['verdict']}, {test}" for test in unseen] + ["FD", "copied"]
    rows = []
    for contest in found["plan"]["contests"]:
        for match in found["match"].get(contest["name"], []):
            first, *others = _best(found, contest["name"], match["contender"])
            rows.append(
                [contest["name"], f"{match['total']:,}", f"{contest['num_steps']:,}", _epochs(found, contest)]
                + [match["contender"], _percent(first["adherence"]), *(_percent(one["adherence"]) for one in others)]
                + [_interval(first["distances"][extractor]["frechet"], 3)]
                + [f"{np.mean([one['copied'] for one in first['seeds']]):.1%}"]
            )
    note = "Each chose its settings anew in every contest. Where a contest has one training, no interval stands."
    return Table(header, rows, note)


def _by_scale(found: dict[str, Any]) -> Figure:
    figure, axes = canvas(2, 4.0)
    contests, extractor = [found["plan"]["contests"][0]["name"], *found["elsewhere"]], found["extractors"][-1]
    for side, (contender, colour) in enumerate(_COLOURS.items()):
        for place, contest in enumerate(contests):
            first, *_ = _best(found, contest, contender)
            both = first["adherence"], first["distances"][extractor]["frechet"]
            for one, (value, low, high) in zip(axes, both, strict=True):
                reach = None if math.isinf(low) else [[value - low], [high - value]]
                drawn = one.errorbar(
                    place + 0.2 * side - 0.1, value, reach, fmt="o", color=colour, ms=5, lw=1, capsize=2
                )
            if place == 0:
                drawn.set_label(contender)
    for one, label in zip(axes, (found["verdict"], "FD"), strict=True):
        one.set_xticks(range(len(contests)), contests)
        one.set_ylabel(label)
    axes[1].legend(frameon=False, fontsize=7)
    return Figure("scales.svg", as_svg(figure), "Both on the first test, by contest, with intervals over trainings.")


def _best(found: dict[str, Any], contest: str, contender: str) -> list[dict[str, Any]]:
    """Figures of what was drawn in the way chosen, test by test."""
    wanted = {"contest": contest, "contender": contender, "way": "best"}
    return [row for row in found["quality"] if wanted.items() <= row.items()]


def _epochs(found: dict[str, Any], contest: dict[str, Any]) -> str:
    return f"{_examples(found, contest) / found['num_examples'][contest['name']]:.2f}"


def _examples(found: dict[str, Any], contest: dict[str, Any]) -> int:
    """That a training has seen, each as often as it came."""
    return contest["num_steps"] * found["plan"]["loop"]["batch_size"]


def _facts(found: dict[str, Any]) -> Table:
    names = sorted({name for row in found["quality"] for one in row["seeds"] for name in one["facts"]})
    rows = []
    for row in found["quality"]:
        if row["way"] == "best":
            shares = [[one["facts"][name] for one in row["seeds"] if name in one["facts"]] for name in names]
            rows.append(
                [row["contest"], row["test"], row["contender"]]
                + [f"{np.mean(given):.1%}" if given else "" for given in shares]
            )
    note = "Share of the prompts stating a kind of fact whose picture has it right, over all seeds."
    return Table(["contest", "test", "contender", *names], rows, note)


def _price(found: dict[str, Any]) -> Table:
    header = ["contender", "way", "at once", "passes", "GFLOP a picture", "time", "95% of times", "pictures a unit"]
    header += ["cache, KiB"]
    rows = []
    for row in found["cost"]:
        rows.append(
            [row["contender"], row["way"], str(row["batch_size"]), f"{row['passes']:.0f}", f"{row['flops'] / 1e9:.3f}"]
            + [f"{row['median']:.2f}", f"{row['p95']:.2f}", f"{row['pictures_a_unit']:.2f}"]
            + [f"{row['cache_bytes'] / 1024:,.0f}"]
        )
    accelerator = next(cell["machine"]["accelerator"] for cell in found["cells"] if cell["cell"] == "cost")
    unit = found["cost"][0]["unit_seconds"]
    absolute = f", here {1000 * unit:.1f} ms on {accelerator}" if accelerator else ""
    note = (
        f"Times are of all the pictures drawn at once, their decoding included, in units of what autoregression takes "
        f"for one picture, code by code{absolute}: medians and 95% quantiles of turns taken in one process. Passes "
        "of guided drawing count both sequences."
    )
    return Table(header, rows, note)


def _fronts(found: dict[str, Any]) -> Iterator[Figure]:
    labels = {"passes": "forward passes", "flops": "operations", "latency": "time of one picture"}
    for quality, words, name in (("adherence", found["verdict"], "fronts"), ("frechet", "FD", "fronts-frechet")):
        figure, axes = canvas(len(labels), 3.2)
        for place, (price, label) in zip(axes, labels.items(), strict=True):
            for contender, colour in _COLOURS.items():
                mine = [one for one in found["fronts"][price] if one["contender"] == contender]
                mine.sort(key=lambda one: one["price"])
                if contender == "diffusion":
                    place.plot([one["price"] for one in mine], [one[quality] for one in mine], color=colour, lw=0.8)
                for one in mine:
                    filled = colour if quality in one["on_front_of"] else "white"
                    place.plot(one["price"], one[quality], "o", color=colour, mfc=filled, ms=6)
                    place.annotate(one["way"], (one["price"], one[quality]), (4, 4), textcoords="offset points", size=7)
            place.set_xscale("log")
            place.set_xlabel(label)
        axes[0].set_ylabel(words)
        caption = f"{words[0].upper()}{words[1:]} of the first seed's pictures and its price."
        yield Figure(f"{name}.svg", as_svg(figure), f"{caption} Filled: nothing as cheap is better.")


def _by_batch(found: dict[str, Any]) -> Figure:
    figure, (axes,) = canvas(1, 3.2)
    ways = {(row["contender"], row["way"]) for row in found["cost"]}
    for contender, way in sorted(ways):
        mine = [row for row in found["cost"] if (row["contender"], row["way"]) == (contender, way)]
        style = "-" if way in ("sequential", "best") else "--" if way == "jacobi" else ":"
        sizes = [row["batch_size"] for row in mine]
        axes.plot(sizes, [row["pictures_a_unit"] for row in mine], style, color=_COLOURS[contender], marker=".")
        axes.annotate(way, (sizes[-1], mine[-1]["pictures_a_unit"]), (4, 0), textcoords="offset points", size=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("pictures at once")
    axes.set_ylabel("pictures a unit of time")
    return Figure("batches.svg", as_svg(figure), "Throughput by the number of pictures drawn at once.")


def _curves(found: dict[str, Any]) -> Iterator[Figure]:
    figure, axes = canvas(3, 3.2)
    contest = found["plan"]["contests"][0]["name"]
    for place, (contender, colour) in zip(axes, _COLOURS.items(), strict=False):
        for lines in found["curves"][contest][contender].values():
            trained = [line for line in lines if line["part"] == "train"]
            place.plot([line["step"] for line in trained], [line["loss"] for line in trained], color=colour, lw=0.8)
        place.set_title(contender, size=9)
        place.set_xlabel("step")
        place.set_ylabel("loss of training")
    for lines in found["curves"][contest]["diffusion"].values():
        last = [line for line in lines if line["part"] == "validation"][-1]
        bins = {float(name.removeprefix("loss_at_")): value for name, value in last.items() if "loss_at_" in name}
        axes[2].plot(list(bins), list(bins.values()), color=_COLOURS["diffusion"], marker=".", lw=0.8)
    axes[2].set_title("diffusion, held out", size=9)
    axes[2].set_xlabel("time, from noise to picture")
    axes[2].set_ylabel("loss")
    yield Figure("curves.svg", as_svg(figure), "A line for each seed.")


def _samples(study: Study) -> Figure:
    """The first prompts' pictures: the true one, then each contender's of the first seed."""
    from PIL import Image

    contest, test = study.plan.contests[0], study.plan.tests[0]
    _, truth = study.read(f"truth.{name_of(test)}")
    rows = [[line["codes"] for line in truth[:_SHOWN]]]
    for contender in CONTENDERS:
        _, lines = study.read(study.drawing(contest, contender, contest.seeds[0], test, "best"))
        rows.append([line["codes"] for line in lines[:_SHOWN]])
    pixels = study.paint(torch.tensor(rows).flatten(0, 1))
    height, width = pixels.shape[1:3]
    sheet = np.full((3 * (height + 2), _SHOWN * (width + 2), 3), 255, np.uint8)
    for place, picture in enumerate(pixels):
        top, left = place // _SHOWN * (height + 2), place % _SHOWN * (width + 2)
        sheet[top : top + height, left : left + width] = picture
    scale = max(1, 96 // width)
    buffer = io.BytesIO()
    Image.fromarray(sheet.repeat(scale, 0).repeat(scale, 1)).save(buffer, "PNG")
    prompts = "; ".join(line["caption"] for line in truth[:_SHOWN])
    caption = f"True pictures, autoregression, diffusion, of the first prompts of {name_of(test)}: {prompts}."
    return Figure("samples.png", buffer.getvalue(), caption)


def _tuning(found: dict[str, Any]) -> Table:
    rows, by_verdict = [], found["plan"]["tuned_by"] == "adherence"
    for contest, contenders in found["tuning"].items():
        for contender, tuning in contenders.items():
            for one in tuning["tried"]:
                shown = ", ".join(f"{name} {value}" for name, value in one["settings"].items())
                mark = "yes" if one["settings"] == tuning["chosen"] else ""
                score = f"{one['score']:.1%}" if by_verdict else f"{-one['score']:.3f}"
                rows.append([contest, contender, shown, score, mark])
    count = next(iter(next(iter(found["tuning"].values())).values()))["num_pictures"]
    note = f"Of {count:,} pictures of {found['plan']['validation']['split']}, first seed."
    header = ["contest", "contender", "settings", found["verdict"] if by_verdict else "FD", "chosen"]
    return Table(header, rows, note)


def _limits(found: dict[str, Any]) -> str:
    machines = {json.dumps(cell["machine"], sort_keys=True) for cell in found["cells"]}
    shown = "; ".join(
        f"{one['accelerator'] or str(one['cores']) + ' cores of ' + one['processor']}, torch {one['torch']}"
        for one in map(json.loads, sorted(machines))
    )
    return f"Run on {shown}. Arithmetic: {found['plan']['loop']['precision']} in training, fp32 on a CPU in drawing."


def _cells(found: dict[str, Any]) -> Table:
    rows = [[cell["cell"], cell["commit"], f"{cell['seconds']:.0f}"] for cell in found["cells"]]
    return Table(["cell", "commit", "seconds"], rows)


def _percent(interval: Sequence[float]) -> str:
    value, low, high = interval
    return f"{value:.1%}" if math.isinf(low) else f"{value:.1%} ({low:.1%} to {high:.1%})"


def _interval(interval: Sequence[float], digits: int) -> str:
    value, low, high = interval
    return f"{value:.{digits}f}" if math.isinf(low) else f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _plain(value: Any) -> Any:
    """Values that JSON knows; what is infinite becomes null."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
