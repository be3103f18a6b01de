"""The world of captioned shapes: what a scene is, the outline of each shape, and how scenes are drawn at random.

Lengths are fractions of the picture's shorter side, x grows to the right and y downwards, so a scene has no resolution,
and an object as many pixels in a wide or tall picture as in a square one.
Every shape covers the same area for the same radius: size then says nothing about shape, nor shape about size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Draw = tuple[str, str, str]  # what is drawn of an object before its place: shape, colour, size

# Six hues, 60 degrees apart and of equal chroma, on neutral backgrounds: a blurred edge pixel keeps its object's hue,
# and its chroma is the share of the pixel that the object covers. The checker lives on that.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.9, 0.1, 0.1),
    "yellow": (0.9, 0.9, 0.1),
    "green": (0.1, 0.9, 0.1),
    "cyan": (0.1, 0.9, 0.9),
    "blue": (0.1, 0.1, 0.9),
    "magenta": (0.9, 0.1, 0.9),
}
# Six more, halfway between those and of the same chroma, only to be trained on: who has met more colours may sooner put
# together a colour and a shape that it never met together.
TINTS: dict[str, tuple[float, float, float]] = {
    "orange": (0.962, 0.5, 0.038),
    "lime": (0.5, 0.962, 0.038),
    "mint": (0.038, 0.962, 0.5),
    "azure": (0.038, 0.5, 0.962),
    "violet": (0.5, 0.038, 0.962),
    "rose": (0.962, 0.038, 0.5),
}
PALETTE = COLOURS | TINTS
BACKGROUNDS: dict[str, float] = {"black": 0.04, "gray": 0.5, "white": 0.96}
SIZES = ("small", "large")


def _box(half_width: float, half_height: float) -> Distance:
    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return outside + np.minimum(np.maximum(dx, dy), 0)

    return distance


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


_RING_OUTER = 1 / math.sqrt(1 - 0.5**2)  # the hole has half the outer radius


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    centre = np.hypot(x, y)
    return np.maximum(centre - _RING_OUTER, _RING_OUTER / 2 - centre)


_square = _box(math.sqrt(math.pi) / 2, math.sqrt(math.pi) / 2)


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _square((x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5))


_TRIANGLE_INRADIUS = math.sqrt(math.pi / (3 * math.sqrt(3)))  # equilateral, pointing up, centred on its centroid


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sides = np.abs(x) * math.sqrt(0.75) - y / 2
    return np.maximum(sides, y) - _TRIANGLE_INRADIUS


_CROSS_HALF = math.sqrt(math.pi * 9 / 5) / 2  # arms a third as wide as they are long: area 5/9 of the square around
_cross_bars = (_box(_CROSS_HALF, _CROSS_HALF / 3), _box(_CROSS_HALF / 3, _CROSS_HALF))


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.minimum(_cross_bars[0](x, y), _cross_bars[1](x, y))


# Signed distance to the outline, negative inside, of each shape with area pi (radius 1) around the origin.
DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
}
SHAPES = tuple(DISTANCES)


def _outline(distance: Distance, num_points: int = 48) -> np.ndarray:
    """Points (num_points, 2) on the outer outline, found by bisection along rays from the centre."""
    angles = np.arange(num_points) * (2 * math.pi / num_points) - math.pi / 2
    low, high = np.full(num_points, 0.6), np.full(num_points, 2.0)
    for _ in range(30):
        middle = (low + high) / 2
        inside = distance(middle * np.cos(angles), middle * np.sin(angles)) < 0
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.stack([low * np.cos(angles), low * np.sin(angles)], axis=1)


OUTLINES = {shape: _outline(distance) for shape, distance in DISTANCES.items()}
# Reach to the left, top, right and bottom of the centre, and in any direction.
EXTENTS = {shape: np.abs([*points.min(0), *points.max(0)]) for shape, points in OUTLINES.items()}
CIRCUMRADIUS = {shape: float(np.hypot(*points.T).max()) for shape, points in OUTLINES.items()}


@dataclass(frozen=True)
class Object:
    """One shape in a scene: its kind, the centre (x, y) and the radius of the circle of equal area."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance from points (x, y) to this object's outline, negative inside."""
        return DISTANCES[self.shape]((x - self.x) / self.radius, (y - self.y) / self.radius) * self.radius

    def outline(self) -> np.ndarray:
        """Points (48, 2) on the outline."""
        return OUTLINES[self.shape] * self.radius + (self.x, self.y)


@dataclass(frozen=True)
class Scene:
    """A background name, the objects on it, and the picture's sides; the shorter one is 1."""

    background: str
    objects: tuple[Object, ...]
    width: float = 1.0
    height: float = 1.0

    def __post_init__(self) -> None:
        if min(self.width, self.height) != 1:
            raise ValueError(
                f"a scene is {self.width} wide and {self.height} high, but its shorter side is the unit of length: "
                "divide both by it"
            )


