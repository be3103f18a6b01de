"""A picture of what benchmarks.decode measured: how much sooner than `transformers` each way to decode is done.

python -m benchmarks.plot shapes32 111M
"""

import argparse
import importlib
import json
from pathlib import Path
from statistics import median

from metrics.record import RESULTS
from metrics.tables import transformers_seconds

CONTESTANTS = ("naive", "sequential", "jacobi", "int8", "compiled sequential", "compiled jacobi")


def main() -> None:
    """Reads docs/results/decode-*.json and writes a PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="as in the names of docs/results/decode-*.json")
    parser.add_argument("--out", type=Path, default=Path("docs/decode.png"))
    arguments = parser.parse_args()

    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        parser.exit(2, "benchmarks.plot: it needs matplotlib: pip install -c constraints.txt -e '.[plot]'\n")

    groups, seconds = [], []
    for model in arguments.models:
        batches = json.loads((RESULTS / f"decode-{model}.json").read_text())["figures"]["batches"]
        groups += [f"{model}\n{size} at once" for size in batches]
        seconds += [figures["seconds"] for figures in batches.values()]
    figure = figures.Figure(figsize=(2.5 + 1.6 * len(groups), 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.9 / len(CONTESTANTS)
    for place, name in enumerate(CONTESTANTS):
        there = [index for index, found in enumerate(seconds) if name in found]
        heights = []
        for index in there:
            pairs = zip(transformers_seconds(seconds[index]), seconds[index][name], strict=True)
            heights.append(median(theirs / ours for theirs, ours in pairs))
        axes.bar([index + (place - 2.5) * width for index in there], heights, width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("times sooner than transformers")
    axes.legend(frameon=False, fontsize="small", ncols=2)
    figure.savefig(arguments.out, dpi=110)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
