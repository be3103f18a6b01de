"""Segments of text and images to one sequence of ids with positions and loss weights, and back.

An image in the sequence is  <image> <side rows> <side columns> code ... code </image>,  codes row by row. A whole
example is <begin> segment ... segment <end>.  What a sequence is for (drawing, describing, editing) is nothing that
this file knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from tokenizer.vocabulary import BEGIN, END, END_IMAGE, IMAGE, PAD, TEXT_START, Vocabulary, side_id, side_length

Positions = Literal["grid", "line"]

# Grids of one sequence begin a multiple of so many positions apart: what stood in a place of an earlier picture is then
# always to be found at the same distance, whatever was said in between.
PITCH = 64

# stands in a segment for a code that is not shown; in the sequence it is <pad>
HIDDEN = -1


@dataclass(frozen=True, eq=False)
class TextSegment:
    """Ids of text; `weight` is what predicting each of them counts in the loss."""

    ids: Sequence[int]
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class ImageSegment:
    """Codes of one image; `weight` is what predicting each of them counts in the loss. At 0, codes may be HIDDEN."""

    codes: Int[np.ndarray, "h w"]
    weight: float = 1.0


Segment = TextSegment | ImageSegment


class Packed(NamedTuple):
    """One sequence. Weights and `is_image` belong to the id at their place, not to the one that predicts it."""

    ids: Int[np.ndarray, " t"]
    positions: Int[np.ndarray, "t 2"]
    weights: Float[np.ndarray, " t"]
    is_image: Bool[np.ndarray, " t"]


def pack(segments: Sequence[Segment], vocabulary: Vocabulary, positions: Positions, end: bool = True) -> Packed:
    """Lays segments out as one sequence.

    Structure that the sampler forces (the sides, `</image>`) has no loss; `<image>` and `<end>` have that of the
    segment they open or close, since there the model may choose.

    Args:
        segments: In reading order.
        vocabulary: The id table.
        positions: `grid`: text advances row and column together, an image's codes spread over both from where the text
            stopped, or a little further on, see PITCH. `line`: both are the index, which makes ordinary
            one-dimensional positions.
        end: Whether <end> closes the sequence.

    Raises:
        ValueError: A text id or a code lies outside its block, or a grid is empty or too large.
    """
    ids: list[int] = []
    weights: list[float] = []
    places: list[tuple[int, int]] = []
    position = 0
    first_grid: int | None = None

    def put(token: int, weight: float = 0.0) -> None:
        nonlocal position
        ids.append(token)
        weights.append(weight)
        places.append((position, position))
        position += 1

    put(BEGIN)
    for segment in segments:
        if isinstance(segment, TextSegment):
            for token in segment.ids:
                if not TEXT_START <= token < vocabulary.text_block.stop:
                    raise ValueError(
                        f"id {token} is no text id: those are {TEXT_START} to {vocabulary.text_block.stop - 1}"
                    )
                put(token, segment.weight)
            continue
        rows, columns = segment.codes.shape
        sides = side_id(rows), side_id(columns)
        if segment.codes.min() < (0 if segment.weight else HIDDEN) or segment.codes.max() >= vocabulary.codebook_size:
            raise ValueError(f"codes must lie in [0, {vocabulary.codebook_size}): they are of another image tokenizer")
        put(IMAGE, segment.weight)
        put(sides[0])
        put(sides[1])
        start = position if first_grid is None else first_grid
        position += (start - position) % PITCH
        first_grid = start
        codes = segment.codes.reshape(-1)
        ids += np.where(codes == HIDDEN, PAD, codes + vocabulary.image_start).tolist()
        weights += [segment.weight] * segment.codes.size
        places += [(position + row, position + column) for row in range(rows) for column in range(columns)]
        position += max(rows, columns)
        put(END_IMAGE)
    if end:
        put(END, segments[-1].weight if segments else 0.0)
    array = np.array(ids, dtype=np.int64)
    grid = np.array(places, dtype=np.int64)
    if positions == "line":
        grid = np.repeat(np.arange(len(ids))[:, None], 2, axis=1)
    return Packed(array, grid, np.array(weights, dtype=np.float32), array >= vocabulary.image_start)


def unpack(ids: Sequence[int], vocabulary: Vocabulary) -> list[Segment]:
    """The segments of a sequence: the inverse of `pack`, but for weights. <begin>, <end> and <pad> may be missing.

    Raises:
        ValueError: An image is cut off, or an id stands where it can't.
    """
    segments: list[Segment] = []
    text: list[int] = []
    index = 0

    def close_text() -> None:
        if text:
            segments.append(TextSegment(text.copy()))
            text.clear()

    while index < len(ids):
        token = int(ids[index])
        if token == IMAGE:
            close_text()
            if index + 2 >= len(ids):
                raise ValueError(f"the image that begins at {index} is cut off before its sides")
            rows, columns = side_length(int(ids[index + 1])), side_length(int(ids[index + 2]))
            stop = index + 3 + rows * columns
            if stop >= len(ids) or ids[stop] != END_IMAGE:
                raise ValueError(f"the image that begins at {index} does not end after its {rows} x {columns} codes")
            held = np.array(ids[index + 3 : stop], dtype=np.int64)
            codes = np.where(held == PAD, HIDDEN, held - vocabulary.image_start)
            if ((codes < 0) & (held != PAD)).any() or codes.max() >= vocabulary.codebook_size:
                raise ValueError(f"the image that begins at {index} holds ids that are no image codes")
            segments.append(ImageSegment(codes.reshape(rows, columns)))
            index = stop
        elif TEXT_START <= token < vocabulary.text_block.stop:
            text.append(token)
        elif token not in (PAD, BEGIN, END):
            raise ValueError(f"id {token} at {index} stands outside any image")
        index += 1
    close_text()
    return segments
