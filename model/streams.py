"""Requests as one batch of sequences, side by side, each with room for its picture.

    prefix | codes | padding    a row for each request,
    prefix | codes | padding    then one for the first guide of each that has any, then second ones, ...

Guides hold the codes of the picture that they push, and differ in what stands before it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from model.request import ImageRequest, with_guides
from tokenizer.sequence import ImageSegment, Packed, Positions, Segment, pack
from tokenizer.vocabulary import Vocabulary


class Streams(NamedTuple):
    """What is read, in the order above."""

    # prefixes, then codes as far as they are given, drawn or guessed, then padding
    ids: Int[Tensor, "s t"]
    positions: Int[Tensor, "s t 2"]
    # index of the last id before the codes
    last: Int[Tensor, " s"]
    num_codes: Int[Tensor, " s"]
    # of the codes, the first that is drawn, and the end of the last one
    first: Int[Tensor, " s"]
    end: Int[Tensor, " s"]
    columns: Int[Tensor, " s"]
    # the request that a stream belongs to
    owner: Int[Tensor, " s"]
    # the first of the streams that are the same up to the first code that is drawn
    leader: Int[Tensor, " s"]
    # ids that are given rather than drawn, -1 elsewhere; None where all are drawn
    known: Int[Tensor, "s t"] | None


def open_image(
    segments: Sequence[Segment], grid: tuple[int, int], vocabulary: Vocabulary, positions: Positions
) -> tuple[Packed, Int[np.ndarray, "n 2"]]:
    """The sequence up to the first code of an image of `grid` (rows, columns), and the positions of its codes.

    The image is packed with codes of zero and cut off before them, so that there is one layout only.
    """
    blank = ImageSegment(np.zeros(grid, dtype=np.int64))
    packed = pack([*segments, blank], vocabulary, positions, end=False)
    start = len(packed.ids) - blank.codes.size - 1
    return Packed(*(part[:start] for part in packed)), packed.positions[start:-1]


def open_streams(
    requests: Sequence[ImageRequest],
    vocabulary: Vocabulary,
    positions: Positions,
    device: torch.device,
    padding: int,
    length: int = 0,
) -> Streams:
    """Lays out all sequences, with room for the longest prefix and the largest grid, or for `length` ids if that is
    more, and for `padding` ids after them."""
    conditions = [(index, request.segments) for index, request in enumerate(requests)]
    for rank, rows in enumerate(with_guides(requests)):
        conditions += [(index, requests[index].guiding[rank].segments) for index in rows]
    owner = [index for index, _ in conditions]
    layouts: dict[tuple[int, tuple[int, int]], tuple[Packed, np.ndarray]] = {}
    opened = []
    for index, segments in conditions:
        key = id(segments), requests[index].grid
        if key not in layouts:
            layouts[key] = open_image(segments, requests[index].grid, vocabulary, positions)
        opened.append(layouts[key])
    needed = max(len(prefix.ids) for prefix, _ in opened) + max(len(places) for _, places in opened)
    total = max(needed, length) + padding
    ids = torch.full((len(owner), total), vocabulary.image_start)
    known = torch.full_like(ids, -1)
    where = torch.zeros(len(owner), total, 2, dtype=torch.long)
    for stream, (prefix, places) in enumerate(opened):
        ids[stream, : len(prefix.ids)] = torch.from_numpy(prefix.ids)
        whole = np.concatenate([prefix.positions, places])
        where[stream, : len(whole)] = torch.from_numpy(whole)
        given = requests[owner[stream]].known
        if given is not None:
            as_ids = np.where(given < 0, -1, given + vocabulary.image_start)
            known[stream, len(prefix.ids) : len(whole)] = torch.from_numpy(as_ids.reshape(-1))
    ids = torch.where(known < 0, ids, known)
    last = torch.tensor([len(prefix.ids) - 1 for prefix, _ in opened])
    grids = torch.tensor([requests[index].grid for index in owner])
    first, end = torch.tensor([requests[index].span for index in owner]).unbind(1)
    leaders: dict[bytes, int] = {}
    begun = [(row[:count], places[:count]) for row, places, count in zip(ids, where, last + 1 + first, strict=True)]
    contents = [row.numpy().tobytes() + places.numpy().tobytes() for row, places in begun]
    leader = [leaders.setdefault(content, stream) for stream, content in enumerate(contents)]
    return Streams(
        ids.to(device),
        where.to(device),
        last.to(device),
        num_codes=grids.prod(1).to(device),
        first=first.to(device),
        end=end.to(device),
        columns=grids[:, 1].to(device),
        owner=torch.tensor(owner, device=device),
        leader=torch.tensor(leader, device=device),
        known=known.to(device) if (known >= 0).any() else None,
    )
