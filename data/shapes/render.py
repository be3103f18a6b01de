"""Scene -> pixels, at any resolution, with antialiased edges."""

import numpy as np
from jaxtyping import UInt8

from data.shapes.scene import BACKGROUNDS, CIRCUMRADIUS, PALETTE, Object, Scene


def coverage(obj: Object, size: int, height: int, width: int) -> tuple[slice, slice, np.ndarray]:
    """The share of each pixel that an object covers.

    Args:
        obj: What is drawn.
        size: Pixels of the picture's shorter side.
        height, width: Pixels of the picture.

    Returns:
        The rows and columns of the object's surroundings, and its coverage there in [0, 1]: the distance from the
        pixel's centre to the outline, in pixels, clipped half a pixel to either side.
    """
    reach = CIRCUMRADIUS[obj.shape] * obj.radius + 1 / size
    rows = slice(max(0, int((obj.y - reach) * size)), min(height, int((obj.y + reach) * size) + 1))
    columns = slice(max(0, int((obj.x - reach) * size)), min(width, int((obj.x + reach) * size) + 1))
    y = (np.arange(rows.start, rows.stop) + 0.5)[:, None] / size
    x = (np.arange(columns.start, columns.stop) + 0.5)[None, :] / size
    return rows, columns, np.clip(0.5 - obj.distance(x, y) * size, 0, 1)


def render(scene: Scene, size: int) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a scene as an RGB picture whose shorter side has `size` pixels.

    Raises:
        ValueError: The longer side has no whole number of pixels.
    """
    height, width = round(size * scene.height), round(size * scene.width)
    if abs(height - size * scene.height) + abs(width - size * scene.width) > 1e-6:
        raise ValueError(
            f"a scene {scene.width} wide and {scene.height} high has no whole number of pixels at size {size}: choose "
            "another size"
        )
    image = np.full((height, width, 3), BACKGROUNDS[scene.background])
    for obj in scene.objects:
        rows, columns, alpha = coverage(obj, size, height, width)
        alpha = alpha[..., None]
        image[rows, columns] = image[rows, columns] * (1 - alpha) + np.array(PALETTE[obj.colour]) * alpha
    return (image * 255).round().astype(np.uint8)
