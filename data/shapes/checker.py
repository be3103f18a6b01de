"""Pixels -> scene, without learned weights, and whether a picture shows what a program states.

1. Colours are told by hue. The part of a pixel that no gray has is a vector in the chroma plane; its angle names the
   colour and its length says how much of the pixel the object covers. A blurred edge keeps both.
2. Neighbouring pixels of one hue, more covered than not, are one object. Its soft area gives its radius, hence its
   size, and its soft centroid its place: blur conserves both.
3. The object is moved into a frame of its own, centred and of radius 1, and compared there with every shape at several
   blurs. One set of templates so serves all sizes, places and resolutions.
4. What is left has to be one of the backgrounds, and the same nearly everywhere: anything else is junk.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from data.shapes.programs import Program, fact_verdicts
from data.shapes.scene import BACKGROUNDS, COLOURS, DISTANCES, PALETTE, Object, Scene, World

UNKNOWN = "unknown"  # a shape, colour, size or background that is none of the world's

MIN_COVERAGE = 0.5  # of a pixel that belongs to an object
MIN_SCORE = 0.95  # agreement with the best template, of 1: true shapes reach 0.98, half of all random blobs do not this
MAX_HUE_ERROR = math.radians(20)
MAX_BACKGROUND_ERROR = 0.12  # of the whole background, in any channel, of 1
MAX_STRAY = 0.2  # of a pixel from the background, in any channel, before it is junk
MAX_JUNK = 0.01  # share of the picture's pixels
MAX_SHIFT = 0.06  # between centres of the same object, in shorter sides
WORKING_SIZE = 64  # larger pictures are averaged down until their shorter side has about so many pixels

# The frame in which shapes are compared: this many points to a side, reaching this many radii from the centre.
FRAME, FRAME_REACH = 32, 1.7
TEMPLATE_BLURS = (0.06, 0.13, 0.22)  # standard deviation in radii
TEMPLATE_SCALES = (0.95, 1.0, 1.05)


@dataclass(frozen=True)
class Parsed:
    """What was found in a picture."""

    # attributes that are none of the world's are UNKNOWN
    scene: Scene
    # for each object, its agreement with its shape, and how much better that is than with the next shape
    scores: tuple[float, ...]
    margins: tuple[float, ...]
    # share of the picture that is neither object nor background
    junk: float

    @property
    def clean(self) -> bool:
        """Whether all of the picture was understood, whatever it shows."""
        known = all(UNKNOWN not in (obj.shape, obj.colour) for obj in self.scene.objects)
        return known and self.scene.background != UNKNOWN and self.junk <= MAX_JUNK


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what a program states, and nothing that it should not."""

    ok: bool
    # the verdict by kind of fact, see `fact_verdicts`, and whether the picture is "clean"
    facts: dict[str, bool]
    scene: Scene


def check(image: UInt8[np.ndarray, "height width 3"], program: Program, world: World) -> Verdict:
    """Judges a picture by the program that it was to show."""
    parsed = parse(image, world)
    facts = {**fact_verdicts(program, parsed.scene), "clean": parsed.clean}
    return Verdict(all(facts.values()), facts, parsed.scene)


def same_scene(parsed: Parsed, scene: Scene) -> bool:
    """Whether a picture shows this very scene: the ceiling that a tokenizer sets is measured with it."""
    found = parsed.scene
    return (
        parsed.clean
        and (found.width, found.height) == (scene.width, scene.height)
        and found.background == scene.background
        and len(found.objects) == len(scene.objects)
        and all(any(same_object(seen, obj) for seen in found.objects) for obj in scene.objects)
    )


def same_object(a: Object, b: Object) -> bool:
    """Whether two objects agree in shape, colour and size and stand in about the same place."""
    near = math.hypot(a.x - b.x, a.y - b.y) <= MAX_SHIFT
    return near and (a.shape, a.colour, a.size) == (b.shape, b.colour, b.size)


