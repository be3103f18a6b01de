"""Writing: text comes from exactly the model's distribution, row by row, and stops where a turn ends."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from model.sampling import SamplingConfig
from model.write import TextRequest, log_likelihoods, write_texts
from tokenizer.sequence import HIDDEN, ImageSegment, Segment, TextSegment, pack
from tokenizer.vocabulary import END, IMAGE, TEXT_START, Vocabulary

TEN = Vocabulary(num_text=256, codebook_size=10)
STOP = TEXT_START + 10


def conversation(number: int) -> list[Segment]:
    """One of several lengths; some end in an image."""
    text = TextSegment([TEXT_START + 5 + number, TEXT_START + 3] * (1 + number % 3))
    picture = ImageSegment(np.full((1 + number % 2, 2), number % 10))
    return [[text], [picture], [text, picture], [picture, text]][number % 4]


def requests(count: int, **settings) -> list[TextRequest]:
    return [TextRequest(conversation(n), SamplingConfig(**settings), seed=n, sample=n % 3) for n in range(count)]


@torch.no_grad()
def uncached(transformer, segments: list[Segment], written: list[int]) -> torch.Tensor:
    """Logits over text and specials for the id after `written`, from the whole sequence without a cache."""
    packed = pack(segments, TEN, transformer.config.positions, end=False)
    ids = torch.tensor([*packed.ids, *written])
    following = packed.positions[-1] + 1 + np.arange(len(written))[:, None] * [1, 1]
    places = torch.from_numpy(np.concatenate([packed.positions, following.reshape(-1, 2)]))
    return transformer.logits(transformer(ids[None], places[None]))[0, -1, TEN.text_block]


@pytest.mark.parametrize("positions", ["grid", "line"])
def test_at_temperature_zero_each_id_is_the_likeliest_that_text_may_hold(positions, tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=3, positions=positions)
    written = write_texts(transformer, TEN, requests(8, temperature=0.0), STOP, most=12)
    for segments, ids in zip(map(conversation, range(8)), written, strict=True):
        for place, token in enumerate(ids):
            logits = uncached(transformer, segments, ids[:place])
            logits[[i for i in range(TEXT_START) if i not in (END, IMAGE)]] = -torch.inf
            assert int(logits.argmax()) == token
        assert all(token not in (STOP, END, IMAGE) for token in ids[:-1])
        assert len(ids) == 12 or ids[-1] in (STOP, END, IMAGE)


def test_a_text_is_the_same_alone_and_in_any_company(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=1, loudness=0.5)
    together = write_texts(transformer, TEN, requests(12), STOP, most=20)
    assert len({tuple(ids) for ids in together}) == 12
    for request, ids in zip(requests(12), together, strict=True):
        assert write_texts(transformer, TEN, [request], STOP, most=20) == [ids]


def test_first_ids_come_from_the_models_distribution(tiny_transformer: Callable, chi_square: Callable):
    transformer = tiny_transformer(TEN.size, seed=2)
    request = [TextRequest(conversation(3), SamplingConfig(), 5, number) for number in range(3000)]
    first = torch.tensor([ids[0] for ids in write_texts(transformer, TEN, request, STOP, most=1)])
    logits = uncached(transformer, conversation(3), [])
    logits[[i for i in range(TEXT_START) if i not in (END, IMAGE)]] = -torch.inf
    assert chi_square(torch.bincount(first, minlength=len(logits)), logits.double().softmax(-1)) > 1e-4


def test_no_more_is_written_than_the_models_length_holds(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, max_length=12)
    long = TextRequest([TextSegment([TEXT_START + 1] * 8)], SamplingConfig(), 0, 0)
    short = TextRequest([TextSegment([TEXT_START + 1] * 2)], SamplingConfig(), 0, 0)
    for seed in range(20):
        both = [TextRequest(one.segments, one.sampling, seed, 0) for one in (long, short)]
        first, second = write_texts(transformer, TEN, both, STOP, most=50)
        assert 0 < len(first) <= 3 and 0 < len(second) <= 9
    with pytest.raises(ValueError, match="a conversation of 12 ids leaves no room in the model's 12"):
        write_texts(transformer, TEN, [TextRequest([TextSegment([TEXT_START] * 11)], SamplingConfig(), 0, 0)], STOP, 5)


def test_logits_that_are_no_numbers_are_reported(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size)
    with torch.no_grad():
        transformer.head.weight[TEXT_START] = torch.nan
    with pytest.raises(ValueError, match="logits for text 0 are not finite"):
        write_texts(transformer, TEN, requests(2), STOP, most=3)


def test_log_likelihoods_are_sums_over_what_comes_last(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=4)
    text, picture = TextSegment([TEXT_START + 7, TEXT_START + 9]), ImageSegment(np.array([[1, 2, 3]]))
    (_, of_text), (_, of_picture) = log_likelihoods(transformer, TEN, [[picture, text], [text, picture]])
    by_hand = sum(
        float(uncached(transformer, [picture], list(text.ids[:place])).log_softmax(-1)[text.ids[place]])
        for place in range(2)
    )
    assert float(of_text) == pytest.approx(by_hand, rel=1e-4)
    packed = pack([text, picture], TEN, "grid", end=False)
    ids, places = (torch.from_numpy(part)[None] for part in packed[:2])
    with torch.no_grad():
        logits = transformer.logits(transformer(ids, places))[0, :, TEN.image_start :].log_softmax(-1)
    first = int(packed.is_image.argmax())
    assert float(of_picture) == pytest.approx(sum(float(logits[first - 1 + i, i + 1]) for i in range(3)), rel=1e-4)


def test_log_likelihoods_are_the_same_beside_longer_sequences(tiny_transformer: Callable):
    transformer, told = tiny_transformer(TEN.size, seed=4), []
    for number in range(20):
        text = TextSegment([TEXT_START + 7] * (1 + number))
        told.append([ImageSegment(np.full((1 + number % 3, 2), number % 10)), text, text])
    alone = [log_likelihoods(transformer, TEN, [segments])[0].tolist() for segments in told]
    for one, beside in zip(alone, log_likelihoods(transformer, TEN, told), strict=True):
        assert beside.tolist() == pytest.approx(one, rel=1e-4) and len(set(one)) == 3


def test_the_log_likelihood_of_a_segment_depends_on_nothing_that_comes_later(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=4)
    picture, text = ImageSegment(np.array([[1, 2], [3, 4]])), TextSegment([TEXT_START + 7, TEXT_START + 9])
    (whole,) = log_likelihoods(transformer, TEN, [[picture, text, picture]])
    for count in (1, 2):
        (part,) = log_likelihoods(transformer, TEN, [[picture, text, picture][:count]])
        assert part.tolist() == pytest.approx(whole[:count].tolist(), rel=1e-4)


def test_hidden_codes_of_a_picture_have_no_likelihood(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=4)
    masked, whole = ImageSegment(np.array([[1, HIDDEN, 3]]), weight=0.0), ImageSegment(np.array([[1, 2, 3]]))
    (shares,) = log_likelihoods(transformer, TEN, [[masked, whole]])
    packed = pack([masked], TEN, "grid", end=False)
    ids, places = (torch.from_numpy(part)[None] for part in packed[:2])
    with torch.no_grad():
        logits = transformer.logits(transformer(ids, places))[0, :, TEN.image_start :].log_softmax(-1)
    first = int(packed.is_image.argmax())
    assert float(shares[0]) == pytest.approx(float(logits[first - 1, 1] + logits[first + 1, 3]), rel=1e-4)
    assert bool(shares.isfinite().all())
