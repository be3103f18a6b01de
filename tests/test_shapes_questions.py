"""Every answer is true and certain, can be found from the question's text, and is no more frequent than the others."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from data.shapes.answers import ANSWER_WEIGHTS
from data.shapes.captions import check_caption
from data.shapes.programs import Kind
from data.shapes.questions import (
    FRAMES,
    HELD_OUT_FRAMES,
    NUMBERS,
    Exists,
    HowMany,
    LeftOrRight,
    Question,
    Related,
    TopOrBottom,
    WhatBackground,
    WhatColour,
    WhatShape,
    WhatSize,
    answer,
    balancing_weights,
    parse_question,
    sample_questions,
    write_question,
)
from data.shapes.scene import WORLDS, Object, Scene
from data.shapes.source import Shapes, ShapesConfig
from data.shapes.splits import HELD_OUT_COUNTS, HELD_OUT_RELATIONS, held_out, sample_split_scene

CIRCLE = Object("circle", "red", "small", 0.25, 0.3, 0.13)
SQUARE = Object("square", "blue", "large", 0.7, 0.25, 0.18)
SCENE = Scene("gray", (CIRCLE, SQUARE))


@pytest.fixture(scope="module", params=ANSWER_WEIGHTS)
def asked(request) -> list[tuple[Scene, Question, str]]:
    """A few questions about each of many training scenes of a world."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(600):
        scene = sample_split_scene(rng, WORLDS[request.param], "train")
        found += [(scene, *pair) for pair in sample_questions(rng, scene, WORLDS[request.param], number=4)]
    return found


def matching(scene: Scene, kind: Kind) -> list[Object]:
    said = {name: value for name, value in vars(kind).items() if value}
    return [obj for obj in scene.objects if all(getattr(obj, name) == value for name, value in said.items())]


def test_a_question_reads_back_in_every_frame_and_finds_its_answer(asked):
    rng = np.random.default_rng(1)
    for scene, question, said in asked[:500]:
        for frames in (FRAMES, HELD_OUT_FRAMES):
            text = write_question(rng, question, frames)
            assert parse_question(text) == question and answer(text, scene) == said, text
            assert said == said.split()[0]


def test_answers_agree_with_a_recount(asked):
    for scene, question, said in asked:
        match question:
            case Exists(kind):
                assert said == ("yes" if matching(scene, kind) else "no")
            case HowMany(kind):
                assert NUMBERS.index(said) == len(matching(scene, kind))
            case WhatBackground():
                assert said == scene.background
            case Related(first, relation, second):
                (a,), (b,) = matching(scene, first), matching(scene, second)
                dx, dy = a.x - b.x, a.y - b.y
                clear, across = (dx, dy) if relation in ("left", "right") else (dy, dx)
                assert abs(clear) > max(0.1, abs(across)) + 0.05
                assert said == ("yes" if (clear < 0) == (relation in ("left", "above")) else "no")
            case LeftOrRight(kind) | TopOrBottom(kind):
                (obj,) = matching(scene, kind)
                across = isinstance(question, LeftOrRight)
                beyond = obj.x - scene.width / 2 if across else obj.y - scene.height / 2
                assert abs(beyond) > 0.1
                assert said == (("right", "left") if across else ("bottom", "top"))[beyond < 0]
            case _:
                (obj,) = matching(scene, question.kind)
                name = {WhatColour: "colour", WhatShape: "shape", WhatSize: "size"}[type(question)]
                assert getattr(question.kind, name) is None and said == getattr(obj, name)


def test_sorts_and_the_answers_of_each_come_equally_often(asked):
    answers: dict[type, Counter] = defaultdict(Counter)
    for _, question, said in asked:
        answers[type(question)][said] += 1
    assert set(answers) == set(FRAMES)
    for counts in answers.values():
        total = counts.total()
        assert abs(total / len(asked) - 1 / len(FRAMES)) < 0.03
        for said, count in counts.items():  # five standard deviations, as a scene's questions hang together
            share = 1 / len(counts)
            assert abs(count / total - share) < 5 * (share * (1 - share) / total) ** 0.5, said


def test_saying_more_of_a_kind_does_not_tell_whether_it_exists(asked):
    full = [said for _, question, said in asked if isinstance(question, Exists) and all(vars(question.kind).values())]
    assert 0.25 < full.count("yes") / len(full) < 0.75


def test_no_training_question_mentions_what_is_held_out(asked):
    for _, question, said in asked:
        kinds = [kind for kind in vars(question).values() if isinstance(kind, Kind)]
        assert not any(held_out([(kind.shape, kind.colour, kind.size)]) for kind in kinds), question
        match question:
            case HowMany(kind):
                assert (kind.shape, NUMBERS.index(said)) not in HELD_OUT_COUNTS
            case Related(first, relation, second):
                mirrored = {"left": "right", "right": "left", "above": "below", "below": "above"}[relation]
                assert (first.colour, relation, second.colour) not in HELD_OUT_RELATIONS
                assert (second.colour, mirrored, first.colour) not in HELD_OUT_RELATIONS


