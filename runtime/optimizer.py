"""Optimisers and their schedule: Muon for the matrices inside the network, AdamW for everything else."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerConfig:
    """One recipe for both optimisers; the schedule scales their learning rates alike."""

    # peak learning rate of AdamW: embeddings, heads, gains, biases
    learning_rate: float = 1e-3
    # peak learning rate of Muon: matrices and convolutions inside the network; null gives them to AdamW as well
    muon_learning_rate: float | None = 0.02
    # steps of linear warm-up
    warmup_steps: int = 100
    # cosine: from the peak to `final_factor`; linear: constant, then straight down over the last `decay_share` of steps
    schedule: Literal["cosine", "linear"] = "linear"
    # share of all steps that the linear decay takes
    decay_share: float = 0.5
    # learning rate at the end, as a share of the peak
    final_factor: float = 0.0
    # decoupled weight decay on tensors of two or more axes
    weight_decay: float = 0.01
    # AdamW's averages of the gradient and of its square
    betas: tuple[float, float] = (0.9, 0.95)

    def factor(self, step: int, num_steps: int) -> float:
        """The share of the peak learning rate that step `step` of `num_steps` uses."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "cosine":
            decay = (1 + math.cos(math.pi * min(1.0, step / num_steps))) / 2
        else:
            decay = min(1.0, (num_steps - step) / max(1.0, self.decay_share * num_steps))
        return warmup * (self.final_factor + (1 - self.final_factor) * decay)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest matrix with all singular values near one.

    Convolution kernels count as matrices of (out, everything else). torch's own Muon always works in bfloat16 and in
    two axes; CPUs without bfloat16 units would spend most of a step on it, as would those with them on fp32.

    Args:
        params: Tensors of two or more axes.
        lr: Learning rate; the update's root mean square is `lr * sqrt(max(1, rows / columns) / columns)`.
        momentum: Share of the old average that each step keeps (Nesterov's form).
        weight_decay: Decoupled weight decay.
        dtype: Arithmetic that the nearest matrix is found in.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient; matrices of one shape are worked on together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.flatten(1).shape].append((parameter, parameter.grad))
            for (rows, columns), pairs in by_shape.items():
                moved = []
                for parameter, gradient in pairs:
                    average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    average.lerp_(gradient, 1 - group["momentum"])
                    moved.append(gradient.lerp(average, group["momentum"]).flatten(1))
                updates = orthogonalise(torch.stack(moved), self.dtype) * math.sqrt(max(1, rows / columns))
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-group["lr"])


def orthogonalise(
    matrices: Float[Tensor, "*n rows columns"], dtype: torch.dtype = torch.float32, steps: int = 5
) -> Float[Tensor, "*n rows columns"]:
    """Moves all singular values of each matrix near one (0.7 to 1.2) by five steps of a quintic iteration.

    Source: Jordan et al. 2024, section "Newton-Schulz"; its coefficients trade exactness for speed near zero.
    """
    x = matrices.to(dtype)
    if tall := matrices.shape[-2] > matrices.shape[-1]:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def build_optimizers(
    parameters: Iterable[tuple[str, nn.Parameter]],
    outer: Iterable[Tensor],
    config: OptimizerConfig,
    dtype: torch.dtype = torch.float32,
) -> list[torch.optim.Optimizer]:
    """Divides parameters between AdamW and Muon.

    Args:
        parameters: Names and parameters, all that are trained.
        outer: Those of two or more axes that are no inner matrices: embeddings, heads, first and last convolutions.
        config: The recipe.
        dtype: Arithmetic of Muon's iteration.

    Returns:
        AdamW first, then Muon if anything is left for it. Each group's `initial_lr` is its peak.
    """
    outside = {id(parameter) for parameter in outer}
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    inner = [p for p in trained if p.ndim >= 2 and id(p) not in outside and config.muon_learning_rate is not None]
    taken = {id(parameter) for parameter in inner}
    rest = [parameter for parameter in trained if id(parameter) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)]
    if inner:
        assert config.muon_learning_rate is not None
        muon = Muon(inner, lr=config.muon_learning_rate, weight_decay=config.weight_decay, dtype=dtype)
        optimizers.append(muon)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
