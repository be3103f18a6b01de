"""A model learns from what its own pictures show: what is right becomes likelier, whatever it was drawn with."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.shapes.source import Shapes
from model import Plantain
from model.reinforce import Reinforcement, log_probabilities, looks_of
from model.sampling import SamplingConfig
from runtime.config import from_dict
from runtime.loop import train
from tokenizer.sequence import ImageSegment, pack


def alone(plantain: Plantain, segments: list, codes: np.ndarray) -> torch.Tensor:
    """The logits of a picture's codes after these segments, from a pass over the whole sequence."""
    packed = pack([*segments, ImageSegment(codes)], plantain.vocabulary, "grid", end=False)
    hidden = plantain.transformer(torch.from_numpy(packed.ids)[None], torch.from_numpy(packed.positions)[None])[0]
    return plantain.transformer.logits(hidden[-codes.size - 2 : -2], plantain.vocabulary.image_block)


def test_a_pictures_probability_is_that_with_which_it_is_drawn(tiny: Callable):
    plantain = tiny(recipe=SamplingConfig(guidance=2.5, temperature=0.5))
    square, wide = np.array([[1, 5], [8, 0]]), np.array([[3, 2, 4], [7, 6, 1]])
    hidden = np.array([[True, False, True], [False, False, True]])
    requests = plantain.requests(["a red circle"], size=(8, 8)) + plantain.requests(["two green rings"], size=(8, 12))
    requests += plantain.fillings([wide], [hidden], ["a red circle"], 1, 0, plantain.recipe)
    found = log_probabilities(plantain.transformer, plantain.vocabulary, requests, [square, wide, wide])
    for request, codes, value in zip(requests, [square, wide, wide], found, strict=True):
        own = alone(plantain, list(request.segments), codes)
        other = alone(plantain, list(request.guiding[0].segments), codes)
        likely = ((other + 2.5 * (own - other)) / 0.5).log_softmax(-1)
        likely = likely[torch.arange(codes.size), torch.from_numpy(codes.reshape(-1))]
        drawn = torch.ones(codes.size, dtype=torch.bool) if request.known is None else torch.from_numpy(hidden.ravel())
        torch.testing.assert_close(value, likely[drawn].sum(), rtol=1e-4, atol=1e-4)


def test_with_a_narrow_temperature_what_is_drawn_is_nearly_certain(tiny: Callable):
    plantain = tiny(recipe=SamplingConfig(guidance=1.5, temperature=1e-3))
    drawn = plantain.generate(["a red circle", "two green rings"], seed=3)
    requests = plantain.requests(["a red circle", "two green rings"], seed=3)
    found = log_probabilities(plantain.transformer, plantain.vocabulary, requests, drawn.codes)
    others = [(codes + 1) % 9 for codes in drawn.codes]
    assert (found.exp() > 0.9).all()
    assert (log_probabilities(plantain.transformer, plantain.vocabulary, requests, others) < -100).all()


def test_the_gradient_is_that_of_pictures_and_guides(tiny: Callable):
    plantain = tiny(recipe=SamplingConfig(guidance=2.0, temperature=0.5))
    plantain.transformer.requires_grad_(True)
    request, codes = plantain.requests(["a red circle"])[0], np.array([[1, 5], [8, 0]])

    def gradient(likely: torch.Tensor) -> torch.Tensor:
        plantain.transformer.zero_grad()
        likely.backward()
        return plantain.transformer.blocks[0].mlp.up.weight.grad.clone()

    own = alone(plantain, list(request.segments), codes)
    other = alone(plantain, list(request.guiding[0].segments), codes)
    likely = ((2 * own - other) / 0.5).log_softmax(-1)[torch.arange(4), torch.from_numpy(codes.reshape(-1))].sum()
    found = log_probabilities(plantain.transformer, plantain.vocabulary, [request], [codes]).sum()
    expected = gradient(likely)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient(found), expected, rtol=1e-3, atol=1e-5)


def test_a_look_is_as_likely_as_the_codes_that_have_it(tiny: Callable):
    plantain = tiny(recipe=SamplingConfig(guidance=2.0, temperature=0.5))
    request, known = plantain.requests(["a red circle"])[0], np.array([[-1, 5], [8, 0]])
    request = replace(request, known=known)  # but for one code, all is given
    pictures = [np.where(known < 0, code, known) for code in range(9)]
    looks = torch.tensor([0, 1, 0, 2, 1, 0, 1, 2, 3])

    def found(looks: torch.Tensor | None) -> torch.Tensor:
        return log_probabilities(plantain.transformer, plantain.vocabulary, [request] * 9, pictures, looks).exp()

    each = found(None)
    torch.testing.assert_close(each.sum(), torch.tensor(1.0))
    torch.testing.assert_close(found(torch.arange(9)), each)
    torch.testing.assert_close(found(looks), torch.stack([each[looks == look].sum() for look in looks]))


