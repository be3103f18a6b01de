"""From logits to one id: the filters, the noise, and the draw. Nothing here knows of layers or of sequences.

A draw is  argmax(filtered logits / temperature + noise),  the Gumbel-max form of sampling from the softmax. The noise
is no state that advances: it is a function of (seed, sample, position, id). So a picture is the same however it is
computed: alone or in a batch, all at once or streamed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SamplingConfig:
    """How an id is chosen from the model's distribution."""

    # conditional logits are pushed this many times their distance away from the unconditional ones; 1: no guidance
    guidance: float = 1.0
    # guidance ends after this share of an image's codes; what comes then costs half as much
    guidance_until: float = 1.0
    # conditional logits are also pushed this many times their distance away from those of the prompt without some of
    # its words, for each of the model's omissions; 0 saves these streams
    insistence: float = 0.0
    # logits are divided by it; 0 takes the likeliest id
    temperature: float = 1.0
    # only this many of the likeliest ids can be drawn; 0: all
    top_k: int = 0
    # only the likeliest ids that together hold this probability can be drawn
    top_p: float = 1.0
    # only ids at least this many times as likely as the likeliest can be drawn
    min_p: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "guidance": (0.0, 100.0),
            "guidance_until": (0.0, 1.0),
            "insistence": (0.0, 100.0),
            "temperature": (0.0, 100.0),
            "top_k": (0, math.inf),
            "top_p": (0.0, 1.0),
            "min_p": (0.0, 1.0),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high or math.isnan(value):
                raise ValueError(f"{name} is {value}, but must lie between {low} and {high}")
        if self.top_p == 0:
            raise ValueError(
                "top_p is 0, which leaves no id to draw: give a value above 0, or temperature 0 for the likeliest"
            )


class Settings(NamedTuple):
    """The settings of several rows, as tensors of shape (n, 1), and what of them concerns no row at all."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    # the largest top_k of any row
    largest_k: int
    # whether any row has a top_p below one
    sorts: bool

    def repeat(self, times: int) -> "Settings":
        """Each row so many times in a row."""
        if times == 1:
            return self
        return self._replace(**{name: getattr(self, name).repeat_interleave(times, dim=0) for name in self._fields[:4]})


def stack(configs: Sequence[SamplingConfig], device: torch.device | str = "cpu") -> Settings:
    """One row of settings for each config."""

    def column(name: str) -> Tensor:
        return torch.tensor([[getattr(config, name)] for config in configs], device=device)

    return Settings(
        column("temperature"),
        column("top_k"),
        column("top_p"),
        column("min_p"),
        largest_k=max(config.top_k for config in configs),
        sorts=any(config.top_p < 1 for config in configs),
    )


def filter_logits(logits: Float[Tensor, "n v"], settings: Settings) -> Float[Tensor, "n v"]:
    """Divides by the temperature, then sets to -inf what top-k, then top-p, then min-p exclude. Never all of a row.

    At temperature zero nothing is divided: the likeliest id stays the likeliest.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", section 3.1 (top-p); Nguyen et al.,
    "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", section 3 (min-p).
    """
    divisor = settings.temperature.masked_fill(settings.temperature == 0, 1.0)
    logits = (logits - logits.amax(-1, keepdim=True)) / divisor  # shifted, or it could overflow
    if settings.largest_k:
        k = settings.top_k.clamp(max=logits.shape[-1])
        largest = logits.topk(min(settings.largest_k, logits.shape[-1]), dim=-1).values
        smallest = largest.gather(-1, (k - 1).clamp(min=0).expand(len(logits), 1))
        logits = logits.masked_fill((logits < smallest) & (k > 0), -math.inf)
    if settings.sorts:
        ordered, order = logits.sort(dim=-1, descending=True)
        share = ordered.softmax(-1)
        excluded = share.cumsum(-1) - share >= settings.top_p  # what comes before it already holds enough
        excluded &= settings.top_p < 1
        logits = logits.masked_fill(torch.zeros_like(excluded).scatter(-1, order, excluded), -math.inf)
    return logits.masked_fill(logits < settings.min_p.log(), -math.inf)  # the likeliest is at zero


GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64: 2^64 over the golden ratio
_FACTORS = (-4658895280553007687, -7723592293110705685)  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Numbers that look random, of numbers such as counters: SplitMix64's finaliser.

    int64 arithmetic wraps around as uint64 would, and shifts are masked to be logical.
    """
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _FACTORS[0]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _FACTORS[1]
    return x ^ ((x >> 31) & (2**33 - 1))


def gumbel_noise(
    seeds: Int[Tensor, " b"], samples: Int[Tensor, " b"], positions: Int[Tensor, " b"], ids: Int[Tensor, " v"]
) -> Float[Tensor, "b v"]:
    """Standard Gumbel noise for every (seed, sample, position, id), each independent of all others.

    Args:
        seeds: Chosen by the user, one for each row.
        samples: Number of the picture under this seed.
        positions: Index into the row's own sequence of the id that is drawn.
        ids: The ids that may be drawn, as entries of the vocabulary.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", figure 17 (the mixing function and
    its use on a counter).
    """
    stream = mix(mix(mix(seeds * GOLDEN) + samples * GOLDEN) + positions * GOLDEN)
    bits = mix(stream[:, None] + (ids[None, :] + 1) * GOLDEN)
    uniform = (((bits >> 11) & (2**53 - 1)).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform.clamp_max(1 - 2.0**-53))).float()  # the largest would have rounded to 1


def draw(
    logits: Float[Tensor, "n v"],
    settings: Settings,
    seeds: Int[Tensor, " n"],
    samples: Int[Tensor, " n"],
    positions: Int[Tensor, " n"],
    ids: Int[Tensor, " v"],
) -> Int[Tensor, " n"]:
    """One id for each row.

    Args:
        logits: Of the allowed ids, a block of the vocabulary.
        settings: The filters.
        seeds, samples, positions: See `gumbel_noise`.
        ids: The vocabulary's entries that the columns stand for.
    """
    noise = gumbel_noise(seeds, samples, positions, ids) * (settings.temperature > 0)
    return (filter_logits(logits, settings) + noise).argmax(-1) + ids[0]
