"""The judges of abilities pass what is right and fail what is not."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from metrics.abilities import JUDGES, Cases

COUNT = 8


class Oracle:
    """Knows every example, as a model would that makes no mistake; wrong where it looks at the next one instead."""

    image_tokenizer = SimpleNamespace(stride=4)
    grids = ((8, 8), (8, 12))

    def __init__(self) -> None:
        self.cases = Cases(self, "val", COUNT, "shapes32")
        self.shift = 0

    def of(self, number: int):
        return self.cases.examples[(number + self.shift) % COUNT]

    def describe(self, pictures: Sequence, seed: int) -> list[str]:
        return [self.of(number).text for number in range(COUNT)]

    def ask(self, pictures: Sequence, questions: Sequence[str], seed: int) -> list[str]:
        assert list(questions) == [example.questions[0][0] for example in self.cases.examples]
        return [self.of(number).questions[0][1] for number in range(COUNT)]

    def edit(self, pictures: Sequence, instructions: Sequence[str], **settings) -> SimpleNamespace:
        return SimpleNamespace(images=[Image.fromarray(self.of(number).edit.result.image) for number in range(COUNT)])

    def look(self, picture: Image.Image) -> np.ndarray:
        return np.asarray(picture)[::4, ::4, 0].astype(int)

    def inpaint(self, pictures: Sequence, masks: Sequence, prompts: Sequence[str], **settings) -> SimpleNamespace:
        images = [Image.fromarray(self.of(number).image) for number in range(COUNT)]
        codes = [self.look(picture) + self.shift for picture in pictures]
        return SimpleNamespace(images=images, codes=codes, num_drawn=2 * COUNT)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


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
