"""Compiled passes draw what plain ones draw."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from model.draft import learn
from model.engine import Engine
from model.generate import draw_images
from model.request import ImageRequest
from model.sampling import SamplingConfig
from tokenizer.sequence import TextSegment
from tokenizer.vocabulary import TEXT_START, Vocabulary

pytestmark = pytest.mark.compile

TEN = Vocabulary(num_text=256, codebook_size=10)
SETTINGS = (
    {},
    {"guidance": 2.0, "guidance_until": 0.5},
    {"guidance": 3.0, "guidance_until": 0.7, "temperature": 0.0},
    {"guidance": 0.5, "guidance_until": 0.3, "temperature": 1.5},
)


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


def test_weights_that_bf16_holds_exactly_are_read_in_it_and_others_are_not(tiny_transformer: Callable, monkeypatch):
    monkeypatch.setattr("model.transformer._FITS_CACHES", 0)
    transformer = tiny_transformer(TEN.size, seed=3, max_length=40)
    transformer.keep_narrow()
    assert transformer.head.narrow is None
    transformer.bfloat16().float().keep_narrow()
    assert transformer.head.narrow.dtype == torch.bfloat16 and "narrow" not in " ".join(transformer.state_dict())
    drawn, expected = (list(draw_images(transformer, TEN, requests(1), engine=how))[-1] for how in (Engine(), None))
    assert torch.equal(drawn.codes, expected.codes)


def test_two_models_of_different_shapes_do_not_share_what_is_compiled(tiny_transformer: Callable):
    for depth in (1, 2):
        transformer = tiny_transformer(TEN.size, depth=depth, max_length=40)
        wanted = requests(1)
        drawn = list(draw_images(transformer, TEN, wanted, engine=Engine()))[-1].codes
        assert torch.equal(drawn, list(draw_images(transformer, TEN, wanted))[-1].codes)
