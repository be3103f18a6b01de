"""The tables of README.md, written from docs/results/*.json so that no figure is ever typed.

    python -m metrics.tables           rewrites them
    python -m metrics.tables --check   fails if they are not as the results say

A table stands between `<!-- table NAME ARGUMENTS -->` and `<!-- end -->`; NAME is a function below.
"""

import argparse
import json
import re
from pathlib import Path
from statistics import mean, median
from typing import Any

from metrics.record import RESULTS

README = Path("README.md")
_BLOCK = re.compile(r"(<!-- table (\w+)([\w -]*) -->\n).*?(<!-- end -->)", re.DOTALL)
_MEANING = {
    "test": "same distribution as training",
    "pair": "colour-shape pairs never seen",
    "count": "numbers of a shape never seen",
    "size_colour": "sizes of a colour never seen",
    "relation": "relations of colours never stated",
    "template": "sentence frames never read",
}


def main() -> None:
    """Rewrites or checks the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is out of date")
    arguments = parser.parse_args()
    text = README.read_text()
    fresh = fill(text)
    if arguments.check and fresh != text:
        parser.exit(1, "README.md is out of date: run python -m metrics.tables\n")
    README.write_text(fresh)


def fill(text: str) -> str:
    """A README's text with all its tables as the results say.

    Raises:
        ValueError: A table has a name that is no function here, or its marks are not whole.
    """
    if (marks := text.count("<!-- table")) != (whole := len(_BLOCK.findall(text))):
        raise ValueError(f"README.md begins {marks} tables, but only {whole} as `<!-- table NAME RESULTS -->`")

    def table(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"README.md wants a table {match[2]!r}, but there are only {', '.join(TABLES)}")
        return match[1] + TABLES[match[2]](*match[3].split()) + match[4]

    return _BLOCK.sub(table, text)


def adherence(*names: str) -> str:
    """Prompt adherence of a shipped checkpoint, by split; its figures may stand in several results."""
    kinds = ("count", "shape", "colour", "size", "relation", "corner", "background")
    header = ["prompts", "all facts right", "ceiling", *kinds]
    rows, notes = [], []
    for result in (_read(f"adherence-{name}") for name in names):
        for split, figures in result["figures"].items():
            shares = [_percent(figures["facts"].get(kind, {}).get("share")) for kind in kinds]
            label = f"`{split}`: {_MEANING.get(split, split)}"
            rows.append([label, _percent(figures["adherence"]), _percent(figures["ceiling"]), *shares])
        prompts = next(iter(result["figures"].values()))["num_prompts"]
        note = f"{prompts:,} prompts a split, one picture each, seed {result['seed']}; `{result['command']}`"
        notes.append(f"{note}, commit {result['commit']}, {_machine(result)}")
    return _markdown(header, rows) + f"\n{'. '.join(notes)}.\n"


def best(checkpoint: str) -> str:
    """What it brings to draw several pictures of a prompt and to keep the one that the model itself finds best."""
    names = (f"adherence-{name}" for name in (checkpoint, f"{checkpoint}-best", f"{checkpoint}-auto"))
    results = [_read(name) for name in names if (RESULTS / f"{name}.json").exists()]
    rows = []
    # splits of which only one picture a prompt was drawn compare with nothing
    for split in dict.fromkeys(split for result in results[1:] for split in result["figures"]):
        for result in results:
            if figures := result["figures"].get(split):
                label = _effort(result["config"]["settings"]) or "one picture"
                prompts, drawn = f"{figures['num_prompts']:,}", f"{figures['drawn_a_prompt']:.1f}"
                rows.append([f"`{split}`", label, prompts, drawn, _percent(figures["adherence"])])
    notes = [f"`{result['command']}`, commit {result['commit']}, {_machine(result)}" for result in results]
    header = ["split", "effort", "prompts", "pictures drawn a prompt", "all facts right"]
    return _markdown(header, rows) + f"\n{'; '.join(notes)}.\n"


def runs(*configs: str) -> str:
    """What training gave on held-out data, for configs that were run in full."""
    header = ["run", "steps", "hours", "PSNR, dB", "SSIM", "perplexity of codes", "loss a code, nats"]
    figures = {"psnr": "{:.2f}", "ssim": "{:.3f}", "code_perplexity": "{:,.0f}", "image_loss": "{:.3f}"}
    rows, notes = [], []
    for name in configs:
        result = _read(f"runs-{name}")
        for part, run in result["figures"].items():
            judged = run["validation"]
            shown = [form.format(judged[key]) if judged.get(key) else "" for key, form in figures.items()]
            rows.append([f"`configs/{name}.yaml`, {part}", f"{run['steps']:,}", f"{run['hours']}", *shown])
        notes.append(f"`docs/results/runs-{name}.json` ({_machine(result)})")
    return _markdown(header, rows) + f"\nConfigs, commits and curves: {', '.join(notes)}.\n"


def decode(*models: str) -> str:
    """How much sooner than `transformers`, in the better of its precisions, each way to decode is done; and how close
    compiled sequential decoding comes to the floor, the time that reading weights and cache takes."""
    names = ("naive", "sequential", "jacobi", "compiled sequential", "compiled jacobi", "int8")
    rows, notes = [], []
    for model in models:
        result = _read(f"decode-{model}")
        for batch_size, figures in result["figures"]["batches"].items():
            seconds, passes = figures["seconds"], figures["passes_per_code"].get("jacobi")
            theirs = transformers_seconds(seconds)
            times = [_times(theirs, seconds[name]) if name in seconds else "" for name in names]
            drawing, painting = median(seconds["compiled sequential"]), median(seconds["tokenizer"])
            rows_of_codes, columns = result["config"]["grid"]
            floor = rows_of_codes * columns * figures["bytes_a_pass"] / result["figures"]["bytes_a_second"]
            shares = [_percent(floor / drawing), _percent(painting / (drawing + painting))]
            rows.append([model, batch_size, *times, "" if passes is None else f"{passes:.2f}", *shares])
        notes.append(f"`{result['command']}`, commit {result['commit']}, {_machine(result)}")
    header = ["model", "pictures at once", *names, "Jacobi's passes a code", "of the floor", "image tokenizer's share"]
    return _markdown(header, rows) + f"\n{'; '.join(notes)}.\n"


def length(*models: str) -> str:
    """How the time of a code, and the bytes that a pass reads, grow with the number of codes."""
    rows, notes = [], []
    for model in models:
        result = _read(f"length-{model}")
        shortest = next(iter(result["figures"].values()))
        for grid, figures in result["figures"].items():
            more = figures["bytes_a_pass"] / shortest["bytes_a_pass"]
            longer = _times(figures["seconds_a_code"], shortest["seconds_a_code"], digits=2)
            rows.append([model, grid, f"{figures['codes']:,}", longer, f"{more:.2f}x"])
        notes.append(f"`{result['command']}`, commit {result['commit']}, {_machine(result)}")
    return _markdown(["model", "grid", "codes", "time of a code", "bytes of a pass"], rows) + f"\n{'; '.join(notes)}.\n"


def abilities(*names: str) -> str:
    """What a checkpoint of one stream can do, by split; its figures may stand in several results."""
    rows, notes, chances = [], [], []
    abilities = list(next(iter(_read(f"abilities-{names[0]}")["figures"].values())))
    for result in (_read(f"abilities-{name}") for name in names):
        for split, figures in result["figures"].items():
            effort = _effort(result["config"]["settings"])
            label = f"`{split}`: {_MEANING.get(split, split)}" + f"; {effort}" * bool(effort)
            rows.append([label, *(_percent(figures.get(name, {}).get("right")) for name in abilities)])
            if "ask" in figures:
                chances.append(f"{_percent(figures['ask']['chance'])} of `{split}`")
        note = f"{result['config']['num_cases']:,} cases of each, seed {result['seed']}; `{result['command']}`"
        notes.append(f"{note}, commit {result['commit']}, {_machine(result)}")
    guess = f" Answers that have not seen the picture would be right in {', '.join(chances)}." if chances else ""
    return _markdown(["cases", *abilities], rows) + f"\n{'. '.join(notes)}.{guess}\n"


def ablations(name: str) -> str:
    """What changing one thing of a training at a time does to what is right, in points; with intervals over seeds."""
    result = _read(f"ablations-{name}")
    rows_of, seeds = result["figures"]["rows"], result["config"]["seeds"]
    judged = [(line["split"], line["ability"]) for line in rows_of[0]["judged"]]
    abilities = {ability for _, ability in judged}
    rows = []
    for row in rows_of:
        found = {(line["split"], line["ability"]): line for line in row["judged"]}
        cells = []
        for key in judged:
            line = found.get(key)
            text = "" if line is None else _percent(line["right"][0])
            if line is not None and row is not rows_of[0]:
                low_high = [f"{100 * value:+.1f}" for value in line["gain"]]
                text += f" ({low_high[1]} to {low_high[2]})" if len(low_high) > 1 else f" ({low_high[0]})"
            cells.append(text)
        changes = " ".join(f"`{change}`" for change in row["changes"])
        rows.append([row["name"], changes, f"{row['steps']:,}", *cells])
    shown = [f"`{split}`" if len(abilities) == 1 else f"{ability}, `{split}`" for split, ability in judged]
    means = "one training each" if len(seeds) == 1 else f"means over {len(seeds)} trainings"
    note = (
        f"Of {result['config']['num_cases']:,} cases, those wholly right, {means}; in brackets what that is more than"
    )
    note += " in the first row, in points" + (", seed by seed, 95% interval" if len(seeds) > 1 else "")
    note += f"; `{result['command']}`, commit {result['commit']}, {_machine(result)}."
    return _markdown(["training", "what changes", "steps", *shown], rows) + f"\n{note}\n"


def fidelity(checkpoint: str) -> str:
    """How much a checkpoint's pictures, as a set, are like true ones."""
    result = _read(f"fidelity-{checkpoint}")
    count = result["figures"]["num_samples"]
    shares = ("precision", "recall", "density", "coverage")
    rows = []
    for extractor, sets in result["figures"]["extractors"].items():
        for name, figures in sets.items():
            kernel = f"{figures['kernel'] * 1000:.2f} ± {figures['kernel_error'] * 1000:.2f}"
            distances = [f"{figures['frechet']:.4f}", f"{figures['frechet_limit']:.4f}", kernel]
            near = _percent(figures.get("near_copies"))
            rows.append([extractor, name, *distances, *(f"{figures[share]:.2f}" for share in shares), near])
    header = ["features", "set", f"FD@{count:,}", "its limit", "kernel distance x 1,000", *shares, "near copies"]
    note = f"{count:,} pictures a set, seed {result['seed']}; `{result['command']}`"
    return _markdown(header, rows) + f"\n{note}, commit {result['commit']}, {_machine(result)}.\n"