def parse(image: UInt8[np.ndarray, "height width 3"], world: World) -> Parsed:
    """Finds the scene that a picture shows."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an RGB picture of bytes, got {image.dtype} of shape {image.shape}")
    pixels = _shrink(image / 255.0)
    height, width = pixels.shape[:2]
    size = min(height, width)
    chroma = pixels @ _CHROMA
    directions = np.array([PALETTE[name] for name in world.colours]) @ _CHROMA
    coverage = chroma @ directions.T  # (height, width, colours): by an object of that colour, were it one
    hues = coverage.argmax(-1)
    labels = components(np.where(np.hypot(*chroma.T).T > MIN_COVERAGE, hues, -1))

    min_area = math.pi * (min(low for _, low, _ in world.radii) / 2 * size) ** 2
    numbers = 1 + np.flatnonzero(np.bincount(labels.ravel())[1:] >= min_area / 2)
    free = ~np.isin(labels, numbers)
    unexplained = np.ones((height, width), bool)
    objects, scores, margins = [], [], []
    for number in numbers:
        core = labels == number
        region = _grow(_grow(core)) & (core | free)  # a blurred edge reaches a little further
        hue = int(hues[core][0])
        mask = np.where(region, coverage[..., hue], 0)
        area = mask.sum()
        if area < min_area:
            continue
        radius = math.sqrt(area / math.pi)
        x = float(mask.sum(0) @ (np.arange(width) + 0.5) / area)
        y = float(mask.sum(1) @ (np.arange(height) + 0.5) / area)
        shape, score, margin = _match(mask, x, y, radius, world.shapes)
        mean = chroma[core].mean(0)
        known = mean @ directions[hue] / np.hypot(*mean) >= math.cos(MAX_HUE_ERROR)
        colour = world.colours[hue] if known else UNKNOWN
        objects.append(Object(shape, colour, _size(radius / size, world), x / size, y / size, radius / size))
        scores.append(score)
        margins.append(margin)
        unexplained &= ~region
    background, junk = _background(pixels, unexplained)
    scene = Scene(background, tuple(objects), width / size, height / size)
    return Parsed(scene, tuple(scores), tuple(margins), junk)


def components(classes: Int[np.ndarray, "height width"]) -> Int[np.ndarray, "height width"]:
    """Numbers the connected areas of equal class from 1; pixels of class -1 are 0. Neighbours share a side."""
    width = classes.shape[1] + 2
    left = np.pad(classes, 1, constant_values=-1).ravel().tolist()  # the class, and -1 once numbered
    labels = [0] * len(left)
    count = 0
    for start, kind in enumerate(left):
        if kind < 0:
            continue
        count += 1
        left[start], labels[start] = -1, count
        frontier = [start]
        while frontier:
            at = frontier.pop()
            for neighbour in (at - 1, at + 1, at - width, at + width):
                if left[neighbour] == kind:
                    left[neighbour], labels[neighbour] = -1, count
                    frontier.append(neighbour)
    return np.array(labels).reshape(-1, width)[1:-1, 1:-1]


# Two axes at right angles to gray, scaled so that the palette's colours lie on the unit circle, and those points.
_CHROMA = np.array([[2, 0], [-1, math.sqrt(3)], [-1, -math.sqrt(3)]]) / math.sqrt(6)
_CHROMA /= np.hypot(*(np.array(COLOURS["red"]) @ _CHROMA))


def _shrink(pixels: Float[np.ndarray, "height width 3"]) -> Float[np.ndarray, "h w 3"]:
    """Averages blocks of pixels, as large as leave the working size or more."""
    height, width = pixels.shape[:2]
    factor = max(1, min(height, width) // WORKING_SIZE)
    if height % factor or width % factor:
        raise ValueError(f"a picture of {height} x {width} pixels has no whole blocks of {factor}; resize it first")
    return pixels.reshape(height // factor, factor, width // factor, factor, 3).mean((1, 3))


def _grow(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask and its neighbours, diagonal ones too."""
    across = mask.copy()
    across[:, 1:] |= mask[:, :-1]
    across[:, :-1] |= mask[:, 1:]
    grown = across.copy()
    grown[1:] |= across[:-1]
    grown[:-1] |= across[1:]
    return grown


def _size(radius: float, world: World) -> str:
    """The size whose range holds the radius, widened by a third of the gap between the ranges."""
    (_, _, lower), (_, upper, _) = world.radii
    tolerance = (upper - lower) / 3
    fits = (size for size, low, high in world.radii if low - tolerance <= radius <= high + tolerance)
    return next(fits, UNKNOWN)


def _background(pixels: Float[np.ndarray, "h w 3"], free: Bool[np.ndarray, "h w"]) -> tuple[str, float]:
    """The background's name, and the share of the picture that is neither it nor object; noise averages out."""
    if not free.any():
        return UNKNOWN, 0.0
    colour = np.median(pixels[free], axis=0)
    name = min(BACKGROUNDS, key=lambda name: abs(BACKGROUNDS[name] - colour).max())
    known = abs(BACKGROUNDS[name] - colour).max() <= MAX_BACKGROUND_ERROR
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1)).mean((-1, -2))
    stray = (abs(smooth - colour) > MAX_STRAY).any(-1) & free
    return name if known else UNKNOWN, float(stray.mean())


def _match(
    mask: Float[np.ndarray, "h w"], x: float, y: float, radius: float, shapes: tuple[str, ...]
) -> tuple[str, float, float]:
    """The shape that a mask agrees with best, their Dice coefficient, and its lead over the next shape."""
    steps = np.linspace(-FRAME_REACH, FRAME_REACH, FRAME) * radius - 0.5
    frame = _interpolation(y + steps, mask.shape[0]) @ mask @ _interpolation(x + steps, mask.shape[1]).T
    templates, norms = _templates(shapes)
    dice = 2 * (templates @ frame.ravel()) / (norms + (frame**2).sum())
    best = dice.reshape(len(shapes), -1).max(1)
    order = best.argsort()
    score = float(best[order[-1]])
    return shapes[order[-1]] if score >= MIN_SCORE else UNKNOWN, score, score - float(best[order[-2]])


def _interpolation(places: Float[np.ndarray, " k"], size: int) -> Float[np.ndarray, "k size"]:
    """The matrix that reads places, counted in pixels from the first one's centre, off a line of pixels."""
    return np.clip(1 - abs(places[:, None] - np.arange(size)), 0, None)


@lru_cache
def _templates(shapes: tuple[str, ...]) -> tuple[Float[np.ndarray, "template point"], Float[np.ndarray, " template"]]:
    """Every shape at every scale and blur in the frame of a match, one a row, shapes outermost; and their energies."""
    steps = np.linspace(-FRAME_REACH, FRAME_REACH, FRAME)
    fine = np.linspace(-FRAME_REACH - 0.5, FRAME_REACH + 0.5, 8 * FRAME)
    rows = []
    for shape in shapes:
        for scale in TEMPLATE_SCALES:
            inside = (DISTANCES[shape](fine[None] / scale, fine[:, None] / scale) < 0).astype(float)
            for blur in TEMPLATE_BLURS:
                weights = np.exp(-(((steps[:, None] - fine) / blur) ** 2) / 2)
                weights /= weights.sum(1, keepdims=True)
                rows.append((weights @ inside @ weights.T).ravel())
    templates = np.array(rows)
    return templates, (templates**2).sum(1)