def test_questions_ask_what_one_would_ask():
    for text, said in {
        "is there a red circle?": "yes",
        "is there a large circle?": "no",
        "how many shapes are there?": "two",
        "how many rings are there?": "zero",
        "what colour is the square?": "blue",
        "what is the small shape?": "circle",
        "what size is the red circle?": "small",
        "what colour is the background?": "gray",
        "is the small circle on the left or on the right?": "left",
        "on which side is the blue shape, left or right?": "right",
        "where is the square, top or bottom?": "top",
        "is the circle to the left of the blue square?": "yes",
        "is the circle to the right of the blue square?": "no",
    }.items():
        assert answer(text, SCENE) == said


def test_the_middle_of_a_wide_picture_is_its_own():
    circle = replace(CIRCLE, x=0.6)
    for width, side in ((1.0, "right"), (1.5, "left")):
        assert answer("is the circle on the left or on the right?", Scene("gray", (circle,), width=width)) == side


def test_what_a_scene_leaves_open_has_no_answer():
    middle = replace(SCENE, objects=(replace(CIRCLE, x=0.46), SQUARE))
    diagonal = replace(SCENE, objects=(replace(CIRCLE, y=0.7), SQUARE))
    for text, scene in (
        ("is the circle to the left of the square?", diagonal),
        ("is the circle on the left or on the right?", middle),
        ("is the shape at the top or at the bottom?", SCENE),
        ("is the ring above the square?", SCENE),
        ("what colour is the shape?", SCENE),
        ("what size is the ring?", SCENE),
        ("how many shapes are there?", replace(SCENE, objects=(CIRCLE,) * 5)),
        ("what colour is the square?", replace(SCENE, objects=(replace(SQUARE, colour="unknown"),))),
        ("what colour is the background?", replace(SCENE, background="unknown")),
    ):
        assert answer(text, scene) is None, text
    with pytest.raises(ValueError, match="word 5 .* is 'elephant'"):
        answer("what colour is the elephant?", SCENE)


def test_held_out_frames_use_words_of_the_others_only():
    words = {word for frames in FRAMES.values() for frame in frames for word in frame.replace("?", "").split()}
    others = {
        word for frames in HELD_OUT_FRAMES.values() for frame in frames for word in frame.replace("?", "").split()
    }
    assert others <= words


def test_the_first_questions_of_an_example_are_of_its_own_picture():
    source = Shapes(ShapesConfig(50, image_size=32, world="shapes32", num_questions=3))
    for index in range(20):
        example = source[index]
        assert len(example.questions) == 3 and example.edit is None
        assert all(answer(text, example.metadata["scene"]) == said for text, said in example.questions)
    assert source[3].questions == Shapes(source.config)[3].questions
    plain = Shapes(ShapesConfig(50, image_size=32, world="shapes32"))[3]
    assert np.array_equal(plain.image, source[3].image) and plain.captions == source[3].captions
    assert plain.questions == ()
    with pytest.raises(ValueError, match="num_questions has to be 0 or more"):
        Shapes(ShapesConfig(1, num_questions=-1))


def test_a_description_has_to_be_true_and_to_name_everything():
    for text, ok in {
        "a red circle to the left of a blue square": True,
        "a picture of two shapes on a gray background": True,
        "a red circle and a green square": False,
        "a red circle": False,
        "a red circle above a blue square": False,  # they stand side by side: neither is above
        "a red circle and a blue square on a white background": False,
    }.items():
        verdict = check_caption(text, SCENE)
        assert verdict.ok is ok and verdict.facts["grammar"], text
    assert check_caption("a red circle above a blue square", SCENE).facts["relation"] is False
    for text in ("", "red", "a red elephant", "a red circle and a blue square and"):
        assert check_caption(text, SCENE) == (False, {"grammar": False})


@pytest.mark.parametrize("world", ANSWER_WEIGHTS)
def test_the_known_weights_are_about_what_a_few_scenes_give(world):
    known = {(sort, said): w for sort, row in ANSWER_WEIGHTS[world].items() for said, w in row.items()}
    found = {(sort.__name__, said): w for (sort, said), w in balancing_weights(WORLDS[world], 200).items()}
    assert set(found) == set(known)
    ratios = np.log([found[case] / known[case] for case in known])
    assert np.abs(ratios - np.median(ratios)).max() < 0.8


def test_only_the_sorts_that_are_named_are_asked_where_a_scene_allows_one():
    sorts = ("LeftOrRight", "Related")
    source = Shapes(ShapesConfig(80, image_size=32, world="shapes32", num_questions=3, asked=sorts))
    everything = Shapes(ShapesConfig(80, image_size=32, world="shapes32", num_questions=3))
    assert source.fingerprint != everything.fingerprint
    seen = Counter()
    for index in range(80):
        found = {type(parse_question(question)).__name__ for question, _ in source[index].questions}
        assert found <= set(sorts) or not found & set(sorts)  # a lone object in the middle has no side
        seen.update(found)
    assert seen["LeftOrRight"] > 30 and seen["Related"] > 15 and seen.total() > 60
    with pytest.raises(ValueError, match="unknown sorts of question Where, expected some of Exists"):
        Shapes(ShapesConfig(1, asked=("Where",)))
