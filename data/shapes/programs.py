"""What a sentence says of a scene, as data, and whether it is so.

A program is a conjunction of facts. `holds` is the only place that decides whether a fact is true: captions are drawn
with it, pictures are checked with it, questions are answered with it. It has three answers, because geometry is not
always clear: True, False, and None where an honest person would hesitate ("left" of two objects that stand diagonally).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

from data.shapes.scene import Object, Scene

# The direction of each relation, and the place of each corner in widths and heights of the scene.
RELATIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
CORNERS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
# The direction in which each half of the scene lies from its middle.
HALVES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}

# Centres nearer than this along a relation's axis, in shorter sides, are beside each other to neither side.
RELATION_MARGIN = 0.10
# Centres nearer than this to the line between two halves, in shorter sides, are in neither.
HALF_MARGIN = 0.05
# A centre is in a corner up to the first distance from it along both axes, and clearly not beyond the second. They are
# counted in shorter sides: the middle of a side is in no corner, however long the side.
CORNER_REACH = (0.38, 0.48)


@dataclass(frozen=True)
class Kind:
    """Selects objects by what is said of them; None says nothing."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    def matches(self, obj: Object) -> bool:
        """Whether everything that is said is true of the object."""
        return self.shape in (None, obj.shape) and self.colour in (None, obj.colour) and self.size in (None, obj.size)


@dataclass(frozen=True)
class Inventory:
    """These are all the objects: each kind, in the order of the sentence, is one object, and there are no others."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Count:
    """Exactly this many objects are of the kind, whatever else there is."""

    kind: Kind
    number: int


@dataclass(frozen=True)
class Relation:
    """Some object of the first kind is to the left of (right of, above, below) some other object of the second."""

    first: Kind
    relation: str
    second: Kind


@dataclass(frozen=True)
class Corner:
    """Some object of the kind is in the corner."""

    kind: Kind
    corner: str


@dataclass(frozen=True)
class Half:
    """Some object of the kind is in the half of the scene."""

    kind: Kind
    half: str


@dataclass(frozen=True)
class Background:
    """The background has this name."""

    name: str


Fact = Inventory | Count | Relation | Corner | Half | Background
Program = tuple[Fact, ...]


def holds(statement: Fact | Program, scene: Scene, slack: float = 0.0) -> bool | None:
    """Whether a fact, or every fact of a program, is true of a scene.

    Args:
        statement: What is said.
        scene: Of what it is said.
        slack: Further distance, in shorter sides, by which geometry has to be clear. Captions are drawn with some, so
            that a picture of theirs stays true when objects move a little.

    Returns:
        True, False, or None where the geometry is ambiguous.
    """
    match statement:
        case tuple():
            return _all(holds(fact, scene, slack) for fact in statement)
        case Inventory(kinds):
            return _can_be_paired(kinds, scene.objects)
        case Count(kind, number):
            return sum(map(kind.matches, scene.objects)) == number
        case Background(name):
            return scene.background == name
        case Corner(kind, corner):
            return _any(_in_corner(obj, corner, scene, slack) for obj in scene.objects if kind.matches(obj))
        case Half(kind, half):
            return _any(_in_half(obj, half, scene, slack) for obj in scene.objects if kind.matches(obj))
        case Relation(first, relation, second):
            return _any(
                _related(a, relation, b, slack)
                for a in filter(first.matches, scene.objects)
                for b in filter(second.matches, scene.objects)
                if a is not b
            )
    raise TypeError(f"not a fact or a program: {statement!r}")


def fact_verdicts(program: Program, scene: Scene) -> dict[str, bool]:
    """A program's verdict taken apart for reports.

    Returns:
        For each thing that the program states, whether it is clearly so: "count" (of all objects), "shape", "colour"
        and "size" (each by itself, whichever object it is on), "objects" (all of them together), "relation", "corner",
        "background".
    """
    verdicts: dict[str, bool] = {}
    for fact in program:
        if isinstance(fact, Inventory):
            verdicts["count"] = len(fact.kinds) == len(scene.objects)
            for attribute in ("shape", "colour", "size"):
                if any(getattr(kind, attribute) for kind in fact.kinds):
                    kinds = [Kind(**{attribute: getattr(kind, attribute)}) for kind in fact.kinds]
                    verdicts[attribute] = _can_be_paired(kinds, scene.objects)
        name = "objects" if isinstance(fact, Inventory) else type(fact).__name__.lower()
        verdicts[name] = verdicts.get(name, True) and holds(fact, scene) is True
    return verdicts


def _can_be_paired(kinds: Sequence[Kind], objects: Sequence[Object]) -> bool:
    """Whether each kind can have one object of its own, with none left over; trying all orders is cheap up to four."""
    if len(kinds) != len(objects):
        return False
    return any(all(k.matches(obj) for k, obj in zip(kinds, order, strict=True)) for order in permutations(objects))


def _related(a: Object, relation: str, b: Object, slack: float) -> bool | None:
    dx, dy = a.x - b.x, a.y - b.y
    x, y = RELATIONS[relation]
    along, across = dx * x + dy * y, dx * y + dy * x
    if abs(along) - max(abs(across), RELATION_MARGIN) <= slack:
        return None
    return along > 0


def _in_corner(obj: Object, corner: str, scene: Scene, slack: float) -> bool | None:
    x, y = CORNERS[corner]
    away = max(abs(obj.x - x * scene.width), abs(obj.y - y * scene.height))
    within, beyond = CORNER_REACH
    return True if away < within - slack else False if away > beyond + slack else None


def _in_half(obj: Object, half: str, scene: Scene, slack: float) -> bool | None:
    x, y = HALVES[half]
    along = (obj.x - scene.width / 2) * x + (obj.y - scene.height / 2) * y
    return None if abs(along) <= HALF_MARGIN + slack else along > 0


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    seen = set(verdicts)
    return False if False in seen else None if None in seen else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    seen = set(verdicts)
    return True if True in seen else None if None in seen else False
