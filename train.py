"""Train whatever a config names: an image tokenizer, or the autoregressive model.

    python train.py --config configs/shapes64/tokenizer.yaml
    python train.py --config configs/shapes64/model.yaml loop.num_steps=20000 loop.optimizer.learning_rate=5e-4

Starting the same command again resumes a run that was stopped, and changes nothing about its result.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, such as one of configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments = parser.parse_args()

    # Heavy imports come after the arguments, so that --help answers at once.
    from model.objective import ModelTraining
    from runtime.config import load_config
    from runtime.loop import train
    from tokenizer.objective import TokenizerTraining

    try:
        config = load_config((TokenizerTraining, ModelTraining), arguments.config, arguments.overrides)
        print(f"wrote {train(config)}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"train.py: {error}\n")


if __name__ == "__main__":
    main()