@dataclass(frozen=True)
class World:
    """What may occur in a scene."""

    # shapes in use; the checker tells only these apart
    shapes: tuple[str, ...] = SHAPES
    # colours in use, of the palette; the checker tells only these apart. No part of `repr`, which
    # fingerprints hash: those of worlds of six colours stay what they were
    colours: tuple[str, ...] = field(default=tuple(COLOURS), repr=False)
    # fewest and most objects in a scene
    num_objects: tuple[int, int] = (1, 4)
    # radius ranges by size name, in shorter sides; what lies between is neither small nor large
    radii: tuple[tuple[str, float, float], ...] = (("small", 0.12, 0.14), ("large", 0.17, 0.20))
    # free space between outlines, and between an outline and the border, in shorter sides
    gap: float = 0.05
    border: float = 0.02

    @property
    def kinds(self) -> tuple[Draw, ...]:
        """All (shape, colour, size) that an object can have."""
        return tuple(product(self.shapes, self.colours, (size for size, _, _ in self.radii)))


WORLDS = {
    "shapes64": World(),
    # the same in twelve colours
    "tints64": World(colours=tuple(PALETTE)),
    # what a picture of 32 pixels can still show exactly
    "shapes32": World(
        shapes=("circle", "square", "triangle", "cross"),
        num_objects=(1, 2),
        radii=(("small", 0.17, 0.185), ("large", 0.215, 0.235)),
    ),
    # the same with one object, which is learned in minutes
    "single32": World(
        shapes=("circle", "square", "triangle", "cross"),
        num_objects=(1, 1),
        radii=(("small", 0.17, 0.185), ("large", 0.215, 0.235)),
    ),
}


def _apart(new: Object, old: Object, gap: float) -> bool:
    """Whether outlines keep the gap; asked only of objects whose circles of equal area are about that far apart."""
    if math.hypot(new.x - old.x, new.y - old.y) >= _reach(new.shape, new.radius) + _reach(old.shape, old.radius) + gap:
        return True
    return bool(old.distance(*new.outline().T).min() >= gap and new.distance(*old.outline().T).min() >= gap)


def _reach(shape: str, radius: float) -> float:
    return CIRCUMRADIUS[shape] * radius


def fits(new: Object, others: Sequence[Object], world: World, frame: tuple[float, float]) -> bool:
    """Whether an object keeps the gap to each of the others, and to the border of a scene of this width and height."""
    left, top, right, bottom = EXTENTS[new.shape] * new.radius + world.border
    inside = left <= new.x <= frame[0] - right and top <= new.y <= frame[1] - bottom
    return bool(inside) and all(_apart(new, old, world.gap) for old in others)


def place(
    rng: np.random.Generator,
    kinds: Sequence[Draw],
    world: World,
    tries: int = 40,
    frame: tuple[float, float] = (1.0, 1.0),
) -> tuple[Object, ...] | None:
    """Places objects of the given kinds uniformly at random, apart from one another.

    Args:
        rng: The source of all randomness.
        kinds: One for each object.
        world: How large they are and how far apart.
        tries: Places that are drawn for an object before giving up.
        frame: Width and height of the scene.

    Returns:
        The objects, or None where one of them found no room in `tries` draws.
    """
    width, height = frame
    radii = {size: (low, high - low) for size, low, high in world.radii}
    placed: list[Object] = []
    for shape, colour, size in sorted(kinds, key=lambda kind: -radii[kind[2]][0]):  # large ones while there is room
        low, spread = radii[size]
        radius = low + spread * rng.random()
        left, top, right, bottom = EXTENTS[shape] * radius + world.border
        points = rng.random((tries, 2)) * (width - left - right, height - top - bottom) + (left, top)
        far_enough = np.ones(tries, bool)
        for old in placed:  # the cheap half of the test first: no outline reaches in by more than a quarter radius
            nearest = 0.75 * (radius + old.radius) + world.gap
            far_enough &= ((points - (old.x, old.y)) ** 2).sum(1) >= nearest**2
        for x, y in points[far_enough].tolist():
            new = Object(shape, colour, size, x, y, radius)
            if all(_apart(new, old, world.gap) for old in placed):
                placed.append(new)
                break
        else:
            return None
    return tuple(placed)


def sample_scene(
    rng: np.random.Generator,
    world: World,
    kinds: Sequence[Draw] | None = None,
    accept: Callable[[Sequence[Draw]], bool] = lambda draws: True,
    repeat: float = 0.25,
    frame: tuple[float, float] = (1.0, 1.0),
) -> Scene:
    """Draws a scene: background and number of objects uniform, places uniform among those that leave the gaps.

    Args:
        rng: The source of all randomness.
        world: What may occur.
        kinds: Kinds to choose from, all of the world's when None.
        accept: Says of the objects' kinds whether to go on and place them, which is the costly part.
        repeat: Probability that all objects are of one kind ("three small red circles").
        frame: Width and height of the scene.
    """
    kinds = kinds or world.kinds
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    num_objects = 0
    while True:
        number = num_objects or int(rng.integers(world.num_objects[0], world.num_objects[1] + 1))
        same = rng.random() < repeat
        draws = [kinds[i] for i in rng.integers(len(kinds), size=1 if same else number)]
        draws = draws * number if same else draws
        if not accept(draws):
            continue
        num_objects = number  # kept where there is no room, or full scenes would be rare
        objects = place(rng, draws, world, frame=frame)
        if objects is not None:
            return Scene(background, objects, *frame)
