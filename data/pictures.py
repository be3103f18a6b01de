"""Pixels in [0, 255] as numpy and PIL know them, images in [-1, 1] as models do, and pictures side by side."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from runtime.checkpoint import write_atomic


def to_images(pixels: UInt8[np.ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
    """Pixels to images in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Float[Tensor, "b 3 H W"]) -> UInt8[np.ndarray, "b H W 3"]:
    """Images in [-1, 1] to pixels; what lies outside is clipped."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    return pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


def by_shape(arrays: Iterable[np.ndarray]) -> list[list[int]]:
    """The places of arrays of one shape, for each shape in the order of its first: what can be stacked."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, array in enumerate(arrays):
        places.setdefault(array.shape, []).append(place)
    return list(places.values())


def turn_hue(images: Float[Tensor, "b 3 H W"], degrees: Float[Tensor, " b"]) -> Float[Tensor, "b 3 H W"]:
    """Turns the colours of each image around the axis of grays, which stay as they are; clipped to [-1, 1].

    Source: Rodrigues' rotation formula, for the axis (1, 1, 1) / sqrt(3).
    """
    angles = torch.deg2rad(degrees).to(images.device)[:, None, None]
    one = torch.eye(3, device=images.device)
    mean = torch.full((3, 3), 1 / 3, device=images.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=images.device) / math.sqrt(3)
    turn = angles.cos() * one + angles.sin() * cross + (1 - angles.cos()) * mean
    return torch.einsum("bij,bjhw->bihw", turn, images).clamp(-1, 1)


def grid(pixels: Iterable[UInt8[np.ndarray, "_ _ 3"]], columns: int | None = None, gap: int = 2) -> Image.Image:
    """Pictures side by side on white, each with room for the largest, as square as may be unless `columns` is given."""
    pixels = list(pixels)
    count, height, width = len(pixels), max(map(len, pixels)), max(picture.shape[1] for picture in pixels)
    across = min(count, columns or math.ceil(math.sqrt(count)))
    down = math.ceil(count / across)
    sheet = np.full((down * (height + gap) - gap, across * (width + gap) - gap, 3), 255, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = index // across * (height + gap), index % across * (width + gap)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return Image.fromarray(sheet)


def save_sheet(
    path: Path,
    images: Sequence[Image.Image],
    labels: Sequence[str],
    scale: int | None,
    facts: Mapping[str, str],
    columns: int | None = None,
) -> None:
    """Writes pictures as one PNG, enlarged without smoothing, each above its label.

    Args:
        path: Written whole or not at all.
        images: At least one; each has room for the largest.
        labels: One for each picture, of one or more lines, or none at all.
        scale: Pixels of the PNG for each of a picture's, along each axis; None makes the widest about 256 wide.
        facts: Kept in the PNG's text fields.
        columns: At most so many beside one another; by default as many as below one another.

    Raises:
        ValueError: The scale is below one.
    """
    shown = _enlarged(images, scale)
    width, height = max(image.width for image in shown), max(image.height for image in shown)
    font: Any = ImageFont.load_default(size=max(10, width // 22))
    wrap = partial(textwrap.wrap, width=max(8, int(width / font.getlength("n"))))
    wrapped = [[part for row in label.splitlines() for part in wrap(row)] for label in labels]
    line = round(font.size * 1.25)
    below = line * max(map(len, wrapped), default=0) + (8 if labels else 0)
    tiles = []
    for index, image in enumerate(shown):
        tile = Image.new("RGB", (width, height + below), "white")
        tile.paste(image, (0, 0))
        for row, text in enumerate(wrapped[index] if labels else []):
            ImageDraw.Draw(tile).text((4, height + 4 + row * line), text, fill="black", font=font)
        tiles.append(np.asarray(tile))
    metadata = PngInfo()
    for name, value in facts.items():
        metadata.add_itxt(name, value)
    sheet = grid(tiles, columns, gap=8 if labels else 2)
    write_atomic(path, lambda beside: sheet.save(beside, format="PNG", pnginfo=metadata))


def save_film(path: Path, images: Sequence[Image.Image], scale: int | None) -> None:
    """Writes pictures as one GIF that shows each for a moment, the last for two seconds, again and again.

    Args:
        path: Written whole or not at all.
        images: Of one size, at least one.
        scale: See `save_sheet`.
    """
    first, *others = _enlarged(images, scale)
    times = [120] * len(others) + [2000]
    how: dict[str, Any] = {"format": "GIF", "save_all": True, "append_images": others, "duration": times, "loop": 0}
    write_atomic(path, lambda beside: first.save(beside, **how))


def _enlarged(images: Sequence[Image.Image], scale: int | None) -> list[Image.Image]:
    scale = max(1, 256 // max(image.width for image in images)) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale is {scale}, but must be at least 1")
    nearest = Image.Resampling.NEAREST
    return [image.resize((image.width * scale, image.height * scale), nearest) for image in images]
