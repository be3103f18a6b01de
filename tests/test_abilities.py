"""The judges of abilities pass what is right and fail what is not."""

from argparse import ArgumentParser
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data.shapes.scene import Scene
from data.shapes.splits import held_out, stated_held_out
from metrics.abilities import JUDGES, Cases, main
from metrics.adherence import world_of

COUNT = 8


class Oracle:
    """Knows every example, as a model would that makes no mistake; wrong where it looks at the next one instead."""

    image_tokenizer = SimpleNamespace(stride=4)
    grids = ((8, 8), (8, 12))

    def __init__(self, split: str) -> None:
        self.cases = Cases(self, split, COUNT, "shapes32")
        self.shift = 0

    def of(self, number: int):
        return self.cases.examples[(number + self.shift) % COUNT]

    def describe(self, pictures: Sequence, seed: int, best_of: int) -> list[str]:
        return [self.of(number).text for number in range(COUNT)]

    def ask(self, pictures: Sequence, questions: Sequence[str], seed: int) -> list[str]:
        assert list(questions) == [example.questions[0][0] for example in self.cases.examples]
        return [self.of(number).questions[0][1] for number in range(COUNT)]

    def edit(self, pictures: Sequence, instructions: Sequence[str], **settings) -> SimpleNamespace:
        for picture, instruction, example in zip(pictures, instructions, self.cases.edits, strict=True):
            assert instruction == example.edit.instruction and (np.asarray(picture) == example.image).all()
        shown = [self.cases.edits[(number + self.shift) % COUNT].edit.result for number in range(COUNT)]
        return SimpleNamespace(images=[Image.fromarray(example.image) for example in shown])

    def look(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture)[::4, ::4, 0].astype(int)

    def inpaint(self, pictures: Sequence, masks: Sequence, prompts: Sequence[str], **settings) -> SimpleNamespace:
        images = [Image.fromarray(self.of(number).image) for number in range(COUNT)]
        codes = [self.look(picture) + self.shift for picture in pictures]
        return SimpleNamespace(images=images, codes=codes, num_drawn=2 * COUNT)


@pytest.fixture(scope="module", params=["val", "pair"])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return Oracle(request.param)


@pytest.mark.parametrize("name", ["describe", "ask", "edit", "inpaint"])
def test_what_is_right_passes_and_what_belongs_to_another_picture_fails(name: str, oracle: Oracle):
    oracle.shift = 0
    right = JUDGES[name](oracle, oracle.cases, 0, {})
    assert right["right"] == 1.0 and right.get("known_codes_kept", 1.0) == 1.0 and right.get("drawn_a_case", 2) == 2
    oracle.shift = 1
    wrong = JUDGES[name](oracle, oracle.cases, 0, {})
    assert wrong["right"] <= 0.5 and wrong.get("known_codes_kept", 0.0) == 0.0


def test_an_edit_that_does_nothing_preserves_everything_and_does_nothing(oracle: Oracle):
    idle = SimpleNamespace(edit=lambda pictures, *_, **__: SimpleNamespace(images=pictures))
    figures = JUDGES["edit"](idle, oracle.cases, 0, {})
    assert figures["right"] == figures["done"] == 0.0 and figures["preserved"] > 0.5


def test_chance_is_what_the_most_frequent_answers_of_each_sort_reach(oracle: Oracle):
    oracle.shift = 0
    assert 1 / COUNT < JUDGES["ask"](oracle, oracle.cases, 0, {})["chance"] <= 1.0


def test_what_is_held_out_is_in_what_is_asked_about():
    """An edit leads to it; all else is asked of pictures that show it."""

    def never_seen(scene: Scene) -> bool:
        return "pair" in held_out([(item.shape, item.colour, item.size) for item in scene.objects])

    cases = Oracle("pair").cases
    assert all(map(never_seen, cases.scenes))
    assert all(stated_held_out(example.metadata["program"]) == {"pair"} for example in cases.examples)
    for example in cases.edits:
        assert not never_seen(example.metadata["scene"]) and never_seen(example.edit.result.metadata["scene"])


def test_relations_that_are_held_out_are_described_asked_about_and_drawn_but_no_edit_states_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    oracle = Oracle("relation")
    assert not oracle.cases.edits
    assert all(stated_held_out(example.metadata["program"]) == {"relation"} for example in oracle.cases.examples)
    for name in ("describe", "ask", "inpaint"):
        assert JUDGES[name](oracle, oracle.cases, 0, {})["right"] == 1.0
    monkeypatch.setattr("sys.argv", "abilities nowhere --splits val relation --abilities edit".split())
    with pytest.raises(SystemExit):
        main()
    assert "no edit states a relation" in capsys.readouterr().err


def test_a_model_is_judged_in_the_world_that_is_named_else_in_that_of_its_training(capsys: pytest.CaptureFixture):
    run = {"config": {"data": {"world": "tints64"}}}
    assert world_of(ArgumentParser(), None, run) == world_of(ArgumentParser(), None, {"model": run}) == "tints64"
    assert world_of(ArgumentParser(), "shapes64", run) == "shapes64"
    for named, card in (("moon", run), (None, {})):
        with pytest.raises(SystemExit):
            world_of(ArgumentParser(), named, card)
        assert "is no world of data.shapes" in capsys.readouterr().err
