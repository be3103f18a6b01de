"""From a finished run to a checkpoint that ships: smaller weights, and a card that says where they come from.

    python -m metrics.release checkpoints/shapes32 --runs runs/shapes32/{tokenizer,decoder,model}
    python -m metrics.release checkpoints/unified64 --runs checkpoints/shapes32 runs/unified32/model
    python -m metrics.release checkpoints/unified64 --runs checkpoints/unified64 runs/more/model --keep 0.1
    python -m metrics.release checkpoints/unified64

A shipped checkpoint in the place of runs brings its image tokenizer and what its own card says of it; and of the model,
if one of the runs began as that. Models before the last go by the names of their runs' outer folders.
Without runs, only the card of what ships is written anew, with what `metrics.adherence` and `metrics.abilities` found.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from metrics.record import RESULTS
from runtime.checkpoint import write_atomic

if TYPE_CHECKING:
    from model import Plantain
    from model.sampling import SamplingConfig


def main() -> None:
    """Writes the checkpoint folder and its README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="checkpoint folder to write")
    parser.add_argument(
        "--runs", type=Path, nargs="+", help="folders: image tokenizer (or a shipped model), ..., model"
    )
    parser.add_argument("--keep", type=float, default=0.0, help="share of the weights that the last run began with")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the transformer's weights")
    parser.add_argument("--max-shard-size", type=int, help="bytes of weights in one file (default: one file of all)")
    parser.add_argument("--recipe", nargs="*", default=[], metavar="key=value", help="sampling, as chosen on val")
    parser.add_argument("--editing", nargs="*", default=[], metavar="key=value", help="the same where it edits")
    parser.add_argument("--choosing", nargs="*", default=[], metavar="key=value", help="and for the best of several")
    parser.add_argument("--inpainting", nargs="*", default=[], metavar="key=value", help="and where it draws a part")
    arguments = parser.parse_args()

    from model import Plantain

    if arguments.runs is None:
        if arguments.keep or any((arguments.recipe, arguments.editing, arguments.choosing, arguments.inpainting)):
            parser.error("--keep and recipes are for what --runs is released: name the runs")
        plantain = Plantain.from_pretrained(arguments.out, "cpu")
    elif len(arguments.runs) < 2:
        parser.error("--runs needs at least two folders: an image tokenizer's, then the model's")
    else:
        try:
            plantain = _gathered(arguments.runs)
            _keep(plantain, arguments.keep)
        except ValueError as error:
            parser.error(str(error))
        plantain.recipe = _changed(plantain.recipe, arguments.recipe)
        if arguments.editing:
            plantain.editing = _changed(plantain.sampling("edit"), arguments.editing)
        if arguments.choosing:
            plantain.choosing = _changed(plantain.sampling(best_of=2), arguments.choosing)
        if arguments.inpainting:
            plantain.inpainting = _changed(plantain.sampling("inpaint"), arguments.inpainting)
        plantain.save_pretrained(arguments.out, arguments.dtype, arguments.max_shard_size)
    num_parameters = sum(parameter.numel() for parameter in plantain.transformer.parameters())
    text = _card(arguments.out.name, plantain.card, num_parameters)
    write_atomic(arguments.out / "README.md", lambda beside: beside.write_text(text))
    print(f"wrote {arguments.out}")


def _gathered(runs: Sequence[Path]) -> "Plantain":
    """The last run's model, with the image tokenizer of the last before it and a card of all."""
    from metrics.runs import summary
    from model import Plantain
    from tokenizer.image import ImageTokenizer

    *before, model = runs
    last_tokenizer = before[-1]
    plantain = Plantain.from_pretrained(model / "checkpoint", "cpu", "fp32")
    trained = last_tokenizer / "checkpoint"
    image_tokenizer = ImageTokenizer.from_pretrained(trained if trained.is_dir() else last_tokenizer)
    if image_tokenizer.digest != plantain.image_tokenizer.digest:
        raise ValueError(f"{last_tokenizer} makes other codes than those that {model} learned")
    plantain.image_tokenizer = image_tokenizer
    summaries = {run: summary(run) for run in runs if (run / "checkpoint").is_dir()}
    begun_as = {Path(start) for each in summaries.values() if (start := each["config"].get("start"))}
    plantain.card = {}
    for run in runs:
        if run in summaries:
            name = run.parent.name if run.name == "model" and run != model else run.name
            while name in plantain.card:  # of a run before, which is not to be forgotten
                name = f"{run.parent.name}-{name}"
            plantain.card[name] = summaries[run]
        else:
            plantain.card |= _shipped(run, whole=run in begun_as)
    return plantain


