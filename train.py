"""Train what a config names: an image tokenizer, its decoder further, the autoregressive model on its codes, first to
read pictures and then all that it is to do, then on pictures of its own, its diffusion twin, or all.

    python train.py --config configs/shapes32.yaml
    python train.py --config configs/shapes64.yaml model.loop.num_steps=20000 model.network.depth=8

Starting the same command again resumes what was stopped, skips what is finished, and changes nothing about the result.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any


def load_runs(path: Path, overrides: Sequence[str] = ()) -> list[Any]:
    """The runs that a config file describes, in the order in which each needs the one before.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A key is unknown or missing, a value is wrong, or the file describes no run.
    """
    # Heavy imports come after the arguments, so that --help answers at once.
    from diffusion.objective import TwinTraining
    from model.objective import ModelTraining
    from model.reinforce import Reinforcement
    from runtime.config import load_config
    from tokenizer.objective import TokenizerTraining

    parts: list[tuple[str, Any, Any]] = [
        ("tokenizer", TokenizerTraining | None, None),
        ("decoder", TokenizerTraining | None, None),
        ("reading", ModelTraining | None, None),
        ("model", ModelTraining | None, None),
        ("reinforced", Reinforcement | None, None),
        ("twin", TwinTraining | None, None),
    ]
    config = load_config(make_dataclass("Runs", parts, frozen=True), path, overrides)
    runs = [getattr(config, field.name) for field in fields(config)]
    if not any(runs):
        sections = ", ".join(name for name, *_ in parts)
        raise ValueError(f"{path} describes no run: it needs one of the sections {sections}")
    return [run for run in runs if run is not None]


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, such as one of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments, more = parser.parse_known_args()  # --key value is an override too
    try:
        runs = load_runs(arguments.config, [*arguments.overrides, *more])
        from runtime.loop import train

        for run in runs:
            checkpoint = train(run)
            if os.environ.get("RANK", "0") == "0":
                print(f"wrote {checkpoint}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"train.py: {error}\n")


if __name__ == "__main__":
    main()
