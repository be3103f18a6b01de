"""Requests to pictures: batches of them are drawn by model.generate, and their codes painted."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from data.pictures import by_shape, to_pixels
from model.cache import Memory
from model.generate import Drawn, draw_images, jacobi_window
from model.request import ImageRequest
from model.sampling import SamplingConfig
from tokenizer.sequence import ImageSegment, pack

if TYPE_CHECKING:
    from PIL.Image import Image

    from model.pretrained import Pretrained

Decoding = Literal["sequential", "jacobi"]


class DrawOptions(TypedDict, total=False):
    """How pictures are drawn, whatever they are drawn of. What is missing or None follows the model's recipes."""

    # fields of SamplingConfig
    guidance: float | None
    guidance_until: float | None
    insistence: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    # pictures drawn at once; more is faster and takes more memory
    batch_size: int
    # `sequential` draws a code at each pass, `jacobi` as many as a window of guesses has right; the pictures are the
    # same, but for logits that tie to within rounding
    decoding: Decoding
    # codes of a picture that a pass of `jacobi` looks at; by default what suits device and batch: one, which is
    # sequential, where the batch alone keeps the machine busy
    window: int | None


@dataclass(frozen=True, eq=False)
class Generation:
    """Pictures, and everything that led to them; entry i of each list belongs to picture i."""

    images: "list[Image]"
    # grids of codes, each (rows, columns)
    codes: list[Int[np.ndarray, "_ _"]]
    # the whole sequences, prompts included
    ids: list[Int[np.ndarray, " _"]]
    prompts: list[str | None]
    # the seed, and the number of each picture under it
    seed: int
    samples: list[int]
    sampling: SamplingConfig
    # pictures that were drawn to choose these from
    num_drawn: int
    # from the call to the last pixel
    seconds: float


@dataclass(frozen=True, eq=False)
class Progress:
    """One picture of a stream, as far as it has come."""

    # which of the call's pictures, in the order in which `generate` returns them
    picture: int
    # those of the grid's codes that are final, in raster order
    codes: Int[np.ndarray, " _"]
    # what its finished rows of codes show; the rest is gray
    image: "Image"
    finished: bool


def numbers_of(num_prompts: int, num_images: int, first: int | Sequence[int]) -> list[range]:
    """The numbers under a seed of each prompt's pictures.

    Args:
        num_prompts, num_images: How many prompts, and pictures of each.
        first: The first number of each prompt, 0 or more; or one for all.

    Raises:
        ValueError: There are not as many first numbers as prompts, or one is below 0.
    """
    starts = [first] * num_prompts if isinstance(first, int) else list(first)
    if len(starts) != num_prompts or min(starts, default=0) < 0:
        raise ValueError(f"first is {first}, but must be 0 or more: a number, or as many as prompts ({num_prompts})")
    return [range(start, start + num_images) for start in starts]


def draw(
    model: "Pretrained",
    requests: Sequence[ImageRequest],
    prompts: Sequence[str | None],
    batch_size: int = 64,
    decoding: Decoding = "jacobi",
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    memory: Memory | None = None,
) -> Generation:
    """Draws the pictures of requests.

    Args:
        model: Whose.
        requests: At least one; the result names the seed and settings of the first.
        prompts: What each was asked for, to be kept with the result.
        batch_size, decoding, window: See DrawOptions.
        progress: Called with (codes drawn, codes in all) as they come.
        memory: For one request alone: what has been read of its sequence before.
    """
    started = time.perf_counter()
    codes: list[np.ndarray] = []
    total = sum(rows * columns for rows, columns in (request.grid for request in requests))
    for batch in _batches(requests, batch_size):
        before, drawing = sum(grid.size for grid in codes), None
        for drawing in _drawn(model, batch, decoding, window, memory):
            if progress is not None:
                progress(before + int(drawing.counts.sum()), total)
        assert drawing is not None
        for request, row in zip(batch, drawing.codes.cpu().numpy(), strict=True):
            rows, columns = request.grid
            codes.append(row[: rows * columns].reshape(rows, columns))
    positions = model.transformer.config.positions
    return Generation(
        _to_pil(_painted(model, codes, batch_size)),
        codes,
        [
            pack([*request.segments, ImageSegment(grid)], model.vocabulary, positions).ids
            for request, grid in zip(requests, codes, strict=True)
        ],
        list(prompts),
        requests[0].seed,
        [request.sample for request in requests],
        requests[0].sampling,
        len(requests),
        time.perf_counter() - started,
    )


