"""Captions are true, mention everything, and can be read back into exactly what they state."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from data.shapes.captions import (
    HELD_OUT_WRAPPERS,
    OMISSIONS,
    SLACK,
    WRAPPERS,
    parse_caption,
    sample_caption,
    write_caption,
)
from data.shapes.programs import Background, Corner, Count, Inventory, Kind, Program, Relation, holds
from data.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, Scene, World, sample_scene


def drawn(num_scenes: int, seed: int = 0) -> list[tuple[Scene, str, Program]]:
    rng = np.random.default_rng(seed)
    scenes = (sample_scene(rng, World()) for _ in range(num_scenes))
    return [(scene, *sample_caption(rng, scene)) for scene in scenes]


def test_a_caption_holds_of_its_scene_and_mentions_every_object():
    for scene, text, program in drawn(300):
        assert holds(program, scene, SLACK) is True, text
        assert len(program[0].kinds) == len(scene.objects), text


def test_a_caption_reads_back_as_its_program_whatever_stands_before_it():
    for _, text, program in drawn(300):
        assert parse_caption(text) == program, text
    for wrapper in WRAPPERS + HELD_OUT_WRAPPERS:
        assert parse_caption(write_caption(program, wrapper)) == program


def test_a_caption_without_its_colours_or_shapes_is_a_caption_that_says_all_else():
    colours, shapes = OMISSIONS
    for _, text, program in drawn(300):
        for omission, name in ((colours, "colour"), (shapes, "shape")):
            left = text
            for pattern, words in omission:
                left = re.sub(pattern, words, left)
            inventory, *facts = parse_caption(left)
            expected = [replace(kind, **{name: None}) for kind in program[0].kinds]
            assert list(inventory.kinds) == expected and len(facts) == len(program) - 1, (text, left)


def test_captions_say_what_one_would_say():
    red, blue, ring = Kind("circle", "red", "small"), Kind("square", "blue"), Kind("ring")
    for text, program in {
        "a small red circle": (Inventory((red,)),),
        "three small red circles, a blue square and two rings": (Inventory((red, red, red, blue, ring, ring)),),
        "a small red circle above a blue square with a ring and two shapes on a gray background": (
            Inventory((red, blue, ring, Kind(), Kind())),
            Relation(red, "above", blue),
            Background("gray"),
        ),
        "a blue square and a small red circle in the top left corner": (
            Inventory((blue, red)),
            Corner(red, "top left"),
        ),
        "two green crosses": (Inventory((Kind("cross", "green"),) * 2),),
    }.items():
        assert write_caption(program) == text
        assert parse_caption(text) == program


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a red elephant", "word 3 .* is 'elephant'"),
        ("five red circles", "word 1 .* is 'five'"),
        ("two red circle", "word 3 .* is 'circle'"),
        ("a red circle, a blue square", "is the end, expected and"),
        ("a red circle on a pink background", "word 6 .* is 'pink'"),
        ("a red circle please", "word 4 .* is 'please', expected the end"),
        ("draw", "is the end, expected a"),
    ],
)
def test_a_text_that_is_no_caption_is_refused_at_the_first_word_that_does_not_fit(text, word):
    with pytest.raises(ValueError, match=word):
        parse_caption(text)


def test_a_fact_that_captions_do_not_state_is_refused():
    with pytest.raises(ValueError, match="no caption states"):
        write_caption((Inventory((Kind(),)), Count(Kind(), 1)))
    with pytest.raises(TypeError, match="begins with its inventory"):
        write_caption((Background("gray"),))


def test_a_caption_with_one_wrong_word_does_not_hold():
    """Each attribute that a caption states is replaced by another in turn: the scene is no longer as it says."""
    swaps = [*pairwise(SHAPES), *pairwise(COLOURS), *pairwise(BACKGROUNDS)]
    swaps += [("small", "large"), ("left", "right"), ("above", "below"), ("top", "bottom")]
    tried = 0
    for scene, text, _ in drawn(200, seed=1):
        words = text.replace(",", " ,").split()
        for at, word in enumerate(words):
            for one, other in swaps:
                if word in (one, other) and words[at - 1 : at + 2] != ["the", "left", "corner"]:
                    wrong = [*words[:at], other if word == one else one, *words[at + 1 :]]
                    try:
                        program = parse_caption(" ".join(wrong))
                    except ValueError:
                        continue  # a wrapper's word
                    assert holds(program, scene) is not True, " ".join(wrong)
                    tried += 1
    assert tried > 1000


def test_the_vocabulary_is_small_and_all_of_it_is_soon_seen():
    words = {word for _, text, _ in drawn(1000) for word in text.replace(",", " ,").split()}
    assert 50 <= len(words) <= 90
    assert {word for wrapper in HELD_OUT_WRAPPERS for word in wrapper.split()} <= words


def test_captions_are_lower_case_and_mostly_bare():
    texts = [text for _, text, _ in drawn(500)]
    assert all(text == text.lower() for text in texts)
    bare = np.mean([text.split()[0] in ("a", "two", "three", "four") for text in texts])
    assert 0.6 < bare < 0.85  # two wrappers begin with "a" themselves
