"""What is asked for of a picture: its condition, its size, how its codes are chosen, and what pushes it.

What pushes it are guides, other sequences that are read beside its own: all ways of guidance are lists of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from model.sampling import SamplingConfig
from tokenizer.sequence import Segment


class Guide(NamedTuple):
    """A sequence that is read beside a picture's own, to push the picture away from it or towards it."""

    # what comes before the picture in this sequence
    segments: Sequence[Segment]
    # share of its hidden states in what is drawn from; the picture's own sequence has the rest of one
    weight: float


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One picture to draw: what comes before it, its size, how its codes are chosen, and which noise it gets."""

    # the condition, in reading order; empty for an unconditional picture
    segments: Sequence[Segment]
    # (rows, columns) of codes
    grid: tuple[int, int]
    sampling: SamplingConfig
    # chosen by the user
    seed: int
    # number of this picture under the seed
    sample: int
    # by default one without the condition, as the settings' guidance says
    guides: Sequence[Guide] | None = None
    # codes that are not drawn but given, -1 where one is to be drawn
    known: Int[np.ndarray, "h w"] | None = None

    @property
    def guiding(self) -> Sequence[Guide]:
        """The guides, each of which costs another stream."""
        if self.sampling.guidance_until == 0:
            return ()
        return guides_of(self.sampling.guidance) if self.guides is None else self.guides

    @property
    def num_guided(self) -> int:
        """How many of its codes are guided, from the first on."""
        return math.ceil(self.sampling.guidance_until * self.grid[0] * self.grid[1]) if self.guiding else 0

    @property
    def span(self) -> tuple[int, int]:
        """The first of its codes that is drawn, and the end of the last one; where all are given, those of the last."""
        size = self.grid[0] * self.grid[1]
        drawn = range(size) if self.known is None else np.flatnonzero(self.known < 0)
        return (int(drawn[0]), int(drawn[-1]) + 1) if len(drawn) else (size - 1, size)


def guides_of(
    guidance: float, without: Sequence[Segment] = (), between: Sequence[Segment] = (), between_guidance: float = 1.0
) -> tuple[Guide, ...]:
    """What to read beside a whole condition so that its picture is pushed away from others.

    Args:
        guidance: The picture's states are pushed this many times their distance away from those before them.
        without: The condition without what is to be insisted on; or what is not wanted, a negative prompt.
        between: More than `without` and less than the condition, such as the pictures of an edit alone; empty for none.
        between_guidance: As `guidance`, of the states of `between` away from those of `without`.

    Source: Ho and Salimans, "Classifier-Free Diffusion Guidance", equation 6; Brooks, Holynski and Efros,
    "InstructPix2Pix", equation 3 (with `between`).
    """
    if not between:
        return (Guide(without, 1 - guidance),) if guidance != 1 else ()
    guides = Guide(between, between_guidance - guidance), Guide(without, 1 - between_guidance)
    return tuple(guide for guide in guides if guide.weight)


def insisting(sampling: SamplingConfig, less: Sequence[Sequence[Segment]]) -> tuple[Guide, ...]:
    """What to read beside a whole condition so that its words each count, also where they never stood together.

    A model that never saw yellow rings draws a green ring or a yellow circle: each of the words gives way to what is
    likely. Pushed away from a ring of any colour, and from any yellow shape, it draws what both say.

    Args:
        sampling: How much, see `insistence`.
        less: The condition without some of its words, in each way.

    Source: Liu et al., "Compositional Visual Generation with Composable Diffusion Models", 2022, of several conditions
    that each push.
    """
    return tuple(Guide(segments, -sampling.insistence) for segments in less)


def with_guides(requests: Sequence[ImageRequest]) -> list[list[int]]:
    """The requests that have a first guide, those that have a second one, ..."""
    counts = [len(request.guiding) for request in requests]
    return [[index for index, count in enumerate(counts) if count > rank] for rank in range(max(counts))]
