"""Pixels in [0, 255] as numpy and PIL know them, images in [-1, 1] as models do, and pictures side by side."""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def to_images(pixels: UInt8[np.ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
    """Pixels to images in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Float[Tensor, "b 3 H W"]) -> UInt8[np.ndarray, "b H W 3"]:
    """Images in [-1, 1] to pixels; what lies outside is clipped."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    return pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


def grid(pixels: UInt8[np.ndarray, "b H W 3"], columns: int | None = None, gap: int = 2):
    """Pictures of one size side by side, as one PIL image; as square as may be, unless `columns` is given."""
    from PIL import Image

    count, height, width, _ = pixels.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)
