"""Drawing: pictures come from exactly the model's distribution, each the same however it is computed."""

import gc
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

import model.generate
from model.cache import Memory
from model.draft import learn
from model.generate import Drawn, draw_images, jacobi_window, num_bytes
from model.request import Guide, ImageRequest, guides_of, insisting
from model.sampling import SamplingConfig, draw, filter_logits, stack
from model.streams import open_image
from model.transformer import Transformer
from tokenizer.sequence import ImageSegment, Segment, TextSegment, pack, unpack
from tokenizer.vocabulary import TEXT_START, Vocabulary

THREE = Vocabulary(num_text=256, codebook_size=3)
TEN = Vocabulary(num_text=256, codebook_size=10)


def text(*numbers: int) -> list[Segment]:
    return [TextSegment([TEXT_START + number for number in numbers])]


class Wanted(NamedTuple):
    """A picture, before a test says of which size and under which settings."""

    segments: list[Segment]
    seed: int
    sample: int


def requests_of(wanted: Sequence[Wanted], grid: tuple[int, int], **settings) -> list[ImageRequest]:
    config = SamplingConfig(**settings)
    return [ImageRequest(one.segments, grid, config, one.seed, one.sample) for one in wanted]


def last(drawings: Iterable[Drawn]) -> Drawn:
    return list(drawings)[-1]


def codes_of(
    transformer: Transformer,
    vocabulary: Vocabulary,
    wanted: Sequence[Wanted],
    grid,
    window: int = 1,
    table: torch.Tensor | None = None,
    **settings,
) -> torch.Tensor:
    return last(draw_images(transformer, vocabulary, requests_of(wanted, grid, **settings), window, table)).codes


@torch.no_grad()
def uncached_logits(transformer: Transformer, vocabulary: Vocabulary, segments, codes: torch.Tensor) -> torch.Tensor:
    """(pictures, codes, codebook): straight from whole sequences, by the whole head."""
    positions = transformer.config.positions
    packed = [pack([*segments, ImageSegment(grid.numpy())], vocabulary, positions) for grid in codes]
    ids, places = (torch.from_numpy(np.stack([getattr(p, name) for p in packed])) for name in ("ids", "positions"))
    first = int(packed[0].is_image.argmax()) - 1
    return transformer.logits(transformer(ids, places))[:, first : first + codes[0].numel(), vocabulary.image_start :]


@pytest.mark.parametrize(
    ("positions", "settings"),
    [
        ("grid", {}),
        ("line", {"guidance": 2.0}),
        ("grid", {"guidance": 2.0, "temperature": 1.3}),
        ("grid", {"guidance": 1.5, "temperature": 0.7, "top_k": 2}),
        ("line", {"top_p": 0.8, "temperature": 1.5}),
    ],
)
@pytest.mark.parametrize("window", [1, 3])
def test_pictures_come_from_exactly_the_distribution_of_the_model(
    positions, settings: dict, window: int, tiny_transformer: Callable, chi_square: Callable
):
    """All 81 pictures of 2 x 2 codes out of 3, their probabilities computed one by one without a cache."""
    transformer = tiny_transformer(THREE.size, seed=4, positions=positions)
    condition, config = text(1, 2, 3), SamplingConfig(**settings)
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4)))
    grids = pictures.view(-1, 2, 2)
    conditional = uncached_logits(transformer, THREE, condition, grids)
    unconditional = uncached_logits(transformer, THREE, [], grids)
    guided = unconditional + config.guidance * (conditional - unconditional)
    shares = filter_logits(guided.flatten(0, 1), stack([config])).softmax(-1).view(guided.shape).double()
    probabilities = shares.gather(-1, pictures[:, :, None]).prod(dim=1)[:, 0]
    assert probabilities.sum() == pytest.approx(1)

    requests = [Wanted(condition, seed=7, sample=number) for number in range(1000)]
    drawn = codes_of(transformer, THREE, requests, (2, 2), window, **settings)
    counts = torch.bincount(drawn @ torch.tensor([27, 9, 3, 1]), minlength=81)
    assert (counts > 0).sum() > 5
    assert chi_square(counts, probabilities) > 1e-4
    assert chi_square(counts, torch.full((81,), 1 / 81)) < 1e-4 or (probabilities == 0).any()  # it could fail


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("positions", ["grid", "line"])
def test_a_picture_is_the_same_alone_and_in_any_company(guidance: float, positions, tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=1, positions=positions)
    mine = [Wanted(text(5, 6, 7), seed=3, sample=number) for number in range(8)]
    others = [Wanted(text(*range(length)), seed=9, sample=0) for length in (1, 12)] + [Wanted([], 3, 1)]
    together = codes_of(transformer, TEN, mine, (3, 4), guidance=guidance)
    assert len({tuple(row) for row in together.tolist()}) == 8
    for size in (1, 3):
        parts = [
            codes_of(transformer, TEN, mine[start : start + size], (3, 4), guidance=guidance)
            for start in range(0, 8, size)
        ]
        assert torch.equal(torch.cat(parts), together)
    mixed = codes_of(transformer, TEN, [others[0], mine[2], others[1], others[2], mine[0]], (3, 4), guidance=guidance)
    assert torch.equal(mixed[[1, 4]], together[[2, 0]])


