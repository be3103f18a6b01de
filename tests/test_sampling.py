"""Filters, guidance and noise against what is worked out by hand or computed in another way."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

import model.sampling
from model.sampling import SamplingConfig, draw, filter_logits, gumbel_noise, stack

SHARES = [0.4, 0.3, 0.2, 0.1]
MASK = 2**64 - 1


def filtered(shares: list[float], **settings) -> list[float]:
    logits = torch.tensor([shares]).log()
    return filter_logits(logits, stack([SamplingConfig(**settings)])).softmax(-1)[0].tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 4}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_k": 99}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_p": 0.39}, [1, 0, 0, 0]),
        ({"top_p": 0.41}, [4 / 7, 3 / 7, 0, 0]),  # the first id that reaches beyond p stays
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.95}, [0.4, 0.3, 0.2, 0.1]),
        ({"min_p": 0.2}, [0.4, 0.3, 0.2, 0.1]),
        ({"min_p": 0.3}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.75}, [4 / 7, 3 / 7, 0, 0]),  # of what top-k leaves: 4/9 + 3/9 is enough
        ({"top_p": 0.75, "min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 3, "min_p": 0.1}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"temperature": 0.5, "top_p": 0.53}, [1, 0, 0, 0]),  # filters see what the temperature made
        ({"temperature": 0.5, "min_p": 0.3}, [16 / 25, 9 / 25, 0, 0]),
    ],
)
def test_filters_leave_the_distribution_worked_out_by_hand(settings: dict, expected: list[float]):
    assert filtered(SHARES, **settings) == pytest.approx(expected, abs=1e-6)
    shuffled = filtered([0.1, 0.3, 0.4, 0.2], **settings)
    assert [shuffled[i] for i in (2, 1, 3, 0)] == pytest.approx(expected, abs=1e-6)


def test_ids_as_likely_as_the_last_of_top_k_stay_as_well():
    assert filtered([0.4, 0.2, 0.2, 0.2], top_k=2) == pytest.approx([0.4, 0.2, 0.2, 0.2], abs=1e-6)
    assert filtered([0.4, 0.4, 0.1, 0.1], top_k=1) == pytest.approx([0.5, 0.5, 0, 0], abs=1e-6)


def test_rows_are_filtered_each_by_its_own_values():
    logits = torch.tensor([SHARES, SHARES[::-1], [0.25] * 4]).log()
    kept = filter_logits(logits, stack([SamplingConfig(min_p=0.6)])).isfinite()
    assert kept.tolist() == [[True, True, False, False], [False, False, True, True], [True] * 4]


EXTREMES = torch.stack(
    [
        torch.randn(50, generator=torch.Generator().manual_seed(0)) * 5,
        torch.zeros(50),
        torch.linspace(-1e4, 1e4, 50),
        torch.full((50,), -1e30).index_fill(0, torch.tensor([7]), 1e30),
        torch.full((50,), 1e-30),
    ]
)


def test_every_row_has_settings_of_its_own():
    configs = [
        SamplingConfig(**settings)
        for settings in (
            {},
            {"top_k": 2},
            {"top_k": 99, "temperature": 0.5},
            {"top_p": 0.6, "temperature": 3.0},
            {"min_p": 0.3, "top_k": 1},
            {"temperature": 0.0, "top_p": 0.5},
        )
    ]
    logits = torch.randn(len(configs), 30, generator=torch.Generator().manual_seed(0))
    together = filter_logits(logits, stack(configs))
    where = [torch.arange(len(configs)) for _ in range(3)]
    ids = torch.arange(5, 35)
    drawn = draw(logits, stack(configs), *where, ids)
    for row, config in enumerate(configs):
        mine = slice(row, row + 1)
        assert torch.equal(filter_logits(logits[mine], stack([config])), together[mine])
        assert torch.equal(draw(logits[mine], stack([config]), *(part[mine] for part in where), ids), drawn[mine])


@pytest.mark.parametrize("top_p", [1e-9, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0, 100.0])
def test_every_setting_leaves_the_likeliest_id(top_p: float, temperature: float):
    for top_k, min_p in itertools.product((0, 1, 3, 10**6), (0.0, 0.5, 1.0)):
        config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        logits = filter_logits(EXTREMES, stack([config]))
        assert not logits.isnan().any()
        best = torch.where(EXTREMES == EXTREMES.amax(-1, keepdim=True), logits, -math.inf)
        assert (best.amax(-1) > -math.inf).all()  # where several are likeliest, one of them is enough


def test_temperature_zero_takes_the_likeliest_whatever_the_noise():
    logits = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(64)
    for settings in ({}, {"top_k": 3}, {"top_p": 0.5, "min_p": 0.1}):
        config = stack([SamplingConfig(temperature=0.0, **settings)])
        drawn = draw(logits, config, numbers, numbers, numbers, torch.arange(100, 120))
        assert torch.equal(drawn, logits.argmax(-1) + 100)


def test_next_to_temperature_zero_the_likeliest_is_taken_too():
    logits = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(64)
    for settings in ({}, {"top_k": 3}, {"top_p": 0.5, "min_p": 0.1}):
        for temperature in (1e-6, 1e-30, 1e-40):
            config = stack([SamplingConfig(temperature=temperature, **settings)])
            drawn = draw(logits, config, numbers, numbers, numbers, torch.arange(20))
            assert torch.equal(drawn, logits.argmax(-1))


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 3}, {"top_p": 0.75}, {"min_p": 0.3, "temperature": 2.0}],
)
@pytest.mark.parametrize("axis", ["seeds", "samples", "positions"])
def test_draws_follow_the_filtered_softmax_along_every_axis_of_the_noise(
    settings: dict, axis: str, chi_square: Callable
):
    count = 20_000
    logits = torch.tensor([0.4, 0.1, 0.25, 0.2, 0.05]).log().expand(count, -1)
    config = stack([SamplingConfig(**settings)])
    where = {name: torch.full((count,), 5) for name in ("seeds", "samples", "positions")} | {axis: torch.arange(count)}
    drawn = draw(logits, config, **where, ids=torch.arange(384, 389)) - 384
    counts = torch.bincount(drawn, minlength=5)
    assert chi_square(counts, filter_logits(logits[:1], config).softmax(-1)[0]) > 1e-4


def splitmix(state: int) -> int:
    """The output function of SplitMix64 as in its authors' C code."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def by_hand(seed: int, sample: int, position: int, token: int) -> float:
    golden = 0x9E3779B97F4A7C15
    state = splitmix((seed * golden) & MASK)
    for number in (sample, position, token + 1):
        state = splitmix((state + number * golden) & MASK)
    return -math.log(-math.log(((state >> 11) + 0.5) / 2**53))