def study(name: str) -> str:
    """What a study found of its first contest: both contenders as they were tuned, and what the intervals say."""
    result = _read(f"study-{name}")
    contest, tests = result["plan"]["contests"][0]["name"], list(result["truth"])
    extractor, smallest = result["extractors"][-1], min(row["batch_size"] for row in result["cost"])
    verdict = result.get("verdict", "adherence")
    header = ["contender", *(f"{verdict}, `{test}`" for test in tests), f"FD-{extractor}", "passes", "GFLOP a picture"]
    header += ["time, alone", f"time, {max(row['batch_size'] for row in result['cost'])} at once"]
    rows = []
    for contender, ways in (("autoregression", ("sequential", "jacobi")), ("diffusion", ("best",))):
        quality = _quality(result, contest, contender)
        for way in ways:
            priced = [row for row in result["cost"] if (row["contender"], row["way"]) == (contender, way)]
            alone = next(row for row in priced if row["batch_size"] == smallest)
            price = [f"{alone['passes']:.0f}", f"{alone['flops'] / 1e9:.2f}", f"{alone['median']:.2f}"]
            label = contender if len(ways) == 1 else f"{contender}, {way}"
            rows.append([label, *quality, *price, f"{priced[-1]['median']:.2f}"])
    note = f"Means over {len(result['seed'])} trainings of each; times in units of sequential autoregression alone; "
    note += f"`{result['command']}`, commit {result['commit']}, {_machine(result)}."
    sentences = "".join(f"- {sentence}\n" for sentence in result["conclusion"])
    return _markdown(header, rows) + f"\n{note}\n\n{sentences}"