def test_codes_are_sorted_by_what_they_look_like(tiny: Callable):
    tokenizer = tiny().image_tokenizer
    torch.manual_seed(5)
    looks = looks_of(tokenizer, 4)
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))  # chance elsewhere goes on
    assert torch.equal(looks, looks_of(tokenizer, 4)) and looks.shape == (9,) and 1 < len(looks.unique()) <= 4
    assert len(looks_of(tokenizer, 9).unique()) == 9
    with pytest.raises(ValueError, match="num_looks is 10, but there are 9 codes"):
        looks_of(tokenizer, 10)
    squares = tokenizer.decode(torch.arange(9)[:, None, None].expand(-1, 3, 3))[..., 4:8, 4:8].flatten(1)
    apart = torch.cdist(squares, squares)
    alike = (looks[:, None] == looks) & ~torch.eye(9, dtype=torch.bool)
    assert apart[alike].mean() < apart[looks[:, None] != looks].mean()


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_what_cuts_off_draws_is_refused(tiny: Callable, setting: dict):
    plantain = tiny()
    requests = plantain.requests(["a red circle"], sampling=plantain.sampling(**setting))
    with pytest.raises(ValueError, match="leave out top_k, top_p and min_p"):
        log_probabilities(plantain.transformer, plantain.vocabulary, requests, [np.zeros((2, 2), np.int64)])


def test_a_run_that_can_not_teach_is_refused(tmp_path: Path):
    wrong = [({"num_drawn": 1}, "at least 2"), ({"inpaint": 1.5}, "between 0 and 1"), ({"num_looks": -1}, "0 or more")]
    wrong += [({"stating": "(red"}, "no regular expression")]
    for setting, said in wrong:
        with pytest.raises(ValueError, match=said):
            run(tmp_path, "wrong", **setting)
    with pytest.raises(ValueError, match="not to be compiled"):
        run(tmp_path, "wrong", loop={"compile": True})


def run(folder: Path, name: str, loop: dict | None = None, **changes) -> Reinforcement:
    data = dict(kind="shapes", world="single32", image_size=8, num_examples=100, sizes=[[8, 8], [8, 12]])
    optimizer = dict(learning_rate=0.01, muon_learning_rate=None, warmup_steps=1, decay_share=0.1)
    common = dict(out=str(folder / name), num_steps=20, batch_size=4, ema_decay=0.5, log_every=1, optimizer=optimizer)
    config = dict(start=str(folder / "start"), data=data, validation=data, num_drawn=4, inpaint=0.25, num_samples=40)
    return from_dict(Reinforcement, config | dict(loop=common | (loop or {})) | changes)


@pytest.fixture
def begun(tiny: Callable, tmp_path: Path) -> Path:
    tiny(recipe=SamplingConfig(guidance=1.5, temperature=1.0)).save_pretrained(tmp_path / "start")
    return tmp_path


class Warm:
    """Says that a picture is right if it has a little more red than blue, as about half of them have at first."""

    def __init__(self, image: np.ndarray) -> None:
        self.ok = bool(image[..., 0].mean() > image[..., 2].mean() + 5)


def test_a_run_makes_what_is_right_of_some_pictures_right_of_most(begun: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Shapes, "verdict", lambda self, index, image: Warm(image))
    checkpoint = train(run(begun, "warm", dict(num_steps=30)))
    lines = [json.loads(line) for line in (begun / "warm/metrics.jsonl").read_text().splitlines()]
    right = [line["right"] for line in lines if line["part"] == "train"]
    assert np.mean(right[:2]) < 0.75 and np.mean(right[-5:]) > 0.95
    assert lines[-1]["prompt_adherence"] > 0.95
    drawn = Plantain.from_pretrained(checkpoint, "cpu").generate([f"circle {i}" for i in range(20)], seed=9)
    assert np.mean([Warm(np.asarray(image)).ok for image in drawn.images]) > 0.9


def test_where_all_codes_look_alike_there_is_nothing_to_learn(begun: Path, monkeypatch: pytest.MonkeyPatch):
    from model.reinforce import ReinforcedObjective

    monkeypatch.setattr(Shapes, "verdict", lambda self, index, image: Warm(image))
    for num_looks, learns in ((0, True), (1, False)):
        objective = ReinforcedObjective(run(begun, "looks", num_looks=num_looks), torch.device("cpu"))
        loss, figures = objective.model(torch.tensor([3, 5, 8]), 0)
        assert figures["telling"] > 0 and (loss.abs() > 0.01) == learns


def test_what_tells_is_not_kept_until_it_is_learnt_from(begun: Path, monkeypatch: pytest.MonkeyPatch):
    """Or a step in which much tells would outgrow memory."""
    from model.reinforce import ReinforcedObjective

    monkeypatch.setattr(Shapes, "verdict", lambda self, index, image: Warm(image))
    objective, kept = ReinforcedObjective(run(begun, "kept"), torch.device("cpu")), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, figures = objective.model(torch.tensor([3, 5, 8]), 0)
    assert figures["telling"] > 0.5 and sum(kept) < 100  # a few numbers of each of twelve pictures
    loss.backward()
    assert objective.model.transformer.head.weight.grad.abs().max() > 0


