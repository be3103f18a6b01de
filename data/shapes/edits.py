"""Edits of scenes: what an instruction asks as data, as a sentence, as the scene it leads to, and as a verdict.

A change names its object by a kind that matches no other object of the scene. All that it does not name stays: the
other objects exactly as they are, the centre of what is recoloured, reshaped or resized, the looks of what is moved.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from data.shapes.captions import SLACK
from data.shapes.checker import parse, same_object
from data.shapes.frames import Frames, read, write
from data.shapes.programs import CORNER_REACH, CORNERS, Corner, Kind, holds
from data.shapes.scene import BACKGROUNDS, EXTENTS, Object, Scene, World, fits
from data.shapes.splits import COMBINATIONS, belongs, sample_split_scene

PLACE_TRIES = 10  # places tried for an object that is moved or added
CHANGE_TRIES = 20  # changes of one type tried on a scene
SCENE_TRIES = 200  # scenes tried for a change of one type, before another type is


@dataclass(frozen=True)
class Recolour:
    """The object of the kind gets another colour."""

    kind: Kind
    colour: str


@dataclass(frozen=True)
class Reshape:
    """The object of the kind gets another shape, of the same area."""

    kind: Kind
    shape: str


@dataclass(frozen=True)
class Resize:
    """The object of the kind becomes small or large."""

    kind: Kind
    size: str


@dataclass(frozen=True)
class Move:
    """The object of the kind goes to a corner in which it is not."""

    kind: Kind
    corner: str


@dataclass(frozen=True)
class Add:
    """Another object of the kind, of which shape, colour and size are given, joins: in the corner, or anywhere."""

    kind: Kind
    corner: str | None = None


@dataclass(frozen=True)
class Remove:
    """The object of the kind goes."""

    kind: Kind


@dataclass(frozen=True)
class Swap:
    """Two objects of different colours exchange them."""

    first: Kind
    second: Kind


@dataclass(frozen=True)
class Repaint:
    """The background gets another name."""

    background: str


T = TypeVar("T")
Change = Recolour | Reshape | Resize | Move | Add | Remove | Swap | Repaint

FRAMES: Frames = {
    Recolour: (
        "make the {kind} {colour}",
        "paint the {kind} {colour}",
        "change the colour of the {kind} to {colour}",
    ),
    Reshape: ("turn the {kind} into a {shape}", "make the {kind} a {shape}"),
    Resize: ("make the {kind} {size}", "change the size of the {kind} to {size}"),
    Move: ("move the {kind} to the {corner} corner", "put the {kind} in the {corner} corner"),
    Add: (
        "add a {kind}",
        "put a {kind} in the picture",
        "add a {kind} in the {corner} corner",
        "put a {kind} in the {corner} corner",
    ),
    Remove: ("remove the {kind}", "erase the {kind}", "take the {kind} away"),
    Swap: (
        "swap the colours of the {first} and the {second}",
        "exchange the colours of the {first} and the {second}",
        "let the {first} and the {second} swap colours",
    ),
    Repaint: (
        "make the background {background}",
        "change the background to {background}",
        "change the colour of the background to {background}",
    ),
}
# For the split `template`: words that training instructions use, in an order that they do not.
HELD_OUT_FRAMES: Frames = {
    Recolour: ("change the {kind} to {colour}",),
    Reshape: ("change the {kind} into a {shape}",),
    Resize: ("change the {kind} to {size}",),
    Move: ("move the {kind} into the {corner} corner",),
    Add: ("add a {kind} to the picture", "add a {kind} to the {corner} corner"),
    Remove: ("take away the {kind}",),
    Swap: ("let the {first} and the {second} exchange colours",),
    Repaint: ("paint the background {background}",),
}
CHANGES: tuple[type, ...] = tuple(FRAMES)
_ALL_FRAMES: Frames = {change: FRAMES[change] + HELD_OUT_FRAMES[change] for change in CHANGES}

# What can bring about a combination that a split holds out: the rest could only keep one that was there.
_CREATING: dict[str, tuple[type, ...]] = {
    "pair": (Recolour, Reshape, Add, Swap),
    "count": (Reshape, Add),
    "size_colour": (Recolour, Resize, Add, Swap),
}


@dataclass(frozen=True)
class EditVerdict:
    """Whether a picture shows what an edit of another was to give."""

    ok: bool
    # the instruction is followed; everything that it does not name is as it was
    done: bool
    preserved: bool
    scene: Scene


def write_edit(rng: np.random.Generator, change: Change, frames: Frames = FRAMES) -> str:
    """An instruction for a change, in one of the frames for it."""
    return write(rng, change, frames)


def parse_edit(text: str) -> Change:
    """The change that an instruction asks for.

    Raises:
        ValueError: The text is no instruction; names the first word that does not fit.
    """
    return read(text, _ALL_FRAMES)


def sample_split_edit(
    rng: np.random.Generator, world: World, split: str, frame: tuple[float, float] = (1.0, 1.0)
) -> tuple[Scene, Change, Scene]:
    """Draws a scene of a width and height, a change of it and the scene after, each type that can be equally often.

    Both scenes belong to the split; but for the splits that hold combinations out, only the scene after shows one. The
    scene before is then any that is not trained on and has none, so that the change itself has to bring it about.

    Raises:
        ValueError: The split holds out relations, which no edit states.
    """
    if split == "relation":
        raise ValueError("no edit states a relation: draw edits of another split than 'relation'")
    types = [change for change in _CREATING.get(split, CHANGES) if _possible(change, world)]
    while True:
        wanted = types[rng.integers(len(types))]
        for _ in range(SCENE_TRIES):
            before = sample_split_scene(rng, world, "template" if split in COMBINATIONS else split, frame)
            edit = sample_edit(rng, before, world, lambda after: belongs(after, split), (wanted,))
            if edit:
                return before, *edit


def _possible(change: type, world: World) -> bool:
    """Whether any two scenes of a world differ by a type of change."""
    least, most = world.num_objects
    return most > least if change in (Add, Remove) else most > 1 or change is not Swap


def sample_edit(
    rng: np.random.Generator,
    scene: Scene,
    world: World,
    accept: Callable[[Scene], bool] = lambda after: True,
    types: Sequence[type] = CHANGES,
) -> tuple[Change, Scene] | None:
    """Draws a change of a scene and the scene after it.

    Args:
        rng: The source of all randomness.
        scene: The scene before.
        world: What may occur; the scene after keeps its numbers of objects, its gaps and its border.
        accept: Says of a scene after whether it may be had.
        types: Types of change to choose from; one that the scene allows is drawn.

    Returns:
        The change and the scene after, or None where none of the types was found possible.
    """
    named = [(i, kinds) for i, obj in enumerate(scene.objects) if (kinds := referents(obj, scene))]
    for i in rng.permutation(len(types)):
        for _ in range(CHANGE_TRIES):
            edit = _propose(rng, types[i], scene, world, named)
            if edit and accept(edit[1]):
                return edit
    return None


def _propose(
    rng: np.random.Generator, change: type, scene: Scene, world: World, named: list[tuple[int, list[Kind]]]
) -> tuple[Change, Scene] | None:
    """Draws one change of a type, which may not be possible; `named` are the objects that can be, and how."""
    objects = list(scene.objects)
    low, high = world.num_objects
    if change is Repaint:
        name = _one_of(rng, [name for name in BACKGROUNDS if name != scene.background])
        return Repaint(name), replace(scene, background=name)
    if change is Add:
        if len(objects) == high:
            return None
        shape, colour, size = _one_of(rng, world.kinds)
        corner = _one_of(rng, list(CORNERS)) if rng.random() < 0.5 else None
        new = Object(shape, colour, size, 0.5, 0.5, _radius(rng, size, world))
        new = _somewhere(rng, new, scene, world, corner)
        after = replace(scene, objects=(*objects, new)) if new else None
        return (Add(Kind(shape, colour, size), corner), after) if after else None

    if not named:
        return None
    i, kinds = _one_of(rng, named)
    obj, kind = objects[i], _one_of(rng, kinds)
    others = objects[:i] + objects[i + 1 :]
    if change is Remove:
        return (Remove(kind), replace(scene, objects=tuple(others))) if len(objects) > low else None
    if change is Swap:
        j, kinds = _one_of(rng, named)
        if objects[j].colour == obj.colour:
            return None
        edit = Swap(kind, _one_of(rng, kinds))
        objects[i], objects[j] = replace(obj, colour=objects[j].colour), replace(objects[j], colour=obj.colour)
        return edit, replace(scene, objects=tuple(objects))

    if change is Recolour:
        edit = Recolour(kind, _one_of(rng, [colour for colour in world.colours if colour != obj.colour]))
        new = replace(obj, colour=edit.colour)
    elif change is Reshape:
        edit = Reshape(kind, _one_of(rng, [shape for shape in world.shapes if shape != obj.shape]))
        new = replace(obj, shape=edit.shape)
    elif change is Resize:
        edit = Resize(kind, _one_of(rng, [size for size, _, _ in world.radii if size != obj.size]))
        new = replace(obj, size=edit.size, radius=_radius(rng, edit.size, world))
    else:
        edit = Move(kind, _one_of(rng, list(CORNERS)))
        elsewhere = holds(Corner(kind, edit.corner), scene, SLACK) is False
        new = _somewhere(rng, obj, replace(scene, objects=tuple(others)), world, edit.corner) if elsewhere else None
    if new is None or not fits(new, others, world, (scene.width, scene.height)):
        return None
    objects[i] = new
    return edit, replace(scene, objects=tuple(objects))


def referents(obj: Object, scene: Scene) -> list[Kind]:
    """The kinds that match this object of the scene and no other, from the barest to the fullest description."""
    return [kind for kind in descriptions(obj) if sum(map(kind.matches, scene.objects)) == 1]


def descriptions(obj: Object) -> list[Kind]:
    """All that can be said of an object, beginning with nothing."""
    return [Kind(*said) for said in product((None, obj.shape), (None, obj.colour), (None, obj.size))]


def _one_of(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _radius(rng: np.random.Generator, size: str, world: World) -> float:
    low, high = next((low, high) for name, low, high in world.radii if name == size)
    return low + (high - low) * rng.random()


def _somewhere(rng: np.random.Generator, obj: Object, scene: Scene, world: World, corner: str | None) -> Object | None:
    """The object in a free place: clearly in the corner, or anywhere; None where `PLACE_TRIES` draws find none."""
    frame = scene.width, scene.height
    left, top, right, bottom = EXTENTS[obj.shape] * obj.radius + world.border
    low, high = np.array([left, top]), np.array(frame) - (right, bottom)
    if corner:
        reach, at = CORNER_REACH[0] - SLACK, np.multiply(CORNERS[corner], frame)
        low, high = np.maximum(low, at - reach), np.minimum(high, at + reach)
    if (low >= high).any():  # the corner is too small for it
        return None
    for x, y in (low + (high - low) * rng.random((PLACE_TRIES, 2))).tolist():
        new = replace(obj, x=x, y=y)
        if fits(new, scene.objects, world, frame):
            return new
    return None


def check_edit(image: UInt8[np.ndarray, "height width 3"], before: Scene, change: Change, world: World) -> EditVerdict:
    """Judges a picture by the change that it was to show; every way to follow the instruction is right.

    Args:
        image: The picture after.
        before: The scene before.
        change: What was asked; its kinds match one object of the scene before each.
        world: The world of both.

    Returns:
        The verdict. An object where it is ambiguous whether that is the corner asked for is not there.
    """
    parsed = parse(image, world)
    kinds = () if isinstance(change, Add) else (kind for kind in vars(change).values() if isinstance(kind, Kind))
    named = [_only(kind, before) for kind in kinds]
    rest = list(parsed.scene.objects)  # without what had to stay and did
    kept = parsed.scene.background == before.background or isinstance(change, Repaint)
    for obj in before.objects:
        if not any(obj is one for one in named):
            found = next((seen for seen in rest if same_object(seen, obj)), None)
            if found:
                rest.remove(found)
            kept = kept and found is not None

    match change:
        case Recolour(_, colour):
            done, preserved = _restyled(rest, named, "colour", [colour])
        case Reshape(_, shape):
            done, preserved = _restyled(rest, named, "shape", [shape])
        case Resize(_, size):
            done, preserved = _restyled(rest, named, "size", [size])
        case Swap():
            done, preserved = _restyled(rest, named, "colour", [obj.colour for obj in reversed(named)])
        case Move(_, corner):
            full = _full(named[0])
            done = holds(Corner(full, corner), replace(before, objects=tuple(rest))) is True
            preserved = len(rest) == 1 and full.matches(rest[0])
        case Add(kind, corner):
            new = replace(before, objects=tuple(filter(kind.matches, rest)))
            done = bool(new.objects) and (corner is None or holds(Corner(kind, corner), new) is True)
            preserved = len(rest) <= 1
        case Remove():
            done = not any(_full(named[0]).matches(seen) for seen in rest)
            preserved = all(same_object(seen, named[0]) for seen in rest)
        case Repaint(background):
            done, preserved = parsed.scene.background == background, not rest
    preserved = preserved and kept
    return EditVerdict(done and preserved and parsed.clean, done, preserved, parsed.scene)


def _only(kind: Kind, scene: Scene) -> Object:
    matching = [obj for obj in scene.objects if kind.matches(obj)]
    if len(matching) != 1:
        raise ValueError(f"{kind} matches {len(matching)} objects of the scene before; an edit names exactly one")
    return matching[0]


def _full(obj: Object) -> Kind:
    return Kind(obj.shape, obj.colour, obj.size)


def _restyled(rest: list[Object], named: list[Object], attribute: str, values: list[str]) -> tuple[bool, bool]:
    """Whether each named object has its new value of an attribute, and whether all else about them is as it was."""
    if len(rest) < len(named):
        return False, False
    nearest = [min(rest, key=lambda seen: math.hypot(seen.x - obj.x, seen.y - obj.y)) for obj in named]
    done = all(getattr(seen, attribute) == value for seen, value in zip(nearest, values, strict=True))
    preserved = len(rest) == len(named) and all(
        same_object(seen, replace(obj, **{attribute: getattr(seen, attribute)}))
        for seen, obj in zip(nearest, named, strict=True)
    )
    return done, preserved
