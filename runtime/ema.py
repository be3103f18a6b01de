"""The moving average of a model's weights: what gets evaluated, exported and sampled from."""

import copy

import torch
from torch import nn


class EMA:
    """Keeps `module`, an averaged copy of a model.

    Args:
        model: Followed by the average.
        decay: Share of the average that each update keeps. Early on it keeps less, or the first random weights would
            weigh in for long: at most (1 + updates) / (10 + updates).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the model's weights after step `step`; buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.module.parameters(), model.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