def test_beside_verdicts_a_run_learns_from_true_examples(begun: Path, monkeypatch: pytest.MonkeyPatch):
    class Wrong:
        ok = False

    monkeypatch.setattr(Shapes, "verdict", lambda self, index, image: Wrong)  # so verdicts teach nothing
    beside = dict(mixture=dict(text_to_image=1, describe=1), answer_weight=5.0)
    train(run(begun, "beside", beside=beside, num_samples=0))
    lines = [json.loads(line) for line in (begun / "beside/metrics.jsonl").read_text().splitlines()]
    losses = [line["beside"] for line in lines if line["part"] == "train"]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    with pytest.raises(ValueError, match="ask"):  # of examples without questions
        run(begun, "asked", beside=dict(mixture=dict(ask=1))).build(torch.device("cpu"))


def test_a_run_that_is_stopped_and_started_again_ends_alike(begun: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Shapes, "verdict", lambda self, index, image: Warm(image))
    whole = train(run(begun, "whole", dict(num_steps=4, save_every=2), num_samples=0))
    halves = run(begun, "halves", dict(num_steps=4, save_every=2), num_samples=0)

    def stop(*_) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("model.reinforce.ReinforcedObjective.export", stop)  # which comes after the state is saved
        train(halves)
    weights = [Plantain.from_pretrained(each, "cpu").transformer.head.weight for each in (whole, train(halves))]
    assert torch.equal(*weights)


def test_what_is_judged_beside_one_another_is_drawn_by_the_recipe_for_several(tiny: Callable, tmp_path: Path):
    from model.reinforce import ReinforcedObjective

    plantain = tiny(recipe=SamplingConfig(temperature=0.3))
    plantain.choosing = SamplingConfig(temperature=0.5)
    plantain.save_pretrained(tmp_path / "start")
    for inpaint in (0.0, 1.0):
        objective = ReinforcedObjective(run(tmp_path, "several", inpaint=inpaint), torch.device("cpu"))
        assert all(request.sampling == plantain.choosing for request in objective.requests(3, step=0))


def test_several_processes_judge_as_one_does(begun: Path):
    from model.reinforce import ReinforcedObjective

    rights = []
    for workers in (0, 2):
        objective = ReinforcedObjective(run(begun, "judges", dict(num_workers=workers)), torch.device("cpu"))
        requests, codes, right = objective.attempt([3, 5, 8], step=2)
        assert len(requests) == len(codes) == 12 and right.shape == (3, 4)
        rights.append((right, codes))
    assert torch.equal(rights[0][0], rights[1][0])
    assert all((one == other).all() for one, other in zip(rights[0][1], rights[1][1], strict=True))


def test_how_many_are_drawn_at_once_changes_nothing(begun: Path):
    """Squares, wide ones and ones with holes: a batch is of one kind, so none is read to the length of another."""
    from model.reinforce import ReinforcedObjective

    found = []
    for at_once in (1, 3, 64):
        objective = ReinforcedObjective(run(begun, "at_once", at_once=at_once, inpaint=0.5), torch.device("cpu"))
        found.append(objective.attempt(list(range(8)), step=1))
    kinds = {(request.known is None, request.grid) for request in found[0].requests}
    assert len(kinds) == 4
    for other in found[1:]:
        assert torch.equal(other.right, found[0].right)
        assert all((one == same).all() for one, same in zip(found[0].codes, other.codes, strict=True))


def test_short_prompts_are_left_out_where_the_config_says_so(begun: Path):
    from model.reinforce import ReinforcedObjective

    objective = ReinforcedObjective(run(begun, "long", shortest=13), torch.device("cpu"))
    lengths = [len(objective.plantain.text_tokenizer.encode(example.text)) for example in objective.source]
    asked = objective.dataset()
    numbers = [asked[0, place] for place in range(len(asked))]
    assert 0 < len(numbers) < len(lengths)
    assert numbers == [number for number, length in enumerate(lengths) if length >= 13]
    for setting in ({"shortest": 99}, {"stating": "a red nothing"}):
        with pytest.raises(ValueError, match="no prompt has as many tokens and matches: lower"):
            ReinforcedObjective(run(begun, "none", **setting), torch.device("cpu")).dataset()


def test_only_what_matches_is_asked_for_where_the_config_says_so(begun: Path):
    from model.reinforce import ReinforcedObjective

    objective = ReinforcedObjective(run(begun, "stating", stating="red|(top|bottom) left"), torch.device("cpu"))
    texts = [example.text for example in objective.source]
    asked = objective.dataset()
    numbers = [asked[0, place] for place in range(len(asked))]
    assert 0 < len(numbers) < len(texts)
    assert numbers == [n for n, text in enumerate(texts) if any(w in text for w in ("red", "top left", "bottom left"))]
