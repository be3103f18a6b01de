"""Abilities are lists of segments, drawn from examples in the shares that a config says."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from data.codes import Encoded
from tasks.conversation import asking, describing, editing, inpainting, line
from tasks.mixture import TASKS, Mixture, Telling, check, tell
from tokenizer.sequence import HIDDEN, ImageSegment, TextSegment, pack, unpack
from tokenizer.vocabulary import PAD, TEXT_START, Vocabulary

TEN = Vocabulary(num_text=256, codebook_size=10)
AFTER = Encoded(np.full((2, 3), 7), ("after",), (("what now?", "seven"),))
BEFORE = Encoded(np.full((2, 3), 4), ("before", "once"), (("what?", "four"),), ("make it seven", AFTER))


def encode(text: str) -> list[int]:
    return [TEXT_START + byte for byte in text.encode()]


def told(ability: str, number: int = 0, dropout: float = 0.0, example: Encoded = BEFORE, **shares: float) -> list:
    telling = Telling(encode, said=0.25, written=2.0)
    mixture: Any = {"text_to_image": 0.0} | {ability: 1.0} | shares
    mixture = Mixture(**mixture)
    return tell(example, mixture, telling, dropout, np.random.default_rng(number), np.random.default_rng((number, 1)))


def said(segment) -> str | int:
    """Its text, or the code that its whole picture shows."""
    if isinstance(segment, TextSegment):
        return bytes(token - TEXT_START for token in segment.ids).decode()
    (code,) = set(segment.codes.flatten().tolist()) - {HIDDEN}
    return code


def stories(ability: str, **more) -> set[tuple]:
    return {tuple(map(said, told(ability, number, **more))) for number in range(60)}


DESCRIBE, SEVEN = "describe the picture\n", "make it seven\n"


@pytest.mark.parametrize(
    ("ability", "expected"),
    [
        ("text_to_image", {("before", 4), ("once", 4), ("after", 7)}),
        ("describe", {(4, DESCRIBE, "before\n"), (4, DESCRIBE, "once\n"), (7, DESCRIBE, "after\n")}),
        ("ask", {(4, "what?\n", "four\n"), (7, "what now?\n", "seven\n")}),
        ("edit", {(4, SEVEN, 4, 7)}),
        ("text", {("before",), ("once",), ("after",)}),
    ],
)
def test_each_ability_is_told_of_whichever_picture_it_can_be_told_of(ability: str, expected: set):
    assert stories(ability) == expected


def test_a_dialogue_draws_edits_and_answers_and_sometimes_answers_before():
    end = (SEVEN, 4, 7, "what now?\n", "seven\n")
    asked = ("what?\n", "four\n")
    assert stories("dialogue") == {
        (f"{caption}\n", 4, *before, *end) for caption in ("before", "once") for before in ((), asked)
    }


def test_what_the_model_is_to_make_counts_and_what_it_is_given_does_so_less_or_not_at_all():
    weights = [segment.weight for segment in told("dialogue", 1)]
    assert set(weights) == {0.25, 1.0, 2.0} and weights[-1] == 2.0
    assert [segment.weight for segment in told("edit")] == [0.0, 0.25, 0.25, 1.0]
    assert [segment.weight for segment in told("ask")] == [0.0, 0.25, 2.0]


def test_a_hole_hides_some_codes_and_everything_is_to_be_drawn():
    shares = []
    for number in range(200):
        holed, prompt, whole = told("inpaint", number)
        assert (whole.codes[holed.codes != HIDDEN] == holed.codes[holed.codes != HIDDEN]).all()
        assert prompt.ids[-1] == TEXT_START + ord("\n") and (whole.codes >= 0).all()
        shares.append((holed.codes == HIDDEN).mean())
    assert min(shares) <= 1 / 6 and max(shares) >= 5 / 6


def test_dropout_takes_the_text_away_and_from_half_of_them_the_pictures_before():
    counts = Counter(tuple(map(said, told("edit", number, dropout=0.5))) for number in range(2000))
    assert counts.keys() == {(4, SEVEN, 4, 7), (4, 4, 7), (7,)}
    assert counts[4, SEVEN, 4, 7] == pytest.approx(1000, abs=120)
    assert counts[4, 4, 7] == pytest.approx(500, abs=100)
    assert stories("text_to_image", dropout=1.0) == {(4,), (7,)}
    assert stories("describe", dropout=1.0) == stories("describe")  # only what ends in a picture to draw


def test_abilities_come_in_the_shares_of_the_mixture():
    mixture, telling = Mixture(text_to_image=3.0, describe=1.0, edit=0.5), Telling(encode, 0.0, 1.0)
    kinds = Counter()
    for number in range(4500):
        generators = np.random.default_rng(number), np.random.default_rng((number, 1))
        segments = tell(BEFORE, mixture, telling, 0.0, *generators)
        kinds["text" if isinstance(segments[-1], TextSegment) else len(segments)] += 1
    assert kinds[2] == pytest.approx(3000, abs=150) and kinds["text"] == pytest.approx(1000, abs=120)


def test_a_sequence_goes_on_about_the_picture_seen_last_as_long_as_there_is_more_to_tell():
    answered, described = ("what now?\n", "seven\n"), (DESCRIBE, "after\n")
    every = dict(describe=1.0, ask=1.0, edit=1.0, turns=9)
    assert stories("edit", **every) >= {(4, SEVEN, 4, 7, *answered, *described)}
    for story in stories("text_to_image", **every):
        assert story[-4:] in {answered + described, described + answered} and story.count(SEVEN) == 1
    drawn = {story for story in stories("text_to_image", **every) if story[0] in ("before", "once")}
    assert drawn and not any(DESCRIBE in story[: story.index(SEVEN)] for story in drawn)  # it has just been said
    assert max(len(story) for story in stories("ask", turns=9)) == 3  # each question once
    assert stories("text_to_image", edit=1.0, turns=1) >= {("before", 4, SEVEN, 4, 7)}


def test_every_ability_survives_packing():
    for ability in TASKS:
        for number in range(20):
            segments = told(ability, number)
            back = unpack(pack(segments, TEN, "grid").ids.tolist(), TEN)
            flat = [np.concatenate([segment.ids for segment in segments if isinstance(segment, TextSegment)])]
            flat += [segment.codes for segment in segments if isinstance(segment, ImageSegment)]
            found = [np.concatenate([segment.ids for segment in back if isinstance(segment, TextSegment)])]
            found += [segment.codes for segment in back if isinstance(segment, ImageSegment)]
            assert all(np.array_equal(left, right) for left, right in zip(flat, found, strict=True))


def test_hidden_codes_are_padding_in_the_sequence_and_can_not_be_learnt():
    codes = np.array([[1, HIDDEN], [3, 4]])
    packed = pack([ImageSegment(codes, 0.0)], TEN, "grid")
    assert packed.ids[5] == PAD and not packed.is_image[5] and packed.weights.sum() == 0
    (back,) = unpack(packed.ids.tolist(), TEN)
    assert np.array_equal(back.codes, codes)
    with pytest.raises(ValueError, match="codes must lie in"):
        pack([ImageSegment(codes, 1.0)], TEN, "grid")


def test_line_breaks_within_what_is_said_become_spaces():
    assert said(line("two\n lines ", encode)) == "two lines\n"
    assert [said(segment) for segment in describing(AFTER.codes, encode)] == [7, DESCRIBE]
    hidden = np.array([[True, False, False]] * 2)
    holed, text = inpainting(AFTER.codes, hidden, "more", encode)
    assert (holed.codes == HIDDEN).tolist() == hidden.tolist() and said(text) == "more\n"


def test_training_tells_each_ability_as_it_is_asked_for():
    def ids(segments: list) -> list[int]:
        return pack(segments, TEN, "grid", end=False).ids.tolist()

    assert ids(told("ask")[:-1]) in [ids(asking(one.codes, one.questions[0][0], encode)) for one in (BEFORE, AFTER)]
    assert ids(told("describe")[:-1]) in [ids(describing(one.codes, encode)) for one in (BEFORE, AFTER)]
    assert ids(told("edit")[:-1]) == ids(editing([BEFORE.codes], "make it seven", encode))
    holed, prompt, whole = told("inpaint", 3)
    text = bytes(token - TEXT_START for token in prompt.ids).decode().strip()
    assert ids([holed, prompt]) == ids(inpainting(whole.codes, holed.codes == HIDDEN, text, encode))


def test_a_mixture_that_can_not_be_is_refused():
    with pytest.raises(ValueError, match="no share above 0"):
        Mixture(text_to_image=0.0)
    with pytest.raises(ValueError, match="0 or more, but {'edit': -1.0} are not"):
        Mixture(edit=-1.0)
    with pytest.raises(ValueError, match="ask needs questions.*data.num_questions"):
        check(Mixture(ask=1.0), BEFORE._replace(questions=()))
    with pytest.raises(ValueError, match="dialogue, edit needs edits.*data.edits"):
        check(Mixture(edit=1.0, dialogue=1.0), AFTER)
    with pytest.raises(ValueError, match="turns is -1"):
        Mixture(turns=-1)
    check(Mixture(), Encoded(AFTER.codes, ("a",)))