def test_the_seed_and_the_number_of_a_picture_choose_it(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=1)
    requests = [Wanted(text(5), seed, sample) for seed in range(3) for sample in range(3)]
    drawn = codes_of(transformer, TEN, requests, (3, 3)).tolist()
    assert len({tuple(row) for row in drawn}) == 9
    torch.manual_seed(99)  # no global state has a say
    assert codes_of(transformer, TEN, requests, (3, 3)).tolist() == drawn


@pytest.mark.parametrize("top_k", [0, 1, 5])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
@pytest.mark.parametrize("min_p", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_an_image_holds_exactly_rows_x_columns_image_ids_under_every_setting(
    top_k: int, top_p: float, min_p: float, temperature: float, tiny_transformer: Callable
):
    """Even where the model likes text ids far better."""
    transformer = tiny_transformer(TEN.size, seed=2)
    with torch.no_grad():
        transformer.head.weight[TEN.text_block] *= 50
    settings = dict(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature, guidance=1.5)
    codes = codes_of(transformer, TEN, [Wanted(text(1), 0, n) for n in range(3)], (2, 3), **settings)
    assert codes.shape == (3, 6) and 0 <= codes.min() and codes.max() < 10
    packed = pack([*text(1), ImageSegment(codes[0].view(2, 3).numpy())], TEN, "grid")
    (_, image) = unpack(packed.ids.tolist(), TEN)
    assert isinstance(image, ImageSegment) and image.codes.shape == (2, 3)


def test_the_guidance_scale_is_the_same_at_every_step_of_every_call(
    tiny_transformer: Callable, monkeypatch: pytest.MonkeyPatch
):
    transformer = tiny_transformer(TEN.size)
    weights, choose = [], model.generate.choose
    monkeypatch.setattr(model.generate, "choose", lambda *a: weights.append(a[2].weights[0].item()) or choose(*a))
    requests = requests_of([Wanted(text(1), 0, 0)], (2, 3), guidance=2.5)
    first, again = (last(draw_images(transformer, TEN, requests)).codes for _ in range(2))
    assert weights == [1 - 2.5] * 12 and requests[0].sampling == SamplingConfig(guidance=2.5)
    assert torch.equal(first, again)


def test_guidance_changes_the_picture_and_reads_the_sequence_without_its_condition(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size)
    requests = [Wanted(text(1, 2), 0, number) for number in range(10)]
    results = {scale: codes_of(transformer, TEN, requests, (2, 3), guidance=scale) for scale in (0.0, 1.0, 2.0, 8.0)}
    for left, right in itertools.combinations(results.values(), 2):
        assert not torch.equal(left, right)
    without = [Wanted([], 0, number) for number in range(10)]
    assert torch.equal(
        codes_of(transformer, TEN, without, (2, 3), guidance=8.0), codes_of(transformer, TEN, without, (2, 3))
    )


def test_without_guidance_no_unconditional_half_is_computed(
    tiny_transformer: Callable, monkeypatch: pytest.MonkeyPatch
):
    transformer = tiny_transformer(TEN.size)
    sizes, new_cache = [], transformer.new_cache
    monkeypatch.setattr(transformer, "new_cache", lambda rows, length: sizes.append(rows) or new_cache(rows, length))
    for scale in (1.0, 2.0):
        codes_of(transformer, TEN, [Wanted(text(1), 0, n) for n in range(3)], (2, 2), guidance=scale)
    assert sizes == [3, 1, 6, 2]  # one cache for all streams, one for their prefixes


def test_guides_combine_as_published():
    full, images, none = (np.array(values) for values in ([3.0, -1.0], [2.0, 0.5], [1.0, 1.0]))

    def combined(guides: tuple[Guide, ...]) -> list[float]:
        states = {1: images, 0: none}
        rest = 1 - sum(guide.weight for guide in guides)
        return (rest * full + sum(guide.weight * states[len(guide.segments)] for guide in guides)).tolist()

    assert combined(guides_of(2.5)) == pytest.approx((none + 2.5 * (full - none)).tolist()) == [6.0, -4.0]
    by_hand = none + 1.5 * (images - none) + 4.0 * (full - images)
    assert combined(guides_of(4.0, between=text(1), between_guidance=1.5)) == pytest.approx(by_hand.tolist())
    assert guides_of(1.0) == () == guides_of(1.0, between=text(1))
    assert len(guides_of(3.0, between=text(1))) == 1 and len(guides_of(0.0)) == 1


@pytest.mark.parametrize("window", [1, 3])
def test_pictures_of_several_streams_follow_all_of_them(window: int, tiny_transformer: Callable):
    """At temperature zero, code by code from whole sequences without a cache."""
    transformer = tiny_transformer(TEN.size, seed=8)
    full, images, none = text(1, 2, 3), text(4), []
    config = SamplingConfig(temperature=0.0)
    insistent = replace(config, insistence=1.5)
    guides = guides_of(4.0, between=images, between_guidance=1.5)
    requests = [
        ImageRequest(full, (3, 3), config, 0, 0, guides),
        ImageRequest(images, (2, 2), replace(config, guidance=2.0), 1, 0),
        ImageRequest(full, (2, 3), config, 2, 0),
        ImageRequest(full, (2, 2), config, 3, 0, guides_of(3.0) + insisting(insistent, [images, text(1, 2)])),
    ]
    drawn = last(draw_images(transformer, TEN, requests, window)).codes
    for row, (grid, formula) in enumerate(
        [
            ((3, 3), lambda f, i, n, s: n + 1.5 * (i - n) + 4.0 * (f - i)),
            ((2, 2), lambda f, i, n, s: n + 2.0 * (i - n)),
            ((2, 3), lambda f, i, n, s: f),
            ((2, 2), lambda f, i, n, s: n + 3.0 * (f - n) + 1.5 * (f - i) + 1.5 * (f - s)),
        ]
    ):
        codes = drawn[row : row + 1, : grid[0] * grid[1]]
        states = (
            uncached_logits(transformer, TEN, segments, codes.view(1, *grid))
            for segments in (full, images, none, text(1, 2))
        )
        assert torch.equal(formula(*states).argmax(-1), codes)


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("drafted", [False, True])
def test_known_codes_stay_and_the_others_are_drawn_after_them(window: int, drafted: bool, tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=5)
    table = learn(np.random.default_rng(0).integers(0, 10, (50, 4, 4))) if drafted else None
    free = codes_of(transformer, TEN, [Wanted(text(1), 3, 0)], (4, 4), temperature=0.7)[0].numpy()
    known = np.full((4, 4), -1)
    known[1, 1:3] = known[3, 0] = 7
    config = SamplingConfig(guidance=2.0, temperature=0.7)
    requests = [ImageRequest(text(1), (4, 4), config, 3, 0, known=given) for given in (known, None, free.reshape(4, 4))]
    some, none, every = last(draw_images(transformer, TEN, requests, window, table)).codes.view(3, 4, 4).numpy()
    assert (some[known >= 0] == 7).all() and (every.reshape(-1) == free).all()
    assert (some.reshape(-1)[:5] == none.reshape(-1)[:5]).all()  # nothing is known before the sixth
    assert (after(transformer, requests[0], some) == some)[known < 0].all()


def after(transformer: Transformer, request: ImageRequest, codes: np.ndarray) -> np.ndarray:
    """What is drawn for each place after the codes before it, from whole sequences; guidance is 2."""
    own, other = (uncached_logits(transformer, TEN, s, torch.from_numpy(codes)[None]) for s in (request.segments, []))
    places = torch.arange(codes.size) + len(open_image(request.segments, request.grid, TEN, "grid")[0].ids)
    seeds, samples = (torch.full((codes.size,), value) for value in (request.seed, request.sample))
    settings = stack([request.sampling]).repeat(codes.size)
    drawn = draw((other + 2.0 * (own - other))[0], settings, seeds, samples, places, torch.arange(10) + TEN.image_start)
    return drawn.view(request.grid).numpy() - TEN.image_start


@pytest.mark.parametrize("window", [1, 4])
def test_codes_given_before_the_first_drawn_one_and_after_the_last_take_no_pass(
    window: int, tiny_transformer: Callable
):
    transformer = tiny_transformer(TEN.size, seed=5)
    rng, config = np.random.default_rng(0), SamplingConfig(guidance=2.0, temperature=0.7)
    requests = []
    for number, hole in enumerate([np.s_[1:3, 1:3], np.s_[0, 1:4], np.s_[3, 3]]):
        known = rng.integers(0, 10, (4, 4))
        known[hole] = -1
        requests.append(ImageRequest(text(*range(number + 1)), (4, 4), config, 3, number, known=known))
    assert [request.span for request in requests] == [(5, 11), (1, 4), (15, 16)]
    passes = list(draw_images(transformer, TEN, requests, window))
    assert len(passes) == 6 if window == 1 else len(passes) <= 6
    assert passes[-1].counts.tolist() == [16, 16, 16]
    for request, codes in zip(requests, passes[-1].codes.view(3, 4, 4).numpy(), strict=True):
        hidden = request.known < 0
        assert (codes == request.known)[~hidden].all()
        assert (after(transformer, request, codes) == codes)[hidden].all()


@pytest.mark.parametrize("window", [1, 3])
def test_where_guidance_ends_the_unconditional_half_is_no_longer_read(window: int, tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=2)
    wanted = [Wanted(text(1, 2), 0, n) for n in range(4)]
    read = []
    transformer.embedding.register_forward_hook(lambda module, given, output: read.append(len(given[0])))
    half, whole, plain = (
        codes_of(transformer, TEN, wanted, (4, 4), window, guidance=scale, guidance_until=until, temperature=0.5)
        for scale, until in ((6.0, 0.5), (6.0, 1.0), (1.0, 1.0))
    )
    assert torch.equal(half[:, :8], whole[:, :8]) and not torch.equal(half, whole) and not torch.equal(half, plain)
    halved = read[1 : read.index(2, 1)]  # passes of the first call; each begins with its two prefixes
    assert halved == sorted(halved, reverse=True) and set(halved) == {8, 4}
    if window == 1:
        assert halved == [8] * 8 + [4] * 8


def test_guidance_that_ends_at_once_is_no_guidance(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size)
    wanted = [Wanted(text(1), 0, n) for n in range(3)]
    none, ended = (
        codes_of(transformer, TEN, wanted, (2, 3), **s) for s in ({}, dict(guidance=5.0, guidance_until=0.0))
    )
    assert torch.equal(none, ended)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("positions", ["grid", "line"])
def test_at_temperature_zero_every_code_is_the_likeliest_by_uncached_logits(
    guidance: float, positions, tiny_transformer: Callable
):
    transformer = tiny_transformer(TEN.size, seed=5, positions=positions)
    for condition in (text(3), text(*range(9))):
        request = [Wanted(condition, 0, 0)]
        codes = codes_of(transformer, TEN, request, (3, 2), temperature=0.0, guidance=guidance)
        conditional, unconditional = (
            uncached_logits(transformer, TEN, segments, codes.view(1, 3, 2)) for segments in (condition, [])
        )
        guided = unconditional + guidance * (conditional - unconditional)
        assert torch.equal(guided.argmax(-1), codes)


@pytest.mark.parametrize("positions", ["grid", "line"])
def test_an_opened_image_is_the_packed_one_up_to_its_codes(positions):
    prefix, places = open_image(text(1, 2), (2, 3), TEN, positions)
    packed = pack([*text(1, 2), ImageSegment(np.ones((2, 3), dtype=np.int64))], TEN, positions)
    first = int(packed.is_image.argmax())
    assert prefix.ids.tolist() == packed.ids[:first].tolist()
    assert prefix.positions.tolist() == packed.positions[:first].tolist()
    assert places.tolist() == packed.positions[packed.is_image].tolist()


def test_a_picture_may_follow_another_picture(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size)
    sources = [ImageSegment(np.full((2, 2), code)) for code in (0, 9)]
    drawn = [
        codes_of(transformer, TEN, [Wanted([source, *text(1)], 0, n) for n in range(4)], (2, 2)) for source in sources
    ]
    assert not torch.equal(*drawn)


def test_a_sequence_that_does_not_fit_is_refused_and_one_that_just_fits_is_drawn(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, max_length=20)
    fits = [Wanted(text(*range(10)), 0, 0)]  # <begin> 10 <image> 2 sides = 14, and 6 codes
    assert codes_of(transformer, TEN, fits, (2, 3)).shape == (1, 6)
    with pytest.raises(ValueError, match="a prompt of 15 ids and an image of 6 codes exceed the model's 20 ids by 1"):
        codes_of(transformer, TEN, [*fits, Wanted(text(*range(11)), 0, 0)], (2, 3))


def test_logits_that_are_no_numbers_name_the_place(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size)
    with torch.no_grad():
        transformer.embedding.weight[TEN.image_block] = torch.nan  # seen from the second code on
    drawings = draw_images(transformer, TEN, requests_of([Wanted(text(1), 0, 0)], (2, 2)))
    next(drawings)
    with pytest.raises(ValueError, match="logits for id 6 of picture 0's sequence are not finite"):
        next(drawings)  # <begin> 1 <image> 2 sides = 5, and the first code


def test_codes_are_streamed_one_by_one(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size)
    requests = requests_of([Wanted(text(1), 0, number) for number in range(2)], (2, 3))
    whole = last(draw_images(transformer, TEN, requests)).codes
    drawings = draw_images(transformer, TEN, requests)
    for count in (1, 2, 3):
        codes, counts = next(drawings)
        assert counts.tolist() == [count, count] and torch.equal(codes[:, :count], whole[:, :count])
    drawings.close()  # a cancelled picture changes no other
    assert torch.equal(last(draw_images(transformer, TEN, requests)).codes, whole)


SETTINGS = (
    {},
    {"guidance": 2.0},
    {"guidance": 3.0, "temperature": 0.6},
    {"guidance": 4.0, "guidance_until": 0.4},
    {"guidance": 0.0, "top_k": 3},
    {"temperature": 0.0, "guidance": 1.5},
    {"temperature": 1.7, "top_p": 0.8, "min_p": 0.05},
)


@pytest.mark.parametrize("positions", ["grid", "line"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("drafted", [False, True])
def test_jacobi_draws_what_sequential_decoding_draws(
    settings: dict, positions, drafted: bool, tiny_transformer: Callable
):
    table = learn(np.random.default_rng(0).integers(0, 10, (50, 4, 4))) if drafted else None
    transformer = tiny_transformer(TEN.size, seed=3, positions=positions, loudness=1.0)
    wanted = [Wanted(text(*range(number % 4)), 1, number) for number in range(4)]
    requests = [one for grid in ((3, 4), (1, 7), (5, 1)) for one in requests_of(wanted, grid, **settings)]
    expected = last(draw_images(transformer, TEN, requests)).codes
    for window in (2, 3, 5, 12, 40):
        drawn = last(draw_images(transformer, TEN, requests, window, table)).codes
        for request, codes, same in zip(requests, drawn, expected, strict=True):
            size = math.prod(request.grid)
            assert torch.equal(codes[:size], same[:size])


def test_a_draft_that_knows_the_pictures_saves_passes(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=3, loudness=1.0)
    wanted = [Wanted(text(number), 0, number) for number in range(40)]
    pictures = codes_of(transformer, TEN, wanted, (4, 4), guidance=2.0, temperature=0.5)
    requests = requests_of(wanted[:1], (4, 4), guidance=2.0, temperature=0.5)
    passes = {}
    for name, table in (("without", None), ("with", learn(pictures[:1].view(1, 4, 4).numpy()))):
        drawings = list(draw_images(transformer, TEN, requests, 16, table))
        assert torch.equal(drawings[-1].codes[0], pictures[0])
        passes[name] = len(drawings)
    assert passes["with"] < passes["without"]


def test_jacobi_needs_fewer_passes_and_never_shows_a_code_that_changes(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=3, loudness=0.7)
    requests = requests_of([Wanted(text(5), 0, number) for number in range(3)], (4, 4), guidance=1.5, temperature=0.5)
    whole = last(draw_images(transformer, TEN, requests)).codes
    drawings = list(draw_images(transformer, TEN, requests, window=8))
    assert len(drawings) < 16
    previous = torch.zeros(3, dtype=torch.long)
    for codes, counts in drawings:
        assert (counts >= torch.minimum(previous + 1, torch.tensor(16))).all()
        for row, count in enumerate(counts.tolist()):
            assert torch.equal(codes[row, :count], whole[row, :count])
        previous = counts
    assert previous.tolist() == [16] * 3


@pytest.mark.parametrize("window", [1, 4])
def test_rows_of_different_grids_and_settings_come_out_as_they_do_alone(window: int, tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=1)
    grids = [(2, 3), (4, 1), (3, 2), (1, 1), (3, 3), (2, 2), (1, 5)]
    requests = [
        ImageRequest(text(*range(row * 2)), grid, SamplingConfig(**settings), seed=row, sample=row % 2)
        for row, (grid, settings) in enumerate(zip(grids, SETTINGS, strict=True))
    ]
    together, counts = last(draw_images(transformer, TEN, requests, window))
    assert counts.tolist() == [rows * columns for rows, columns in grids]
    for row, request in enumerate(requests):
        alone = last(draw_images(transformer, TEN, [request])).codes
        assert torch.equal(together[row, : counts[row]], alone[0])


def test_the_rows_that_are_not_guided_cost_no_second_stream(
    tiny_transformer: Callable, monkeypatch: pytest.MonkeyPatch
):
    transformer = tiny_transformer(TEN.size)
    rows, new_cache = [], transformer.new_cache
    monkeypatch.setattr(transformer, "new_cache", lambda count, length: rows.append(count) or new_cache(count, length))
    scales = (1.0, 2.0, 1.0, 1.0)
    requests = [ImageRequest(text(1), (1, 2), SamplingConfig(guidance=scale), 0, 0) for scale in scales]
    last(draw_images(transformer, TEN, requests))
    assert rows == [5, 2]  # one cache for all streams, one for their prefixes


def test_a_prefix_that_several_streams_share_is_read_once(tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=4)
    read = []
    transformer.embedding.register_forward_hook(lambda module, given, output: read.append(tuple(given[0].shape)))
    wanted = [Wanted(text(*ids), 2, number) for number, ids in enumerate([(1, 2, 3), (1, 2, 3), (4, 5), (1, 2, 3)])]
    requests = requests_of(wanted, (2, 2), guidance=2.0)
    together = last(draw_images(transformer, TEN, requests)).codes
    assert read[0][0] == 3 and read[1][0] == 8  # two prompts and the guide without any; then a stream for each
    for row, request in enumerate(requests):
        assert torch.equal(last(draw_images(transformer, TEN, [request])).codes[0], together[row])


def test_a_cancelled_drawing_leaves_no_memory_behind(tiny_transformer: Callable, monkeypatch: pytest.MonkeyPatch):
    transformer = tiny_transformer(TEN.size)
    caches, new_cache = [], transformer.new_cache

    def remember(rows: int, length: int):
        cache = new_cache(rows, length)
        caches.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(transformer, "new_cache", remember)
    requests = requests_of([Wanted(text(1), 0, 0)], (2, 3), guidance=2.0)
    for number in range(200):
        drawing = draw_images(transformer, TEN, requests, window=1 + number % 3)
        next(drawing)
        drawing.close()
    gc.collect()
    assert len(caches) == 200 and not any(cache() for cache in caches)


def test_a_batch_beyond_memory_is_refused_before_anything_is_allocated(
    tiny_transformer: Callable, monkeypatch: pytest.MonkeyPatch
):
    transformer = tiny_transformer(TEN.size)
    requests = requests_of([Wanted(text(1), 0, number) for number in range(8)], (2, 3), guidance=2.0)
    sizes = dict(streams=16, length=13, longest=5, logits=8 * 10, width=4)
    needed = num_bytes(transformer.config, **sizes)
    assert needed > sum(layer.keys.nbytes + layer.values.nbytes for layer in transformer.new_cache(16, 13).layers)
    monkeypatch.setattr(model.generate, "free_memory", lambda device: needed)
    assert last(draw_images(transformer, TEN, requests)).codes.shape == (8, 6)
    monkeypatch.setattr(model.generate, "free_memory", lambda device: needed // 2)
    monkeypatch.setattr(transformer, "new_cache", pytest.fail)
    with pytest.raises(MemoryError, match=r"drawing 8 pictures at once takes about .* draw at most [34] at once"):
        next(draw_images(transformer, TEN, requests))


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_below_one_is_refused(window: int, tiny_transformer: Callable):
    with pytest.raises(ValueError, match=f"window is {window}, but must be at least 1"):
        next(draw_images(tiny_transformer(TEN.size), TEN, requests_of([Wanted([], 0, 0)], (1, 1)), window))


def test_the_default_window_shrinks_to_sequential_decoding_as_the_batch_grows():
    def window(count: int, device: str, guidance: float = 2.0) -> int:
        return jacobi_window(torch.device(device), requests_of([Wanted([], 0, 0)] * count, (8, 8), guidance=guidance))

    assert [window(count, "cpu") for count in (1, 2, 4, 8, 64)] == [16, 16, 12, 6, 1]
    assert window(1, "cpu", guidance=1.0) == 16 and window(1, "cuda") == 16 and window(1000, "cuda") == 1


@pytest.mark.parametrize("window", [1, 3])
def test_what_a_memory_holds_is_not_read_again_and_changes_no_picture(window: int, tiny_transformer: Callable):
    transformer = tiny_transformer(TEN.size, seed=6)
    short, long = text(1, 2, 3), [*text(1, 2, 3), ImageSegment(np.array([[4, 5], [6, 7]])), *text(8, 9)]
    memory = Memory(transformer.new_cache(1, transformer.config.max_length))
    read = []
    transformer.embedding.register_forward_hook(lambda module, given, output: read.append(given[0].shape[1]))
    for segments in (short, long, long, short):
        requests = requests_of([Wanted(segments, 2, 0)], (3, 3), guidance=2.0)
        expected = last(draw_images(transformer, TEN, requests, window)).codes
        whole = read.copy()
        read.clear()
        assert torch.equal(last(draw_images(transformer, TEN, requests, window, memory=memory)).codes, expected)
        assert read[0] <= whole[0] and memory.known(torch.cat([memory.ids, torch.tensor([0])])) == len(memory.ids)
        read.clear()
    assert memory.known(torch.tensor([1, 999])) == 1
