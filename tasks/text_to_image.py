"""Text to image: the caption, then the picture. Without a caption, the unconditional picture that guidance needs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from tokenizer.sequence import ImageSegment, Segment, TextSegment


def text_to_image(text: Sequence[int], codes: Int[np.ndarray, "h w"], text_weight: float = 0.0) -> list[Segment]:
    """The segments of one example.

    Args:
        text: The caption's ids; empty for the unconditional example.
        codes: The picture's codes.
        text_weight: What predicting the caption counts in the loss, beside one for each code.
    """
    caption: list[Segment] = [TextSegment(text, text_weight)] if len(text) else []
    return [*caption, ImageSegment(codes)]