def stream(
    model: "Pretrained",
    requests: Sequence[ImageRequest],
    batch_size: int = 64,
    decoding: Decoding = "jacobi",
    window: int | None = None,
    preview_rows: int = 1,
) -> Iterator[Progress]:
    """Draws the pictures of requests, as `draw` does, and shows them while they grow.

    Raises:
        ValueError: An argument is out of range; before anything is drawn.
    """
    if preview_rows < 1:
        raise ValueError(f"preview_rows is {preview_rows}, but must be at least 1")
    return _stream(model, _batches(requests, batch_size), decoding, window, preview_rows)


def _stream(
    model: "Pretrained",
    batches: Sequence[list[ImageRequest]],
    decoding: Decoding,
    window: int | None,
    preview_rows: int,
) -> Iterator[Progress]:
    first = 0
    for batch in batches:
        shown = [0] * len(batch)
        # Who gives up a stream closes this generator alone; some Pythons would keep the one within until it is freed.
        with closing(_drawn(model, batch, decoding, window)) as drawings:
            for codes, counts in drawings:
                for row, count in enumerate(counts.tolist()):
                    rows, columns = batch[row].grid
                    ready = count // columns
                    if ready > shown[row] and (ready - shown[row] >= preview_rows or ready == rows):
                        shown[row] = ready
                        image = _preview(model, codes[row, : ready * columns].view(ready, columns), rows)
                        final = codes[row, :count].cpu().numpy()
                        yield Progress(first + row, final, image, ready == rows)
        first += len(batch)


def _batches(requests: Sequence[ImageRequest], batch_size: int) -> list[list[ImageRequest]]:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
    return [list(requests[start : start + batch_size]) for start in range(0, len(requests), batch_size)]


def _drawn(
    model: "Pretrained",
    batch: list[ImageRequest],
    decoding: Decoding,
    window: int | None,
    memory: Memory | None = None,
) -> Generator[Drawn, None, None]:
    if decoding not in get_args(Decoding):
        raise ValueError(f"decoding is {decoding!r}, but must be one of {', '.join(get_args(Decoding))}")
    if decoding == "sequential":
        window = 1
    elif window is None:
        window = jacobi_window(model.device, batch)
    return draw_images(model.transformer, model.vocabulary, batch, window, model.draft, model.engine, memory)


def _paint(model: "Pretrained", codes: Int[Tensor, "b h w"]) -> UInt8[np.ndarray, "b H W 3"]:
    """Pictures of codes; on CUDA in bf16, whose error a byte's own hides."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        return to_pixels(model.image_tokenizer.decode(codes))


def _painted(
    model: "Pretrained", codes: Sequence[Int[np.ndarray, "_ _"]], batch_size: int
) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Pictures of grids of codes; those of one size are painted together."""
    pixels: dict[int, np.ndarray] = {}
    for places in by_shape(codes):
        for start in range(0, len(places), batch_size):
            some = places[start : start + batch_size]
            grids = torch.from_numpy(np.stack([codes[place] for place in some])).to(model.device)
            pixels.update(zip(some, _paint(model, grids), strict=True))
    return [pixels[place] for place in range(len(codes))]


def _preview(model: "Pretrained", codes: Int[Tensor, "h w"], rows: int) -> "Image":
    """The first rows of a picture that will have `rows` of them, the rest gray."""
    pixels = _paint(model, codes[None])[0]
    whole = np.full((rows * model.image_tokenizer.stride, *pixels.shape[1:]), 128, np.uint8)
    whole[: len(pixels)] = pixels
    return _to_pil([whole])[0]


def _to_pil(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> "list[Image]":
    from PIL import Image

    return [Image.fromarray(image) for image in images]
