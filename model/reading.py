"""Requests to text: what a model says of pictures and in a conversation, and how likely it holds what others say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int

from model.cache import Memory
from model.write import TextRequest, log_likelihoods, write_texts
from tasks.conversation import LINE_BREAK, describing, line
from tokenizer.vocabulary import IMAGE, TEXT_START

if TYPE_CHECKING:
    from model.pretrained import Pretrained

MOST_WRITTEN = 256  # ids of one answer


class Written(NamedTuple):
    """One turn of text, and whether the model opened an image after it."""

    # without the line break that ends it
    text: str
    # with the line break, if the model came to it
    ids: list[int]
    opens_image: bool


def write(
    model: "Pretrained", requests: Sequence[TextRequest], batch_size: int = 64, memory: Memory | None = None
) -> list[Written]:
    """Writes the texts of requests, each until it ends its line; `memory` is for one request alone."""
    (stop,) = model.text_tokenizer.encode(LINE_BREAK)
    written: list[Written] = []
    for start in range(0, len(requests), batch_size):
        some = requests[start : start + batch_size]
        for ids in write_texts(model.transformer, model.vocabulary, some, stop, MOST_WRITTEN, memory):
            text = [token for token in ids if token >= TEXT_START]
            said = model.text_tokenizer.decode(text).removesuffix(LINE_BREAK)
            written.append(Written(said, text, bool(ids) and ids[-1] == IMAGE))
    return written


def description_scores(
    model: "Pretrained", prompts: Sequence[str], codes: Sequence[Int[np.ndarray, "_ _"]]
) -> list[tuple[float, float]]:
    """Log probabilities, in nats, of each picture of these codes, and of its prompt as what is said of it."""
    encode = model.text_tokenizer.encode
    told = [[*describing(grid, encode), line(text, encode)] for text, grid in zip(prompts, codes, strict=True)]
    likely = log_likelihoods(model.transformer, model.vocabulary, told)
    return [(float(each[0]), float(each[-1])) for each in likely]
