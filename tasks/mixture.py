"""Which abilities a model learns from its examples, and in which shares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool

from data.codes import Encoded
from tasks.conversation import Encode, asking, describing, editing, inpainting, line
from tasks.text_to_image import text_to_image
from tokenizer.sequence import ImageSegment, Segment, TextSegment


@dataclass(frozen=True)
class Mixture:
    """Shares of the sequences, in proportion to one another."""

    # caption, picture
    text_to_image: float = 1.0
    # picture, caption
    describe: float = 0.0
    # picture, question, answer
    ask: float = 0.0
    # picture, instruction, picture
    edit: float = 0.0
    # picture with holes, caption, picture
    inpaint: float = 0.0
    # caption, picture, [question, answer,] instruction, picture, question, answer
    dialogue: float = 0.0
    # caption
    text: float = 0.0

    def __post_init__(self) -> None:
        shares = {field.name: getattr(self, field.name) for field in fields(self)}
        if bad := {name: share for name, share in shares.items() if not 0 <= share < float("inf")}:
            raise ValueError(f"shares of a mixture must be 0 or more, but {bad} are not")
        if not any(shares.values()):
            raise ValueError("a mixture has no share above 0: give one to what is to be learnt")


class Telling(NamedTuple):
    """How an example is told: text to ids, and what predicting them counts in the loss, beside one for each code."""

    encode: Encode
    # of text that a user says
    said: float
    # of text that the model is to say
    written: float


T = TypeVar("T")
Task = Callable[[Encoded, Telling, np.random.Generator], list[Segment]]


def _text_to_image(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    return text_to_image(tell.encode(_one_of(rng, example.captions)), example.codes, tell.said)


def _describe(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    return [*describing(example.codes, tell.encode), line(_one_of(rng, example.captions), tell.encode, tell.written)]


def _ask(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    question, answer = _one_of(rng, example.questions)
    return [*asking(example.codes, question, tell.encode), line(answer, tell.encode, tell.written)]


def _edit(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    assert example.edit is not None
    instruction, result = example.edit
    return [*editing([example.codes], instruction, tell.encode, tell.said), ImageSegment(result.codes)]


def _inpaint(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    caption, hidden = _one_of(rng, example.captions), _hole(example.codes.shape, rng)
    return [*inpainting(example.codes, hidden, caption, tell.encode, tell.said), ImageSegment(example.codes)]


def _dialogue(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    assert example.edit is not None
    instruction, result = example.edit
    segments: list[Segment] = [line(_one_of(rng, example.captions), tell.encode, tell.said)]
    segments.append(ImageSegment(example.codes))
    if rng.random() < 0.3:
        segments += _answered(example, tell, rng)
    segments += [line(instruction, tell.encode, tell.said), ImageSegment(result.codes)]
    return segments + _answered(result, tell, rng)


def _text(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    return [TextSegment(tell.encode(_one_of(rng, example.captions)), tell.written)]


TASKS: dict[str, Task] = {
    "text_to_image": _text_to_image,
    "describe": _describe,
    "ask": _ask,
    "edit": _edit,
    "inpaint": _inpaint,
    "dialogue": _dialogue,
    "text": _text,
}
NEEDS_QUESTIONS, NEEDS_EDIT = {"ask", "dialogue"}, {"edit", "dialogue"}


def check(mixture: Mixture, example: Encoded) -> None:
    """Raises ValueError if examples like this one lack what the mixture needs."""
    wanted = {name for name in TASKS if getattr(mixture, name)}
    if not example.questions and (asked := wanted & NEEDS_QUESTIONS):
        raise ValueError(f"{', '.join(sorted(asked))} needs questions, but the data has none: set data.num_questions")
    if example.edit is None and (edited := wanted & NEEDS_EDIT):
        raise ValueError(f"{', '.join(sorted(edited))} needs edits, but the data has none: set data.edits")


def tell(
    example: Encoded,
    mixture: Mixture,
    telling: Telling,
    dropout: float,
    chooser: np.random.Generator,
    rng: np.random.Generator,
) -> list[Segment]:
    """The segments of an example.

    Args:
        example: What can be told of.
        mixture: Which abilities, in which shares.
        telling: How.
        dropout: Share of the pictures to draw whose condition loses its text, so that guidance knows them without; of
            those that then still have other pictures before them, half lose these too.
        chooser: Draws the ability, and which of an example's two pictures it is for.
        rng: Draws all else.
    """
    shares = np.array([getattr(mixture, name) for name in TASKS])
    name = list(TASKS)[chooser.choice(len(shares), p=shares / shares.sum())]
    if example.edit is not None and name not in NEEDS_EDIT and chooser.random() < 0.5:
        example = example.edit[1]
    segments = TASKS[name](example, telling, rng)
    if isinstance(segments[-1], ImageSegment) and rng.random() < dropout:
        pictures: list[Segment] = [segment for segment in segments if isinstance(segment, ImageSegment)]
        segments = pictures if rng.random() < 0.5 else pictures[-1:]
    return segments


def _answered(example: Encoded, tell: Telling, rng: np.random.Generator) -> list[Segment]:
    question, answer = _one_of(rng, example.questions)
    return [line(question, tell.encode, tell.said), line(answer, tell.encode, tell.written)]


def _hole(shape: tuple[int, ...], rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """What is hidden of a picture: a rectangle, or everything but one."""
    rows, columns = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in shape)
    inside = np.zeros(shape, bool)
    inside[slice(*rows), slice(*columns)] = True
    return ~inside if rng.random() < 0.25 else inside


def _one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
