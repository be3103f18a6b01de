"""Scene -> caption, and back from any caption of the grammar to the program that it states.

    caption    = [wrapper] body ["on a" background "background"]
    body       = list | object relation object ["with" list]
    list       = things | things {"," things} "and" things
    things     = object [corner] | ("two" | "three" | "four") [size] [colour] shapes
    object     = "a" [size] [colour] shape

A caption's world is closed: every object is mentioned, though not all that could be said of it, so a picture with
anything further in it is wrong. What is said of one object is said of all of them.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np

from data.shapes.programs import (
    CORNERS,
    RELATIONS,
    Background,
    Corner,
    Fact,
    Inventory,
    Kind,
    Program,
    Relation,
    fact_verdicts,
    holds,
)
from data.shapes.scene import BACKGROUNDS, PALETTE, SHAPES, SIZES, Scene

WRAPPERS = (
    "",
    "a picture of",
    "an image with",
    "draw",
    "show",
    "a drawing of",
    "make an image of",
    "please paint",
)
# For the split `template`: words that training captions use, in an order that they do not.
HELD_OUT_WRAPPERS = ("a drawing with", "please draw a picture of", "show an image of", "paint")

# Probabilities: nothing around the caption (beyond its share as one of the wrappers); sizes and background stated;
# shapes, and colours, left out; a relation, and a corner, stated where the scene has a clear one.
BARE, STATE_SIZE, STATE_BACKGROUND = 0.55, 0.5, 0.7
LEAVE_OUT_SHAPE, LEAVE_OUT_COLOUR = 0.025, 0.025
STATE_RELATION, STATE_CORNER = 0.4, 0.25
# Captions state geometry only where it stays true when objects move by about this much, in shorter sides.
SLACK = 0.05

_NUMBERS = {"two": 2, "three": 3, "four": 4}
_NUMBER_WORDS = {number: word for word, number in _NUMBERS.items()}
_PLURALS = {None: "shapes"} | {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
RELATION_PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}

# What can be left out of a caption so that it still is one, its colours or its shapes: each as substitutions of regular
# expressions, one after another.
OMISSIONS = (
    ((rf"\b(?:{'|'.join(PALETTE)}) ", ""),),
    ((rf"\b(?:{'|'.join(SHAPES)})\b", "shape"), (rf"\b(?:{'|'.join(_PLURALS.values())})\b", "shapes")),
)


class CaptionVerdict(NamedTuple):
    """Whether a text is a true caption of a scene, and the verdict taken apart."""

    ok: bool
    # the verdict by kind of fact, see `fact_verdicts`, and whether the text is a caption of the "grammar" at all
    facts: dict[str, bool]


def sample_caption(rng: np.random.Generator, scene: Scene, wrappers: tuple[str, ...] = WRAPPERS) -> tuple[str, Program]:
    """Draws one of the many true captions of a scene, and the program that it states."""
    program = _sample_program(rng, scene)
    bare = "" in wrappers and rng.random() < BARE
    return write_caption(program, "" if bare else wrappers[rng.integers(len(wrappers))]), program


def _sample_program(rng: np.random.Generator, scene: Scene) -> Program:
    sized, leave_out = rng.random() < STATE_SIZE, rng.random()
    shaped, coloured = leave_out >= LEAVE_OUT_SHAPE, not 0 <= leave_out - LEAVE_OUT_SHAPE < LEAVE_OUT_COLOUR
    kinds = [
        Kind(obj.shape if shaped else None, obj.colour if coloured else None, obj.size if sized else None)
        for obj in scene.objects
    ]
    numbers = {kind: kinds.count(kind) for kind in kinds}
    order = list(numbers)
    rng.shuffle(order)

    candidates: list[Fact] = []
    single = [kind for kind in order if numbers[kind] == 1]
    form = rng.random()
    if form < STATE_RELATION:
        candidates = [Relation(a, relation, b) for a in single for b in single if a is not b for relation in RELATIONS]
    elif form < STATE_RELATION + STATE_CORNER:
        candidates = [Corner(kind, corner) for kind in single for corner in CORNERS]
    candidates = [candidates[i] for i in rng.permutation(len(candidates))]
    geometry = next((fact for fact in candidates if holds(fact, scene, SLACK)), None)
    if isinstance(geometry, Relation):  # its two are mentioned first
        order.sort(key=lambda kind: 0 if kind == geometry.first else 1 if kind == geometry.second else 2)
    inventory = Inventory(tuple(kind for kind in order for _ in range(numbers[kind])))
    background = Background(scene.background) if rng.random() < STATE_BACKGROUND else None
    return tuple(fact for fact in (inventory, geometry, background) if fact)


def write_caption(program: Program, wrapper: str = "") -> str:
    """The caption that states a program: an inventory, then at most one relation or corner, then the background."""
    inventory, *facts = program
    if not isinstance(inventory, Inventory):
        raise TypeError(f"a caption's program begins with its inventory, not with {inventory!r}")
    things = {kind: _things(kind, len(list(group))) for kind, group in groupby(inventory.kinds)}
    background = ""
    relation = None
    for fact in facts:
        match fact:
            case Relation():
                relation = fact
            case Corner(kind, corner):
                things[kind] += f" in the {corner} corner"
            case Background(name):
                background = f"on a {name} background"
            case _:
                raise ValueError(f"no caption states {fact!r} beside its inventory")
    if relation:
        first, second = things.pop(relation.first), things.pop(relation.second)
        body = f"{first} {RELATION_PHRASES[relation.relation]} {second}"
        body += f" with {_list(list(things.values()))}" if things else ""
    else:
        body = _list(list(things.values()))
    return " ".join(part for part in (wrapper, body, background) if part)


def _things(kind: Kind, number: int) -> str:
    return f"{'a' if number == 1 else _NUMBER_WORDS[number]} {noun_phrase(kind, plural=number > 1)}"


def noun_phrase(kind: Kind, plural: bool = False) -> str:
    """What is said of a kind, without an article: "small red circle", or "shapes" of the kind that says nothing."""
    noun = _PLURALS[kind.shape] if plural else kind.shape or "shape"
    return " ".join(word for word in (kind.size, kind.colour, noun) if word)


def _list(parts: list[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def parse_caption(text: str) -> Program:
    """The program that a caption states.

    Raises:
        ValueError: The text is not a caption of the grammar; names the first word that does not fit.
    """
    reader = Reader(text)
    reader.one_of(_WRAPPERS)
    kinds = reader.listing()
    if len(kinds) == 1 and (phrase := reader.one_of(_RELATIONS)):
        kinds += reader.object()
        reader.facts.append(Relation(kinds[0], _RELATIONS[phrase], kinds[1]))
        if reader.one_of(["with"]):
            kinds += reader.listing()
    if reader.one_of(["on a"]):
        reader.facts.append(Background(reader.need(BACKGROUNDS)))
        reader.need(["background"])
    reader.end()
    return (Inventory(kinds), *reader.facts)


def check_caption(text: str, scene: Scene) -> CaptionVerdict:
    """Judges a description of a scene: it has to state nothing untrue and to mention every object.

    Args:
        text: Any text; one that is no caption of the grammar is wrong.
        scene: What it is to describe.

    Returns:
        The verdict. Ambiguous geometry counts as untrue.
    """
    try:
        facts = {**fact_verdicts(parse_caption(text), scene), "grammar": True}
    except ValueError:
        facts = {"grammar": False}
    return CaptionVerdict(all(facts.values()), facts)


_WRAPPERS = sorted(filter(None, WRAPPERS + HELD_OUT_WRAPPERS), key=len, reverse=True)  # the longest that fits
_RELATIONS = {phrase: relation for relation, phrase in RELATION_PHRASES.items()}
_CORNERS = {f"in the {corner} corner": corner for corner in CORNERS}
_SINGULARS: Mapping[str, str | None] = {"shape": None} | {shape: shape for shape in SHAPES}
_MANY: Mapping[str, str | None] = {plural: shape for shape, plural in _PLURALS.items()}


class Reader:
    """The words of a text, how many of them have been read, and the facts found beside a caption's inventory."""

    def __init__(self, text: str):
        self.text = text
        self.words = text.replace(",", " ,").replace("?", " ?").split()
        self.at = 0
        self.facts: list[Fact] = []

    def one_of(self, phrases: Iterable[str]) -> str | None:
        """Reads the first of the phrases that comes next, if one does."""
        for phrase in phrases:
            words = phrase.split()
            if self.words[self.at : self.at + len(words)] == words:
                self.at += len(words)
                return phrase
        return None

    def need(self, phrases: Iterable[str]) -> str:
        """Reads the first of the phrases that comes next; that none does is an error."""
        phrase = self.one_of(phrases)
        if phrase is None:
            raise self.error(" or ".join(phrases))
        return phrase

    def end(self) -> None:
        """Makes sure that nothing is left to read."""
        if self.at < len(self.words):
            raise self.error("the end")

    def error(self, expected: str) -> ValueError:
        """What to raise where the next word is not as expected."""
        word = repr(self.words[self.at]) if self.at < len(self.words) else "the end"
        return ValueError(f"word {self.at + 1} of {self.text!r} is {word}, expected {expected}")

    def listing(self) -> tuple[Kind, ...]:
        kinds = self.things()
        enumerated = False
        while self.one_of([","]):
            kinds += self.things()
            enumerated = True
        if self.need(["and"]) if enumerated else self.one_of(["and"]):
            kinds += self.things()
        return kinds

    def things(self) -> tuple[Kind, ...]:
        if number := self.one_of(_NUMBERS):
            return (self.kind(plural=True),) * _NUMBERS[number]
        return self.object()

    def object(self) -> tuple[Kind, ...]:
        self.need(["a"])
        kind = self.kind()
        if corner := self.one_of(_CORNERS):
            self.facts.append(Corner(kind, _CORNERS[corner]))
        return (kind,)

    def kind(self, plural: bool = False) -> Kind:
        """Reads a `noun_phrase`."""
        nouns = _MANY if plural else _SINGULARS
        size, colour = self.one_of(SIZES), self.one_of(PALETTE)
        return Kind(nouns[self.need(nouns)], colour, size)
