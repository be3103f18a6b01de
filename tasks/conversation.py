"""What a conversation is made of: what a user says, pictures, and what the model says. Each saying is a line of text.

A line ends in a line break, whoever says it: so the model knows that it is its turn, and says when its own is over.
What a user asks for need not be named anywhere else. Here is what each ability is asked for in training:

    describe        picture, "describe the picture", caption
    ask             picture, question, answer
    edit            picture, instruction, the picture again, picture
    inpaint         picture with holes, caption, picture
    a dialogue      caption, picture, instruction, the picture again, picture, question, answer, ...

Why again: reading in order, the model comes to the first codes of an object before it can know of which. In the second
reading each code has seen the whole picture, and what is to be changed in it; what is drawn then only looks there.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from tokenizer.sequence import HIDDEN, ImageSegment, Segment, TextSegment

Codes = Int[np.ndarray, "h w"]
Encode = Callable[[str], Sequence[int]]

LINE_BREAK = "\n"
DESCRIBE = "describe the picture"


def line(text: str, encode: Encode, weight: float = 0.0) -> TextSegment:
    """Something said.

    Args:
        text: What is said; a line break within it becomes a space.
        encode: Text to ids.
        weight: What predicting each id counts in the loss, beside one for each code.
    """
    return TextSegment(encode(" ".join(text.split()) + LINE_BREAK), weight)


def shown(codes: Codes) -> ImageSegment:
    """A picture that is given and not to be drawn."""
    return ImageSegment(codes, 0.0)


def describing(codes: Codes, encode: Encode) -> list[Segment]:
    """Comes before a picture's caption."""
    return asking(codes, DESCRIBE, encode)


def asking(codes: Codes, question: str, encode: Encode) -> list[Segment]:
    """Comes before the answer to a question about a picture."""
    return [shown(codes), line(question, encode)]


def again(segments: Sequence[Segment], weight: float = 0.0) -> list[Segment]:
    """A conversation that goes on with a picture: the one before is read once more, if there is any."""
    before = [segment for segment in segments if isinstance(segment, ImageSegment)]
    return [*segments, *(ImageSegment(segment.codes, weight) for segment in before[-1:])]


def editing(pictures: Sequence[Int[np.ndarray, "_ _"]], instruction: str, encode: Encode) -> list[Segment]:
    """Comes before the picture that an instruction makes of others, the last above all."""
    return again([*map(shown, pictures), line(instruction, encode)])


def inpainting(
    codes: Codes, hidden: Bool[np.ndarray, "h w"], prompt: str, encode: Encode, weight: float = 0.0
) -> list[Segment]:
    """Comes before a picture of which some codes are not known: those that are, also behind what is to be drawn."""
    return [shown(np.where(hidden, HIDDEN, codes)), line(prompt, encode, weight)]
