"""Sentences with gaps: "make the {kind} {colour}" and a statement that has these fields become a text, and back.

A statement is a frozen dataclass. Its sentences are the frames with a gap for each of its fields that is not None; a
field `kind` is written in the singular into the gap {kind} and in the plural into the gap {kinds}.
"""

import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.shapes.captions import RELATION_PHRASES, Reader, noun_phrase
from data.shapes.programs import CORNERS, Kind
from data.shapes.scene import BACKGROUNDS, PALETTE, SHAPES, SIZES

Frames = Mapping[type, tuple[str, ...]]  # the sentences of each type of statement

# What can stand in the gaps that are not filled with a kind, and what it means.
_FILLINGS: dict[str, Mapping[str, str]] = {
    "colour": {name: name for name in PALETTE},
    "shape": {name: name for name in SHAPES},
    "size": {name: name for name in SIZES},
    "background": {name: name for name in BACKGROUNDS},
    "corner": {name: name for name in CORNERS},
    "relation": {phrase: relation for relation, phrase in RELATION_PHRASES.items()},
}


def write(rng: np.random.Generator, statement: Any, frames: Frames) -> str:
    """Writes a statement into one of its frames, drawn at random."""
    fillings = {}
    for name, value in vars(statement).items():
        if isinstance(value, Kind):
            fillings |= {name: noun_phrase(value), f"{name}s": noun_phrase(value, plural=True)}
        elif value is not None:
            fillings[name] = RELATION_PHRASES[value] if name == "relation" else value
    fields = {name for name, value in vars(statement).items() if value is not None}
    fitting = [frame for frame in frames[type(statement)] if set(_fields(frame)) == fields]
    return fitting[rng.integers(len(fitting))].format_map(fillings)


def read(text: str, frames: Frames) -> Any:
    """The statement whose frame a text fills.

    Raises:
        ValueError: The text fills none of the frames; names the first word that does not fit the nearest one.
    """
    furthest, complaint = -1, ValueError(f"no frames to read {text!r} with")
    for statement, sentences in frames.items():
        for frame in sentences:
            reader = Reader(text)
            try:
                found = statement(**_read_fields(reader, frame))
                reader.end()
                return found
            except ValueError as error:
                if reader.at > furthest:
                    furthest, complaint = reader.at, error
    raise complaint


def _fields(frame: str) -> list[str]:
    """The field that each gap is for, in order."""
    return [_singular(gap) for _, gap, _, _ in string.Formatter().parse(frame) if gap]


def _singular(gap: str) -> str:
    return "kind" if gap == "kinds" else gap


def _read_fields(reader: Reader, frame: str) -> dict[str, Kind | str]:
    found: dict[str, Kind | str] = {}
    for literal, gap, _, _ in string.Formatter().parse(frame):
        for word in literal.replace("?", " ?").split():
            reader.need([word])
        if gap in _FILLINGS:
            found[gap] = _FILLINGS[gap][reader.need(_FILLINGS[gap])]
        elif gap:
            found[_singular(gap)] = reader.kind(plural=gap == "kinds")
    return found
