"""What finished runs say of themselves, as results: config, steps, hours, figures on held-out data and the way there.

python -m metrics.runs runs/cifar10/tokenizer runs/cifar10/model --name cifar10
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml


def main() -> None:
    """Writes docs/results/runs-<name>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--name", required=True, help="of the result")
    arguments = parser.parse_args()

    from metrics.record import RESULTS, record

    runs = {folder.name: summary(folder) for folder in arguments.runs}
    seeds = {run["config"]["loop"]["seed"] for run in runs.values()}
    configs = {name: run.pop("config") for name, run in runs.items()}
    seconds = sum(run["hours"] for run in runs.values()) * 3600
    out = RESULTS / f"runs-{arguments.name}.json"
    record(out, runs, min(seeds), configs, seconds)
    print(f"wrote {out}")


def summary(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it.

    Returns:
        config: all settings. steps, hours: how long it trained. validation: the last figures on held-out data.
        curve: earlier ones, by step. starts: step, commit and machine of each time that it was started, and a
            note where a hand intervened, added to the run's starts.jsonl.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained, seconds = 0, 0.0
    for line in (line for line in lines if line["part"] == "train"):
        seconds += line["seconds_per_step"] * (line["step"] - trained)
        trained = line["step"]
    judged = {
        line["step"]: {name: value for name, value in line.items() if name not in ("step", "part")}
        for line in lines
        if line["part"] == "validation"
    }
    return {
        "config": yaml.safe_load((folder / "config.yaml").read_text()),
        "steps": trained,
        "hours": round(seconds / 3600, 2),
        "validation": judged[max(judged)],
        "curve": {str(step): figures for step, figures in sorted(judged.items())[:-1]},
        "starts": [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()],
    }


if __name__ == "__main__":
    main()