@torch.no_grad()
def _keep(plantain: "Plantain", share: float) -> None:
    """Moves weights part of the way back to those with which training began, and says so in the card.

    Half-way, little of what was learnt is lost, and much of what was forgotten is back. Source: Wortsman et al.,
    "Robust fine-tuning of zero-shot models", 2022, whose alpha is one less `share`.
    """
    from model import Plantain

    if not share:
        return
    run = list(plantain.card.values())[-1]
    if not 0 < share < 1 or not (start := run["config"].get("start")):
        raise ValueError(f"--keep {share} is for a share between 0 and 1, and for a run with a `start`")
    first = Plantain.from_pretrained(start, "cpu", "fp32")
    if first.text_tokenizer.to_json() != plantain.text_tokenizer.to_json():
        raise ValueError(f"the run has other pieces of text than {start}: nothing of its weights can be kept")
    if first.image_tokenizer.digest != plantain.image_tokenizer.digest:
        raise ValueError(f"the run has other codes than {start}: nothing of its weights can be kept")
    for ours, theirs in zip(plantain.transformer.parameters(), first.transformer.parameters(), strict=True):
        ours.lerp_(theirs, share)
    run["kept"] = share


def _changed(sampling: "SamplingConfig", pairs: Sequence[str]) -> "SamplingConfig":
    """Settings of sampling, but for those given as key=value."""
    from runtime.config import from_dict, to_dict

    changes = {name: float(value) for name, value in (pair.split("=", 1) for pair in pairs)}
    return from_dict(type(sampling), to_dict(sampling) | changes)


def _shipped(folder: Path, whole: bool) -> dict[str, Any]:
    """What a shipped checkpoint's card says of its image tokenizer, or of all; see the top for its model's name."""
    card = json.loads((folder / "config.json").read_text()).get("card", {})
    parts = card if whole else [part for part in card if part in ("tokenizer", "decoder")]
    outer = Path(card["model"]["config"]["loop"]["out"]).parent.name if "model" in parts else ""
    return {outer if part == "model" else part: card[part] for part in parts}


def _card(name: str, card: dict[str, Any], num_parameters: int) -> str:
    lines = [f"# {name}", ""]
    lines += [f"A Plantain checkpoint: a transformer of {num_parameters:,} parameters with its image tokenizer.", ""]
    for part, run in card.items():
        figures = ", ".join(f"{key} {value:.4g}" for key, value in run["validation"].items())
        judged = f"; validation: {figures}" * bool(figures)
        lines.append(f"- **{part}**: {run['steps']:,} steps in {run['hours']} hours{judged}")
        for start in run["starts"]:
            machine = start["machine"]
            lines.append(f"  - at commit {start['commit']} on {machine['accelerator'] or machine['processor']},")
            note = f"; {start['note']}" if "note" in start else ""
            lines.append(f"    {machine['cores']} cores, torch {machine['torch']}{note}")
        if "kept" in run:
            lines.append(f"  - moved by {run['kept']:.0%} of the way back to the weights with which it began")
    lines += [
        f"- **data**: `{json.dumps(list(card.values())[-1]['config']['data'])}`",
        "- **licence**: MIT",
        "",
        "The whole configs of these runs stand in `config.json` under `card`.",
    ]
    if (judged := _result(f"adherence-{name}")) is not None:
        lines += ["", f"Prompt adherence (`{judged['command']}`, seed {judged['seed']}):", ""]
        lines += ["| split | all facts right | ceiling |", "|---|---:|---:|"]
        for split, figures in judged["figures"].items():
            lines.append(f"| {split} | {figures['adherence']:.1%} | {figures['ceiling']:.1%} |")
    if (judged := _result(f"abilities-{name}")) is not None:
        lines += ["", f"Wholly right (`{judged['command']}`, seed {judged['seed']}):", ""]
        names = list(next(iter(judged["figures"].values())))
        lines += [f"| split | {' | '.join(names)} |", f"|---{'|---:' * len(names)}|"]
        for split, figures in judged["figures"].items():
            shares = " | ".join(f"{figures[each]['right']:.1%}" if each in figures else "" for each in names)
            lines.append(f"| {split} | {shares} |")
    return "\n".join(lines) + "\n"


def _result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    main()
