"""The training loop, one for everything that is trained here. Contenders differ only in their objective."""

import json
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from data.loader import StepSampler, step_loader
from runtime.checkpoint import write_atomic
from runtime.config import load_config, save_config
from runtime.device import multiplies_in_bf16
from runtime.ema import EMA
from runtime.optimizer import OptimizerConfig, build_optimizers
from runtime.provenance import commit, machine


@dataclass(frozen=True)
class LoopConfig:
    """How long, how much at once, how often to look and to save."""

    # folder of everything this run writes; starting the same command again resumes from it
    out: str
    # optimiser steps
    num_steps: int
    # examples per step, over all processes and accumulated parts
    batch_size: int = 64
    # parts that a step's batch is divided into, to fit in memory; each holds examples of like length
    num_accumulated: int = 1
    # arithmetic of the passes and of Muon's matrices; bf16 wants a GPU, or a CPU with bf16 units
    precision: Literal["fp32", "bf16"] = "fp32"
    # compile the model's forward pass
    compile: bool = False
    # source of all randomness
    seed: int = 0
    # largest norm of the gradient; larger ones are scaled down to it
    clip_norm: float = 1.0
    # decay of the weights' moving average, which is what gets evaluated and exported
    ema_decay: float = 0.999
    # steps between lines in metrics.jsonl
    log_every: int = 20
    # steps between evaluations (0: only at the end)
    evaluate_every: int = 0
    # steps between saved states, from which a killed run resumes
    save_every: int = 200
    # processes that load data, beside the one that trains
    num_workers: int = 0
    # further trackers: tensorboard, wandb
    trackers: tuple[str, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "num_accumulated", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.batch_size % self.num_accumulated:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of num_accumulated {self.num_accumulated}")


@runtime_checkable
class Objective(Protocol):
    """What is trained, on what, and how it is judged."""

    @property
    def model(self) -> nn.Module:
        """What is trained. Called with a batch and the step, it answers with the loss and the figures to log."""
        ...

    def outer_parameters(self) -> list[Tensor]:
        """Parameters of two or more axes that are no inner matrices (see runtime.optimizer)."""
        ...

    def dataset(self) -> Any:
        """Map-style; its keys are (epoch, index)."""
        ...

    def length(self, item: Any) -> int:
        """What an item costs when a part is padded to its longest; constant where nothing is padded."""
        ...

    def collate(self, items: list[Any]) -> dict[str, Tensor]:
        """Items to the model's keyword arguments."""
        ...

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Judges the averaged model on held-out data; may write pictures into `folder`."""
        ...

    def export(self, model: nn.Module, folder: Path) -> None:
        """Writes the averaged model as a checkpoint folder."""
        ...


@runtime_checkable
class Training(Protocol):
    """A config that names a loop and can build its objective."""

    @property
    def loop(self) -> LoopConfig: ...

    def build(self, device: torch.device) -> Objective: ...


def train(config: Training) -> Path:
    """Trains until the loop's last step, resuming where an earlier run of the same config stopped.

    Every random draw is a function of (seed, step, process), so a run that was killed and started again ends with
    the weights, bit for bit, of one that was not.

    Returns:
        The folder of the exported checkpoint.

    Raises:
        ValueError: `out` holds a run of another config, or the loss is no longer finite.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState
    from tqdm import tqdm

    loop, out = config.loop, Path(config.loop.out)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    AcceleratorState._reset_state()  # else a run in this process keeps the precision of the one before it
    accelerator = Accelerator(
        mixed_precision="bf16" if loop.precision == "bf16" else "no",
        cpu=not torch.cuda.is_available() and not torch.backends.mps.is_available(),
        log_with=list(loop.trackers) or None,
        project_dir=out,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # a discriminator waits its turn
    )
    if accelerator.num_processes != world:
        raise ValueError(f"launched as {world} processes, but they do not see each other: launch with torchrun")
    if accelerator.is_main_process:
        if loop.precision == "bf16" and not multiplies_in_bf16(accelerator.device):
            warnings.warn(
                "this CPU has no units for bf16 and would take many times as long as in fp32: stop, and set "
                "precision=fp32 for the loop",
                stacklevel=2,
            )
        _claim(out, config)
    if loop.trackers:
        accelerator.init_trackers(out.name)

    torch.manual_seed(loop.seed)
    with accelerator.main_process_first():  # it fills the caches that the others then read
        objective = config.build(accelerator.device)
    module = objective.model.to(accelerator.device)
    ema = EMA(module, loop.ema_decay)
    narrow = torch.bfloat16 if loop.precision == "bf16" or accelerator.device.type == "cuda" else torch.float32
    optimizers = build_optimizers(module.named_parameters(), objective.outer_parameters(), loop.optimizer, narrow)
    step = _resume(out, module, ema, optimizers)
    if accelerator.is_main_process and step < loop.num_steps:
        with (out / "starts.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "commit": commit(), "machine": machine()}) + "\n")
    model = accelerator.prepare(torch.compile(module) if loop.compile else module)
    metrics = Metrics(out / "metrics.jsonl", step, accelerator)
    batches = iter(_loader(objective, loop, step, accelerator))
    bar = tqdm(total=loop.num_steps, initial=step, disable=not accelerator.is_main_process, desc=out.name)
    logged = step, time.perf_counter()

    while step < loop.num_steps:
        torch.manual_seed((loop.seed * 1_000_003 + step) * world + accelerator.process_index)
        factor = loop.optimizer.factor(step, loop.num_steps)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor

        logs = _forward_backward(model, batches, step, loop, accelerator)
        norm = nn.utils.clip_grad_norm_(module.parameters(), loop.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        ema.update(module, step)
        step += 1
        bar.update()

        saving = step == loop.num_steps or step % loop.save_every == 0
        if saving or step % loop.log_every == 0:
            figures = {name: float(value) for name, value in (logs | {"gradient_norm": norm}).items()}
            if not all(map(math.isfinite, figures.values())):
                raise ValueError(f"step {step}: not finite: {figures}; lower the learning rate and start again")
            seconds = (time.perf_counter() - logged[1]) / (step - logged[0])
            logged = step, time.perf_counter()
            metrics.write(step, "train", figures | {"learning_rate_factor": factor, "seconds_per_step": seconds})
            bar.set_postfix({"loss": f"{figures['loss']:.3f}"})
        if saving and accelerator.is_main_process:
            _save(out, step, module, ema, optimizers)
            objective.export(ema.module, out / "checkpoint")
        if loop.evaluate_every and step % loop.evaluate_every == 0:
            _evaluate(objective, ema, step, out, metrics, accelerator)
    bar.close()
    _evaluate(objective, ema, step, out, metrics, accelerator)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:  # not end_training(), after which this process could train nothing more
        tracker.finish()
    return out / "checkpoint"


def _loader(objective: Objective, loop: LoopConfig, step: int, accelerator: Any) -> Any:
    """This process's share of every batch from step `step` on, each as a list of its accumulated parts.

    Items of like length come into one part: what is padded to the longest of a part is then little.
    """
    dataset = objective.dataset()
    sampler = StepSampler(
        len(dataset),
        loop.batch_size,
        loop.seed,
        start=step,
        stop=loop.num_steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    share = loop.batch_size // accelerator.num_processes
    if share % loop.num_accumulated:
        raise ValueError(
            f"each of {accelerator.num_processes} processes gets {share} examples of a batch, which do not divide into "
            f"{loop.num_accumulated} parts: choose another batch_size or num_accumulated"
        )
    size = share // loop.num_accumulated

    def collate(items: list[Any]) -> list[dict[str, Tensor]]:
        ordered = sorted(items, key=objective.length)
        return [objective.collate(ordered[start : start + size]) for start in range(0, share, size)]

    return step_loader(dataset, sampler, collate, loop.num_workers, pin=accelerator.device.type == "cuda")


def _evaluate(objective: Objective, ema: EMA, step: int, out: Path, metrics: "Metrics", accelerator: Any) -> None:
    """Only the main process looks whether it was done before: all of them have to meet here."""
    if accelerator.is_main_process and not metrics.holds(step, "validation"):
        metrics.write(step, "validation", objective.evaluate(ema.module, out / "samples" / f"{step:07d}"))
    accelerator.wait_for_everyone()


def _forward_backward(
    model: nn.Module, batches: Iterator[Any], step: int, loop: LoopConfig, accelerator: Any
) -> dict[str, Any]:
    """Gradients of one step's batch, part by part; processes exchange them once, with the last part."""
    logs: dict[str, Any] = {}
    for number, part in enumerate(next(batches), start=1):
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in part.items()}
        together = number == loop.num_accumulated
        with nullcontext() if together else accelerator.no_sync(model):
            loss, figures = model(**batch, step=step)
            accelerator.backward(loss / loop.num_accumulated)
        for name, value in (figures | {"loss": loss.detach()}).items():
            logs[name] = logs.get(name, 0) + value.detach() / loop.num_accumulated
    return logs


def _claim(out: Path, config: Any) -> None:
    """Makes `out` this config's folder; one that holds another config's run is left alone."""
    out.mkdir(parents=True, exist_ok=True)
    resolved = out / "config.yaml"
    if not resolved.exists():
        save_config(config, resolved)
    elif not _same_config(resolved, config):
        raise ValueError(
            f"{out} holds a run of another config: choose another `loop.out`, or remove the folder to start over"
        )


def _same_config(path: Path, config: Any) -> bool:
    """Whether a file holds this config; settings that did not exist yet when it was written count as their defaults."""
    try:
        return load_config(type(config), path) == config
    except ValueError:
        return False


def _save(out: Path, step: int, module: nn.Module, ema: EMA, optimizers: list[torch.optim.Optimizer]) -> None:
    state = {
        "step": step,
        "model": module.state_dict(),
        "ema": ema.module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    write_atomic(out / "state.pt", lambda path: torch.save(state, path))


def _resume(out: Path, module: nn.Module, ema: EMA, optimizers: list[torch.optim.Optimizer]) -> int:
    """Loads the last saved state, if there is one, and returns its step."""
    path = out / "state.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} can't be read ({error}): remove {out} to start over") from error
    module.load_state_dict(state["model"])
    ema.module.load_state_dict(state["ema"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


class Metrics:
    """Figures to `metrics.jsonl`, one line each, and to the trackers. Lines past the step resumed from are dropped."""

    def __init__(self, path: Path, step: int, accelerator: Any) -> None:
        self.path, self.accelerator = path, accelerator
        if accelerator.is_main_process:
            lines = path.read_text().splitlines() if path.exists() else []
            # A process that was killed may have left half a line; it belongs to a step that is done again.
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            write_atomic(path, lambda beside: beside.write_text("".join(line + "\n" for line in kept)))

    def holds(self, step: int, part: str) -> bool:
        """Whether there are figures of this step and part already."""
        lines = self.path.read_text().splitlines()
        return any((line["step"], line["part"]) == (step, part) for line in map(json.loads, lines))

    def write(self, step: int, part: str, figures: dict[str, float]) -> None:
        """Adds a line; `part` says whether the figures are of training or of validation."""
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "part": part, **figures}) + "\n")
            self.accelerator.log({f"{part}/{name}": value for name, value in figures.items()}, step=step)
