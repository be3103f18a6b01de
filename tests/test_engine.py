"""Compiled passes draw what plain ones draw."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from model.draft import learn
from model.engine import Engine
from model.generate import ImageRequest, draw_images
from model.sampling import SamplingConfig
from tokenizer.sequence import TextSegment
from tokenizer.vocabulary import TEXT_START, Vocabulary

pytestmark = pytest.mark.compile

TEN = Vocabulary(num_text=256, codebook_size=10)
SETTINGS = ({}, {"guidance": 2.0}, {"guidance": 3.0, "temperature": 0.0}, {"guidance": 0.5, "temperature": 1.5})


def requests(count: int) -> list[ImageRequest]:
    """Prompts of different lengths, grids, settings and seeds."""
    return [
        ImageRequest(
            [TextSegment([TEXT_START + 3] * (number + 1))],
            [(3, 4), (2, 2), (1, 5)][number % 3],
            SamplingConfig(**SETTINGS[number % len(SETTINGS)]),
            seed=number,
            sample=number % 2,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("window", [1, 4])
def test_compiled_passes_draw_the_same_pictures_whatever_the_batch(window: int, tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=3, depth=1, max_length=40)
    table = learn(np.random.default_rng(0).integers(0, 10, (50, 4, 4)))
    engine = Engine()
    for count in (4, 3, 4):  # three are padded to four
        drawn, expected = (
            list(draw_images(transformer, TEN, requests(count), width, table, how))[-1]
            for width, how in ((window, engine), (1, None))
        )
        assert torch.equal(drawn.counts, expected.counts)
        for row, size in enumerate(expected.counts.tolist()):
            assert torch.equal(drawn.codes[row, :size], expected.codes[row, :size])


def test_two_models_of_different_shapes_do_not_share_what_is_compiled(tiny_transformer: Callable):
    for depth in (1, 2):
        transformer = tiny_transformer(TEN.size, depth=depth, max_length=40)
        wanted = requests(2)
        drawn = list(draw_images(transformer, TEN, wanted, engine=Engine()))[-1].codes
        assert torch.equal(drawn, list(draw_images(transformer, TEN, wanted))[-1].codes)
