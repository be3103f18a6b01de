"""Which abilities a model learns from its examples, in which shares, and how a sequence goes from one to the next."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool

from data.codes import Encoded
from tasks.conversation import DESCRIBE, Encode, again, inpainting, line, shown
from tasks.text_to_image import text_to_image
from tokenizer.sequence import ImageSegment, Segment, TextSegment


@dataclass(frozen=True)
class Mixture:
    """Shares of what sequences begin with, in proportion to one another, and how they go on."""

    # caption, picture
    text_to_image: float = 1.0
    # picture, caption
    describe: float = 0.0
    # picture, question, answer
    ask: float = 0.0
    # picture, instruction, the picture again, picture
    edit: float = 0.0
    # picture with holes, caption, picture
    inpaint: float = 0.0
    # caption, picture, [question, answer,] instruction, the picture again, picture, question, answer
    dialogue: float = 0.0
    # caption
    text: float = 0.0
    # turns that follow about the picture seen last, as long as the example has more to tell: it is edited, asked about
    # and described, in the shares above. One sequence then teaches several abilities for the price of its pictures
    turns: int = 0

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in TASKS}
        if bad := {name: share for name, share in shares.items() if not 0 <= share < float("inf")}:
            raise ValueError(f"shares of a mixture must be 0 or more, but {bad} are not")
        if not any(shares.values()):
            raise ValueError("a mixture has no share above 0: give one to what is to be learnt")
        if self.turns < 0:
            raise ValueError(f"turns is {self.turns}, but must be 0 or more")


class Telling(NamedTuple):
    """How an example is told: text to ids, and what predicting them counts in the loss, beside one for each code."""

    encode: Encode
    # of text that a user says
    said: float
    # of text that the model is to say
    written: float


T = TypeVar("T")


class Story:
    """What has been told of an example so far, and what is left to tell.

    Args:
        example: What can be told of.
        telling: How.
        dropout: Share of the pictures to draw whose condition loses its text, so that guidance knows them without; of
            those that then still have other pictures before them, half lose these too.
        rng: Draws all that is left open.
    """

    def __init__(self, example: Encoded, telling: Telling, dropout: float, rng: np.random.Generator) -> None:
        self.telling, self.dropout, self.rng = telling, dropout, rng
        self.segments: list[Segment] = []
        self._turn_to(example)

    def _turn_to(self, example: Encoded) -> None:
        self.example = example
        # of its picture: whether it was seen, whether a caption was said, and questions not asked yet
        self.seen = self.captioned = False
        self.questions = list(example.questions)

    def caption(self) -> str:
        """One of the captions."""
        self.captioned = True
        return _one_of(self.rng, self.example.captions)

    def say(self, text: str) -> None:
        """A user's line."""
        self.segments.append(line(text, self.telling.encode, self.telling.said))

    def answer(self, text: str) -> None:
        """The model's line."""
        self.segments.append(line(text, self.telling.encode, self.telling.written))

    def show(self) -> None:
        """The picture is seen; a user shows it unless it was drawn before."""
        if not self.seen:
            self.segments.append(shown(self.example.codes))
        self.seen = True

    def draw(self) -> None:
        """The model draws the picture, now and then without what was said or shown before."""
        if self.rng.random() < self.dropout:
            pictures: list[Segment] = [segment for segment in self.segments if isinstance(segment, ImageSegment)]
            self.segments = pictures if self.rng.random() < 0.5 else []
            self.captioned = False
        self.segments.append(ImageSegment(self.example.codes))
        self.seen = True

    def can(self, ability: str) -> bool:
        """Whether the picture seen last has something left to tell in this way."""
        left = {"describe": not self.captioned, "ask": self.questions, "edit": self.example.edit is not None}
        return self.seen and bool(left[ability])

    def change(self) -> None:
        """Asks for the example's edit and turns to its result."""
        assert self.example.edit is not None
        instruction, result = self.example.edit
        self.say(instruction)
        self.segments = again(self.segments, self.telling.said)
        self._turn_to(result)


def _text_to_image(story: Story) -> None:
    encode, said, _ = story.telling
    story.segments += text_to_image(encode(story.caption()), story.example.codes, said)[:-1]
    story.draw()


def _describe(story: Story) -> None:
    story.show()
    story.say(DESCRIBE)
    story.answer(story.caption())


def _ask(story: Story) -> None:
    story.show()
    question, answer = story.questions.pop(int(story.rng.integers(len(story.questions))))
    story.say(question)
    story.answer(answer)


def _edit(story: Story) -> None:
    story.show()
    story.change()
    story.draw()


def _inpaint(story: Story) -> None:
    codes, caption, (encode, said, _) = story.example.codes, story.caption(), story.telling
    story.segments += inpainting(codes, hole(codes.shape, story.rng), caption, encode, said)
    story.draw()


def _dialogue(story: Story) -> None:
    story.say(story.caption())
    story.draw()
    if story.rng.random() < 0.3:
        _ask(story)
    _edit(story)
    _ask(story)


def _text(story: Story) -> None:
    story.segments.append(TextSegment(story.telling.encode(story.caption()), story.telling.written))


TASKS: dict[str, Callable[[Story], None]] = {
    "text_to_image": _text_to_image,
    "describe": _describe,
    "ask": _ask,
    "edit": _edit,
    "inpaint": _inpaint,
    "dialogue": _dialogue,
    "text": _text,
}
FOLLOWING = ("describe", "ask", "edit")  # what can be asked for once a picture has been seen
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
        example, telling, dropout, rng: See Story.
        mixture: Which abilities, in which shares.
        chooser: Draws the abilities, and which of an example's two pictures it begins with.
    """
    name = _choose(chooser, mixture, TASKS)
    if example.edit is not None and name not in NEEDS_EDIT and not mixture.turns and chooser.random() < 0.5:
        example = example.edit[1]
    story = Story(example, telling, dropout, rng)
    TASKS[name](story)
    for _ in range(mixture.turns):
        if not (possible := [name for name in FOLLOWING if getattr(mixture, name) and story.can(name)]):
            break
        TASKS[_choose(chooser, mixture, possible)](story)
    return story.segments


def _choose(chooser: np.random.Generator, mixture: Mixture, abilities: Iterable[str]) -> str:
    names = list(abilities)
    shares = np.array([getattr(mixture, name) for name in names])
    return names[chooser.choice(len(names), p=shares / shares.sum())]


def hole(shape: tuple[int, ...], rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """What is hidden of a picture: a rectangle, or everything but one."""
    rows, columns = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in shape)
    inside = np.zeros(shape, bool)
    inside[slice(*rows), slice(*columns)] = True
    return ~inside if rng.random() < 0.25 else inside


def _one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]
