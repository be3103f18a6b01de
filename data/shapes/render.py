"""Scene -> pixels, at any resolution, with antialiased edges."""

import numpy as np
from jaxtyping import UInt8

from data.shapes.scene import BACKGROUNDS, CIRCUMRADIUS, COLOURS, Object, Scene


def coverage(obj: Object, size: int) -> tuple[slice, slice, np.ndarray]:
    """The share of each pixel that an object covers.

    Returns:
        The rows and columns of the object's surroundings, and its coverage there in [0, 1]: the distance from the
        pixel's centre to the outline, in pixels, clipped half a pixel to either side.
    """
    reach = CIRCUMRADIUS[obj.shape] * obj.radius + 1 / size
    rows = slice(max(0, int((obj.y - reach) * size)), min(size, int((obj.y + reach) * size) + 1))
    columns = slice(max(0, int((obj.x - reach) * size)), min(size, int((obj.x + reach) * size) + 1))
    y = (np.arange(rows.start, rows.stop) + 0.5)[:, None] / size
    x = (np.arange(columns.start, columns.stop) + 0.5)[None, :] / size
    return rows, columns, np.clip(0.5 - obj.distance(x, y) * size, 0, 1)


def render(scene: Scene, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draws a scene as a square RGB picture of `size` pixels."""
    image = np.full((size, size, 3), BACKGROUNDS[scene.background])
    for obj in scene.objects:
        rows, columns, alpha = coverage(obj, size)
        alpha = alpha[..., None]
        image[rows, columns] = image[rows, columns] * (1 - alpha) + np.array(COLOURS[obj.colour]) * alpha
    return (image * 255).round().astype(np.uint8)
