"""Guesses of codes from their neighbours, which Jacobi decoding starts from.

A table says which code came most often, in the pictures of training, after the codes to its left, above it and above to
its right. It knows neither prompt nor model and is often wrong; that costs a pass and changes no picture. Where it is
right, decoding need not wait until the model has seen the neighbour to draw the next code.

Jacobi decoding after Wiggers and Hoogeboom guesses what the model drew for a place in the last pass. That was drawn
after the neighbours of then: here it stands only where they are the neighbours of now; elsewhere the table is asked.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from model.sampling import GOLDEN, mix

# Entries of the table; contexts share one by chance, and the more frequent of them has it.
SIZE = 2**18
# How often all places of a window are guessed anew: how many guesses can follow from each other along a row.
ROUNDS = 8

_OUTSIDE = -1  # stands for a neighbour that lies outside the picture, and for an entry without a guess


def learn(*grids: Int[np.ndarray, "_ _ _"]) -> Int[Tensor, " size"]:
    """The table of pictures' codes: the likeliest code for each context, -1 where none was seen.

    Args:
        grids: Codes (n, h, w) of pictures, all those of one grid in one array.
    """
    contexts, drawn = [], []
    for stack in grids:
        framed = F.pad(torch.from_numpy(stack).long(), (1, 1, 1, 0), value=_OUTSIDE)
        left, above, right_above = framed[:, 1:, :-2], framed[:, :-1, 1:-1], framed[:, :-1, 2:]
        contexts.append(_hash(left, above, right_above).flatten())
        drawn.append(framed[:, 1:, 1:-1].flatten())
    entries, codes = torch.cat(contexts) & (SIZE - 1), torch.cat(drawn)
    num_codes = int(codes.max()) + 1
    pairs, counts = torch.unique(entries * num_codes + codes, return_counts=True)
    pairs = pairs[counts.argsort(stable=True)]
    pairs = pairs[(pairs // num_codes).argsort(stable=True)]  # by entry, and the most frequent code last
    entries = pairs // num_codes
    last = torch.ones(len(pairs), dtype=torch.bool)
    last[:-1] = entries[:-1] != entries[1:]
    table = torch.full((SIZE,), _OUTSIDE, dtype=torch.int32)
    table[entries[last]] = (pairs % num_codes)[last].int()
    return table


def guess(
    table: Int[Tensor, " size"],
    codes: Int[Tensor, "b t"],
    before: Int[Tensor, "b t"],
    places: Int[Tensor, "b w"],
    num_drawn: int,
    first: Int[Tensor, " b"],
    columns: Int[Tensor, " b"],
) -> Int[Tensor, "b t"]:
    """Guesses the codes at some places of sequences anew.

    Args:
        table: See `learn`.
        codes: As drawn in this pass.
        before: As they were read in this pass.
        places: Indices into the sequences, in order.
        num_drawn: How many of the places, from the first on, were drawn in this pass; the rest is still to come.
        first: Index of each picture's first code.
        columns: Codes in a row of each picture.

    Returns:
        `codes` with other guesses. A code whose neighbours were read as they are now stays.
    """
    drawn = codes.gather(1, places)
    is_drawn = torch.arange(places.shape[1], device=places.device) < num_drawn
    seen = _contexts(before, places, first, columns)
    for _ in range(ROUNDS):
        now = _contexts(codes, places, first, columns)
        entry = table[now & (SIZE - 1)].long()
        stays = (is_drawn & (now == seen)) | (entry == _OUTSIDE)
        codes = codes.scatter(1, places, torch.where(stays, drawn, entry))
    return codes


def _contexts(
    codes: Int[Tensor, "b t"], places: Int[Tensor, "b w"], first: Int[Tensor, " b"], columns: Int[Tensor, " b"]
) -> Int[Tensor, "b w"]:
    """The hashed neighbours of each place."""
    columns = columns[:, None]
    index = places - first[:, None]
    column = index % columns

    def neighbour(offset: Tensor, exists: Tensor) -> Tensor:
        return torch.where(exists, codes.gather(1, (places + offset).clamp(min=0)), _OUTSIDE)

    left = neighbour(torch.full_like(columns, -1), column > 0)
    above = neighbour(-columns, index >= columns)
    right_above = neighbour(1 - columns, (index >= columns) & (column < columns - 1))
    return _hash(left, above, right_above)


def _hash(*neighbours: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """One number for several codes."""
    mixed = torch.zeros_like(neighbours[0])
    for code in neighbours:
        mixed = mix((mixed + code) * GOLDEN)
    return mixed