def scales(name: str) -> str:
    """What a study found of all its contests: both contenders as they were tuned, and what the other intervals say."""
    result = _read(f"study-{name}")
    verdict, extractor = result["verdict"], result["extractors"][-1]
    header = ["contest", "steps", "of pictures", "contender", *(f"{verdict}, `{test}`" for test in result["truth"])]
    rows = []
    for contest in result["plan"]["contests"]:
        for contender in result["tuning"].get(contest["name"], []):
            scale = [contest["name"], f"{contest['num_steps']:,}", f"{contest['data']['num_examples']:,}"]
            first, *_ = _drawn_best(result, contest["name"], contender)
            copied = mean(one["copied"] for one in first["seeds"])
            rows.append([*scale, contender, *_quality(result, contest["name"], contender), f"{copied:.1%}"])
    note = "Means over trainings. Copied: code for code a picture that training had. "
    note += f"`{result['command']}`, commit {result['commit']}, {_machine(result)}."
    sentences = "".join(f"- {sentence}\n" for sentence in result["conclusion"])
    return _markdown([*header, f"FD-{extractor}", "copied"], rows) + f"\n{note}\n\n{sentences}"


def _quality(result: dict[str, Any], contest: str, contender: str) -> list[str]:
    """Of a study: the share of right pictures of every test, and the distance on the first, with intervals."""
    first, *_ = rows = _drawn_best(result, contest, contender)
    intervals = [(row["adherence"], "{:.1%}") for row in rows]
    intervals.append((first["distances"][result["extractors"][-1]]["frechet"], "{:.3f}"))
    return [
        form.format(value) + ("" if low is None else f" ({form.format(low)} to {form.format(high)})")
        for (value, low, high), form in intervals
    ]


