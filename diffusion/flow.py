"""A rectified flow: straight paths from noise at t = 0 to data at t = 1, and how to follow them. Knows no network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Solver = Literal["euler", "midpoint", "heun"]
# the velocity at places, at one time for all of them
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class FlowSampling:
    """How a picture is drawn from noise."""

    # 1: as the prompt says; above: further away from the picture of no prompt
    guidance: float = 2.0
    # times between which there is guidance; outside a step takes one forward pass in place of two
    guidance_from: float = 0.0
    guidance_until: float = 1.0
    # steps from noise to data
    num_steps: int = 25
    solver: Solver = "heun"

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}, but must be at least 1")
        if self.guidance < 0:
            raise ValueError(f"guidance is {self.guidance}, but must be 0 or more")
        if not 0 <= self.guidance_from <= self.guidance_until <= 1:
            raise ValueError(
                f"guidance lasts from {self.guidance_from} to {self.guidance_until}, but has to lie between 0 and 1"
            )
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver is {self.solver!r}, but must be one of {', '.join(get_args(Solver))}")

    def guided(self, time: float) -> bool:
        """Whether a pass at this time needs the unconditional velocity too."""
        return self.guidance != 1 and self.guidance_from <= time <= self.guidance_until


def mix(data: Float[Tensor, "n d"], noise: Float[Tensor, "n d"], times: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Places on the straight paths from noise to data; their velocity is `data - noise` throughout.

    Source: Liu et al., "Flow Straight and Fast", section 2.1.
    """
    return times[:, None] * data + (1 - times[:, None]) * noise


def draw_times(count: int, device: torch.device) -> Float[Tensor, " count"]:
    """Times to train at: the logistic function of a standard normal, which favours the middle.

    Each comes of a part of its own of all that are likely, in random order: the loss of a batch then wavers less.

    Source: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", section 3.1; Kingma
    et al., "Variational Diffusion Models", appendix I.1 (the parts).
    """
    shares = (torch.randperm(count, device=device) + torch.rand(1, device=device)) / count
    return torch.special.ndtri(shares.clamp(1e-6, 1 - 1e-6)).sigmoid()


def solve(velocity: Velocity, noise: Tensor, num_steps: int, solver: Solver) -> Iterator[Tensor]:
    """Follows a flow from noise, and yields at each step what its path would end in if it were straight from there.

    The last that is yielded is where the path ends. `euler` takes one pass a step, `midpoint` two, `heun` two but for
    the last, which is Euler's: a velocity at t = 1 is never asked for, where there is nothing left to undo.
    """
    x, step = noise, 1 / num_steps
    for index in range(num_steps):
        time = index * step
        slope = velocity(x, time)
        last = index == num_steps - 1
        if solver == "midpoint":
            slope = velocity(x + step / 2 * slope, time + step / 2)
        elif solver == "heun" and not last:
            slope = (slope + velocity(x + step * slope, time + step)) / 2
        x = x + step * slope
        yield x if last else x + (1 - time - step) * slope


def num_passes(sampling: FlowSampling) -> int:
    """Forward passes of one picture; where there is guidance, each evaluation of the velocity takes two."""
    count = 0

    def velocity(x: Tensor, time: float) -> Tensor:
        nonlocal count
        count += 1 + sampling.guided(time)
        return x

    for _ in solve(velocity, torch.zeros(1), sampling.num_steps, sampling.solver):
        pass
    return count
