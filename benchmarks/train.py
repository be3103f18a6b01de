"""How long a training step takes, against the same shape in `transformers`, in one run on one machine.

    python -m benchmarks.train checkpoints/shapes32
    python -m benchmarks.train 111M --grid 16x16 --batch-size 8

A step is forward, backward and AdamW on a batch of prompts with their pictures, all of one length. Ours predicts each
id among those that may come in its place, Qwen3 of `transformers` among the whole vocabulary. Utilisation (MFU) is the
same count for both, six operations for each weight and id and those of attention, over what large matrix products reach
here in the same precision.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.decode import SIZES, clock, exported, load


def main() -> None:
    """Measures a model and writes the figures into docs/results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=f"folder or hub id of a checkpoint, or a size: {', '.join(SIZES)}")
    parser.add_argument("--grid", default="16x16", help="rows and columns of codes, for a size (default: 16x16)")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences in a step (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="how often all contestants run (default: 5)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the forward pass")
    parser.add_argument("--compile", action="store_true", help="compile our forward pass")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="default: docs/results/train-<model's name>.json")
    arguments = parser.parse_args()

    from metrics.record import RESULTS, record

    started = time.perf_counter()
    torch.manual_seed(arguments.seed)
    plantain = load(arguments.model, arguments.grid, arguments.device)
    figures = measure(plantain, arguments.batch_size, arguments.rounds, arguments.precision, arguments.compile)
    for name, values in figures["seconds"].items():
        print(f"{name}: {figures['ids'] / median(values):,.0f} ids a second", flush=True)
    names = ("model", "batch_size", "rounds", "precision", "compile")
    config = {name: getattr(arguments, name) for name in names} | {"threads": torch.get_num_threads()}
    out = arguments.out or RESULTS / f"train-{Path(arguments.model).name}.json"
    record(out, figures, arguments.seed, config, time.perf_counter() - started)
    print(f"wrote {out}")


def measure(plantain: Any, batch_size: int, rounds: int, precision: str, compiled: bool) -> dict[str, Any]:
    """Seconds of a step in each round, ids in a step, and what share of the machine's limit ours reaches."""
    from model.objective import LanguageModel, batch_of
    from sample import DEMO
    from tasks.text_to_image import text_to_image
    from tokenizer.sequence import pack

    device, config, vocabulary = plantain.device, plantain.transformer.config, plantain.vocabulary
    rows, columns = plantain.grids[0]
    prompt = plantain.text_tokenizer.encode(DEMO[0])
    codes = np.random.default_rng(0).integers(0, vocabulary.codebook_size, (batch_size, rows, columns))
    packed = [pack(text_to_image(prompt, grid, 0.1), vocabulary, config.positions) for grid in codes]
    batch = {name: tensor.to(device) for name, tensor in batch_of(packed).items()}
    limited = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

    def step(model: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> Callable[[], None]:
        model.float().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")

        def work() -> None:
            with limited:
                value = loss(model)
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return work

    ours: Any = LanguageModel(plantain.transformer, vocabulary, z_loss=1e-5)
    forward = torch.compile(ours) if compiled else ours
    contestants = {"plantain": step(ours, lambda _: forward(**batch, step=0)[0])}
    if importlib.util.find_spec("transformers") is not None:
        theirs = exported(plantain.transformer)
        contestants["transformers"] = step(
            theirs, lambda model: model(input_ids=batch["ids"], labels=batch["ids"]).loss
        )
    seconds: dict[str, list[float]] = {name: [] for name in (*contestants, "limit")}
    side = 8192 if device.type == "cuda" else 1024
    square = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            seconds[name].append(clock(contestant, device)[0])
        seconds["limit"].append(clock(lambda: square @ square, device)[0])
        if not number:  # the first round warms up and compiles
            seconds = {name: [] for name in seconds}
    num_ids, length = batch["ids"].numel(), batch["ids"].shape[1]
    weights = (
        sum(p.numel() for p in plantain.transformer.blocks.parameters()) + plantain.transformer.head.weight.numel()
    )
    attention = 6 * config.depth * config.num_heads * config.head_dim * length  # causal: half of all pairs
    operations = num_ids * (6 * weights + attention)
    limit = 2 * side**3 / median(seconds.pop("limit"))
    return {
        "seconds": seconds,
        "ids": num_ids,
        "operations": operations,
        "operations_a_second_at_most": limit,
        "utilisation": {name: operations / median(values) / limit for name, values in seconds.items()},
    }


if __name__ == "__main__":
    main()