def _drawn_best(result: dict[str, Any], contest: str, contender: str) -> list[dict[str, Any]]:
    """Of a study: what is said of pictures drawn as was found best, test by test."""
    wanted = {"contest": contest, "contender": contender, "way": "best"}
    return [row for row in result["quality"] if wanted.items() <= row.items()]


TABLES = {
    "adherence": adherence,
    "best": best,
    "runs": runs,
    "decode": decode,
    "length": length,
    "abilities": abilities,
    "ablations": ablations,
    "fidelity": fidelity,
    "study": study,
    "scales": scales,
}


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def transformers_seconds(seconds: dict[str, list[float]]) -> list[float]:
    """Those of `transformers` in the better of its precisions."""
    return min((values for name, values in seconds.items() if name.startswith("transformers")), key=median)


def _times(slow: list[float], fast: list[float], digits: int = 1) -> str:
    return f"{median(left / right for left, right in zip(slow, fast, strict=True)):.{digits}f}x"


def _effort(settings: dict[str, Any]) -> str:
    """How many pictures are drawn to choose from, in words; empty for one."""
    if "best_of" not in settings:
        return ""
    return f"best of {settings['best_of']}" + ", fewer where it feels sure" * (settings.get("effort") == "auto")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _machine(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return machine["accelerator"] or f"{machine['cores']} cores of {machine['processor']}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