def test_splitmix_by_hand_is_the_published_generator():
    """The first outputs of SplitMix64 from state 1234567, as Rosetta Code lists them."""
    outputs = [splitmix((1234567 + step * 0x9E3779B97F4A7C15) & MASK) for step in range(1, 4)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_noise_is_that_of_splitmix_on_python_integers():
    numbers = torch.Generator().manual_seed(0)
    seeds = torch.randint(0, 2**63 - 1, (40,), generator=numbers)
    seeds[:2] = torch.tensor([0, 2**63 - 1])
    samples, positions = (torch.randint(0, 2**20, (40,), generator=numbers) for _ in range(2))
    ids = torch.tensor([0, 1, 383, 384, 10**6])
    noise = gumbel_noise(seeds, samples, positions, ids)
    rows = zip(seeds.tolist(), samples.tolist(), positions.tolist(), strict=True)
    expected = torch.tensor([[by_hand(*row, token) for token in ids.tolist()] for row in rows])
    torch.testing.assert_close(noise, expected, atol=1e-6, rtol=1e-6)


def test_noise_does_not_depend_on_what_else_is_asked_for():
    seeds, samples, positions = torch.tensor([3, 3, 8]), torch.tensor([0, 1, 0]), torch.tensor([7, 7, 200])
    ids = torch.arange(384, 400)
    whole = gumbel_noise(seeds, samples, positions, ids)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(gumbel_noise(seeds[order], samples[order], positions[order], ids), whole[order])
    some = torch.tensor([9, 2, 2])
    for row in range(3):
        alone = gumbel_noise(seeds[row : row + 1], samples[row : row + 1], positions[row : row + 1], ids[some])
        assert torch.equal(alone[0], whole[row, some])
    torch.manual_seed(123)
    assert torch.equal(gumbel_noise(seeds, samples, positions, ids), whole)


def test_noise_differs_in_every_argument():
    def noise(seed: int, sample: int, position: int, token: int) -> float:
        return float(gumbel_noise(*(torch.tensor([number]) for number in (seed, sample, position, token))))

    places = list(itertools.product(range(4), repeat=4))
    assert len({noise(*place) for place in places}) == len(places)


@pytest.mark.parametrize("bits", [0, -1])
def test_noise_is_finite_for_whatever_bits_the_generator_gives(bits: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.sampling, "mix", lambda x: torch.full_like(x, bits))
    one = torch.zeros(1, dtype=torch.int64)
    assert gumbel_noise(one, one, one, one).isfinite().all()


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(torch.arange(50), torch.zeros(50).long(), torch.zeros(50).long(), torch.arange(4000)).double()
    assert noise.isfinite().all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.02)
    below = [float((noise < x).double().mean()) for x in (-1.0, 0.0, 1.0, 3.0)]
    assert below == pytest.approx([math.exp(-math.exp(-x)) for x in (-1.0, 0.0, 1.0, 3.0)], abs=0.005)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("distance", [1, 2, 64])
def test_neighbours_in_any_argument_are_uncorrelated(axis: int, distance: int):
    count = 40_000

    def noise(shift: int) -> torch.Tensor:
        numbers = [torch.full((200,), 11) for _ in range(3)] + [torch.arange(200)]
        numbers[(axis + 1) % 3] = torch.arange(200) * 1000
        numbers[axis] = numbers[axis] + shift
        return gumbel_noise(*numbers).double().flatten()

    pair = torch.stack([noise(0), noise(distance)])
    if axis == 3:  # the shifted ids are partly the same ones: compare each with its neighbour
        assert torch.equal(pair[0].view(200, 200)[:, distance:], pair[1].view(200, 200)[:, :-distance])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 4.5 / math.sqrt(count)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(
            ("guidance", "guidance_until", "temperature", "top_p", "min_p"), (math.nan, -0.5, -math.inf)
        ),
        ("top_k", -1),
    ],
)
def test_a_setting_that_is_negative_or_no_number_is_refused(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} is {value}, but must lie between"):
        SamplingConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("top_p", 1.01), ("min_p", 1.5), ("guidance", 101.0), ("temperature", math.inf)]
)
def test_a_setting_that_is_too_large_is_refused(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} is {value}, but must lie between"):
        SamplingConfig(**{name: value})


def test_top_p_of_zero_says_what_to_do_instead():
    with pytest.raises(ValueError, match="temperature 0 for the likeliest"):
        SamplingConfig(top_p=0.0)
