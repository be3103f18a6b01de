"""How the cost of a code grows with the number of codes of a picture, in one run on one machine.

    python -m benchmarks.length 111M

One guided picture at a time is drawn by compiled sequential decoding, of random weights. A longer picture's pass reads
more cache; what is compared with is how many more bytes of weights and cache that is.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.decode import SIZES, bytes_a_pass, clock, load


def main() -> None:
    """Measures a size and writes the figures into docs/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=SIZES)
    parser.add_argument("--grids", nargs="+", default=["8x8", "16x16", "32x32"], help="rows and columns of codes")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is drawn (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: docs/results/length-<model's name>.json")
    arguments = parser.parse_args()

    from metrics.record import RESULTS, record

    started = time.perf_counter()
    figures = measure(arguments.model, arguments.grids, arguments.rounds, arguments.seed, arguments.device)
    for grid, found in figures.items():
        print(f"{grid}: {median(found['seconds_a_code']) * 1e3:.2f} ms a code", flush=True)
    config = {"model": arguments.model, "rounds": arguments.rounds, "threads": torch.get_num_threads()}
    out = arguments.out or RESULTS / f"length-{arguments.model}.json"
    record(out, figures, arguments.seed, config, time.perf_counter() - started)
    print(f"wrote {out}")


def measure(name: str, grids: list[str], rounds: int, seed: int, device: str) -> dict[str, Any]:
    """For each grid, seconds a code in each round, and bytes that a pass reads."""
    from model.engine import Engine
    from model.generate import draw_images
    from sample import DEMO

    models = {grid: load(name, grid, device) for grid in grids}
    engines = {grid: Engine() for grid in grids}
    figures: dict[str, Any] = {}
    for number in range(rounds + 1):
        for grid, plantain in models.items():
            requests = plantain.requests([DEMO[0]], seed=seed)

            def draw(plantain: Any = plantain, grid: str = grid, requests: Any = requests) -> None:
                for _ in draw_images(plantain.transformer, plantain.vocabulary, requests, engine=engines[grid]):
                    pass

            seconds, _ = clock(draw, plantain.device)
            if not number:  # the first round compiles
                codes = plantain.grids[0][0] * plantain.grids[0][1]
                figures[grid] = {"codes": codes, "bytes_a_pass": bytes_a_pass(plantain, 2), "seconds_a_code": []}
            else:
                figures[grid]["seconds_a_code"].append(seconds / figures[grid]["codes"])
    return figures


if __name__ == "__main__":
    main()
