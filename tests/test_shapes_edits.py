"""An edit changes what it names and nothing else, reads back from its instruction, and is judged on the picture."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from data.shapes import edits
from data.shapes.captions import SLACK, check_caption
from data.shapes.edits import (
    CHANGES,
    FRAMES,
    HELD_OUT_FRAMES,
    Add,
    Change,
    Move,
    Recolour,
    Remove,
    Repaint,
    Reshape,
    Resize,
    Swap,
    check_edit,
    parse_edit,
    sample_edit,
    sample_split_edit,
    write_edit,
)
from data.shapes.programs import Corner, Kind, holds
from data.shapes.render import render
from data.shapes.scene import WORLDS, Object, Scene, fits, sample_scene
from data.shapes.source import Shapes, ShapesConfig
from data.shapes.splits import COMBINATIONS, draws_of, hash_split, held_out

WORLD = WORLDS["shapes64"]
CIRCLE = Object("circle", "red", "small", 0.25, 0.3, 0.13)
SQUARE = Object("square", "blue", "large", 0.7, 0.25, 0.18)
RING = Object("ring", "green", "small", 0.6, 0.75, 0.13)
SCENE = Scene("gray", (CIRCLE, SQUARE, RING))


@lru_cache
def drawn(world: str) -> list[tuple[Scene, Change, Scene]]:
    rng = np.random.default_rng(0)
    return [sample_split_edit(rng, WORLDS[world], "train") for _ in range(320)]


@pytest.mark.parametrize("world", WORLDS)
def test_every_change_that_a_world_allows_is_asked_and_no_other_is_looked_for(world, monkeypatch):
    alone = {Recolour, Reshape, Resize, Move, Repaint}  # what can be done where there is one object, always
    assert {type(change) for _, change, _ in drawn(world)} == (alone if world == "single32" else set(CHANGES))
    tried, sample = [], edits.sample_edit
    monkeypatch.setattr(edits, "sample_edit", lambda *said: tried.append(said[-1][0]) or sample(*said))
    rng = np.random.default_rng(2)
    for _ in range(40):
        sample_split_edit(rng, WORLDS[world], "train")
    assert alone < {*tried} if world != "single32" else {*tried} == alone


def verdict(change: Change, background: str, *objects: Object) -> tuple[bool, bool, bool]:
    """Whether a picture of the objects is ok, done and preserved as a change of `SCENE`."""
    found = check_edit(render(Scene(background, objects), 64), SCENE, change, WORLD)
    return found.ok, found.done, found.preserved


@pytest.mark.parametrize("world", WORLDS)
def test_an_instruction_reads_back_as_its_change_in_every_frame(world):
    rng = np.random.default_rng(1)
    for _, change, _ in drawn(world)[:80]:
        for frames in (FRAMES, HELD_OUT_FRAMES):
            for _ in range(3):
                text = write_edit(rng, change, frames)
                assert parse_edit(text) == change, text


def test_instructions_say_what_one_would_say():
    circle, square = Kind("circle", "red"), Kind("square")
    for text, change in {
        "make the red circle green": Recolour(circle, "green"),
        "change the colour of the red circle to green": Recolour(circle, "green"),
        "turn the square into a ring": Reshape(square, "ring"),
        "make the red circle large": Resize(circle, "large"),
        "move the square to the top left corner": Move(square, "top left"),
        "add a large blue square": Add(Kind("square", "blue", "large")),
        "add a large blue square in the bottom right corner": Add(Kind("square", "blue", "large"), "bottom right"),
        "remove the small shape": Remove(Kind(size="small")),
        "swap the colours of the red circle and the square": Swap(circle, square),
        "make the background white": Repaint("white"),
    }.items():
        assert parse_edit(text) == change
    with pytest.raises(ValueError, match="word 3 of .* is 'elephant'"):
        parse_edit("remove the elephant")
    with pytest.raises(ValueError, match="word 4 .* is 'please', expected the end"):
        parse_edit("remove the ring please")


def test_held_out_frames_use_words_of_the_others_only():
    words = {word for frames in FRAMES.values() for frame in frames for word in frame.split()}
    held_out_words = {word for frames in HELD_OUT_FRAMES.values() for frame in frames for word in frame.split()}
    assert held_out_words <= words
    assert not {f for frames in FRAMES.values() for f in frames} & {f for fs in HELD_OUT_FRAMES.values() for f in fs}


@pytest.mark.parametrize("world", WORLDS)
def test_a_change_leaves_the_other_objects_bit_identical_and_the_scene_after_in_its_world(world):
    for before, change, after in drawn(world)[:160]:
        low, high = WORLDS[world].num_objects
        assert low <= len(after.objects) <= high
        for i, obj in enumerate(after.objects):
            assert fits(obj, after.objects[:i] + after.objects[i + 1 :], WORLDS[world], (1.0, 1.0)), change
        named = [kind for kind in vars(change).values() if isinstance(kind, Kind)]
        others = [obj for obj in before.objects if isinstance(change, Add) or not any(k.matches(obj) for k in named)]
        changed = 2 if isinstance(change, Swap) else 0 if isinstance(change, Add | Repaint) else 1
        assert len(others) == len(before.objects) - changed and all(obj in after.objects for obj in others)
        if not isinstance(change, Move | Add | Remove):
            assert [(obj.x, obj.y) for obj in after.objects] == [(obj.x, obj.y) for obj in before.objects]
        if isinstance(change, Move | Add) and change.corner:
            assert holds(Corner(change.kind, change.corner), after, SLACK) is True
        assert (before.background != after.background) == isinstance(change, Repaint)


@pytest.mark.parametrize("world", WORLDS)
def test_the_picture_after_passes_and_the_picture_before_is_undone_and_preserved(world):
    for before, change, after in drawn(world)[:80]:
        size = int(world[-2:])
        assert check_edit(render(after, size), before, change, WORLDS[world]).ok, change
        undone = check_edit(render(before, size), before, change, WORLDS[world])
        assert (undone.ok, undone.done, undone.preserved) == (False, False, True), change


def test_every_way_to_follow_an_instruction_is_right():
    right = (True, True, True)
    for x, y in ((0.2, 0.75), (0.28, 0.8)):
        added = Object("cross", "cyan", "small", x, y, 0.13)
        assert verdict(Add(Kind("cross", "cyan")), "gray", *SCENE.objects, added) == right
        assert verdict(Add(Kind("cross", "cyan"), "bottom left"), "gray", *SCENE.objects, added) == right
        moved = replace(CIRCLE, x=x, y=y)
        assert verdict(Move(Kind("circle"), "bottom left"), "gray", moved, SQUARE, RING) == right
    for radius in (0.17, 0.19):
        larger = replace(CIRCLE, size="large", radius=radius)
        assert verdict(Resize(Kind("circle"), "large"), "gray", larger, SQUARE, RING) == right
    nudged = replace(SQUARE, x=SQUARE.x + 0.03)
    assert verdict(Remove(Kind("circle")), "gray", RING, nudged) == right


def test_a_corner_that_is_not_clear_is_not_reached():
    middle = replace(CIRCLE, y=0.58)
    assert verdict(Move(Kind("circle"), "bottom left"), "gray", middle, SQUARE, RING) == (False, False, True)
    added = Object("cross", "cyan", "small", 0.25, 0.58, 0.13)
    change = Add(Kind("cross", "cyan"), "bottom left")
    assert verdict(change, "gray", *SCENE.objects, added) == (False, False, True)


GREEN = replace(CIRCLE, colour="green")
SWAPPED = (replace(CIRCLE, colour="blue"), replace(SQUARE, colour="red"))
CORNERED = replace(CIRCLE, x=0.2, y=0.8)
CYAN = Object("cross", "cyan", "small", 0.25, 0.75, 0.13)
LARGE = replace(CIRCLE, size="large", radius=0.18)


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (Recolour(Kind("circle"), "green"), (GREEN, SQUARE, RING)),
        (Reshape(Kind("circle"), "square"), (replace(CIRCLE, shape="square"), SQUARE, RING)),
        (Resize(Kind("circle"), "large"), (LARGE, SQUARE, RING)),
        (Move(Kind("circle"), "bottom left"), (CORNERED, SQUARE, RING)),
        (Add(Kind("cross", "cyan", "small")), (CIRCLE, SQUARE, RING, CYAN)),
        (Remove(Kind("circle")), (SQUARE, RING)),
        (Swap(Kind("circle"), Kind("square")), (*SWAPPED, RING)),
        (Repaint("white"), (CIRCLE, SQUARE, RING)),
    ],
    ids=lambda value: type(value).__name__.lower() if not isinstance(value, tuple) else "",
)
def test_what_an_edit_does_not_name_has_to_stay(change, after):
    background = "white" if isinstance(change, Repaint) else "gray"
    rest = tuple(obj for obj in after if obj != RING)
    assert verdict(change, background, *after) == (True, True, True)
    wrong = {
        "another recoloured": (*rest, replace(RING, colour="magenta")),
        "another resized": (*rest, replace(RING, size="large", radius=0.18)),
        "another reshaped": (*rest, replace(RING, shape="diamond")),
        "another moved": (*rest, replace(RING, x=0.75)),
        "one missing": rest,
        "one too many": (*after, Object("diamond", "yellow", "small", 0.88, 0.6, 0.12)),
    }
    for what, objects in wrong.items():
        if not (what == "one missing" and len(objects) == len(after)):
            assert verdict(change, background, *objects) == (False, True, False), what
    assert verdict(change, "black", *after)[::2] == (False, isinstance(change, Repaint))


def test_what_an_edit_changes_keeps_its_other_attributes_and_its_place():
    for change, wrong in (
        (Recolour(Kind("circle"), "green"), replace(GREEN, shape="diamond")),
        (Recolour(Kind("circle"), "green"), replace(GREEN, x=0.35)),
        (Resize(Kind("circle"), "large"), replace(LARGE, colour="green")),
        (Reshape(Kind("circle"), "square"), replace(CIRCLE, shape="square", y=0.4)),
    ):
        assert verdict(change, "gray", wrong, SQUARE, RING) == (False, True, False)
    recoloured = replace(CORNERED, colour="green")
    assert verdict(Move(Kind("circle"), "bottom left"), "gray", recoloured, SQUARE, RING)[0] is False
    assert verdict(Remove(Kind("circle")), "gray", GREEN, SQUARE, RING)[0] is False
    halfway = (SWAPPED[0], SQUARE, RING)
    assert verdict(Swap(Kind("circle"), Kind("square")), "gray", *halfway) == (False, False, True)


def test_the_right_change_of_the_wrong_object_is_neither_done_nor_preserving():
    for change, objects in (
        (Recolour(Kind("circle"), "green"), (CIRCLE, replace(SQUARE, colour="green"), RING)),
        (Resize(Kind("circle"), "large"), (CIRCLE, SQUARE, replace(RING, size="large", radius=0.18))),
        (Move(Kind("circle"), "bottom left"), (CIRCLE, SQUARE, replace(RING, x=0.2, y=0.8))),
        (Remove(Kind("circle")), (CIRCLE, RING)),
    ):
        assert verdict(change, "gray", *objects) == (False, False, False)


def test_an_edit_that_does_not_say_which_object_is_refused():
    with pytest.raises(ValueError, match="matches 2 objects"):
        verdict(Remove(Kind(size="small")), "gray", SQUARE, RING)
    same = Scene("gray", (CIRCLE, replace(CIRCLE, x=0.7)))
    rng = np.random.default_rng(0)
    assert sample_edit(rng, same, WORLD, types=(Remove, Recolour, Swap)) is None


def test_a_change_is_drawn_of_any_type_that_the_scene_allows():
    rng = np.random.default_rng(2)
    scenes = [sample_scene(rng, WORLD) for _ in range(300)]
    found = {type(edit[0]) for scene in scenes if (edit := sample_edit(rng, scene, WORLD))}
    assert found == set(CHANGES)


@pytest.mark.parametrize("world", ["shapes64", "shapes32"])  # where there is but one object, none can change places
def test_all_types_of_change_come_equally_often(world):
    types = [type(change) for _, change, _ in drawn(world)]
    for change in CHANGES:  # four standard deviations of 320 draws
        assert abs(types.count(change) / len(types) - 1 / 8) < 0.075, change


@pytest.mark.parametrize("world", WORLDS)
def test_no_training_edit_leads_to_or_names_what_is_held_out(world):
    for before, change, after in drawn(world):
        for scene in (before, after):
            assert not held_out(draws_of(scene)) and hash_split(scene) == "train"
        for kind in (value for value in vars(change).values() if isinstance(value, Kind)):
            for named in (kind, replace(kind, **{k: v for k, v in vars(change).items() if k in vars(kind)})):
                assert not held_out([(named.shape, named.colour, named.size)]), change


@pytest.mark.parametrize("split", ["test", "template", "pair", "count", "size_colour"])
def test_a_held_out_edit_brings_about_what_its_split_holds_out(split):
    source = Shapes(ShapesConfig(4, split=split, image_size=32, world="shapes32", edits=True, num_questions=2))
    hashes = {"test"} if split == "test" else {"val", "test"}
    for index in range(1 if split == "test" else 3):
        example = source[index]
        before, after = example.metadata["scene"], example.edit.result.metadata["scene"]
        assert not held_out(draws_of(before)) and held_out(draws_of(after)) == {split} & COMBINATIONS
        assert hash_split(before) in hashes and (split in COMBINATIONS or hash_split(after) in hashes)
        change = example.metadata["change"]
        frames = HELD_OUT_FRAMES if split == "template" else FRAMES
        said = {write_edit(np.random.default_rng(seed), change, frames) for seed in range(30)}
        assert example.edit.instruction in said


def test_an_example_with_an_edit_is_a_function_of_its_index():
    config = ShapesConfig(100, image_size=32, world="shapes32", edits=True, num_questions=2, num_captions=2)
    first, second = Shapes(config), Shapes(config)
    a = first[5]
    second[3], second.instruction(9)
    b = second[5]
    assert a.edit and b.edit
    for one, other in ((a, b), (a.edit.result, b.edit.result)):
        assert np.array_equal(one.image, other.image)
        assert (one.captions, one.metadata, one.questions) == (other.captions, other.metadata, other.questions)
    assert a.edit.instruction == b.edit.instruction == first.instruction(5)[0]
    assert a.edit.result.edit is None and len(a.edit.result.captions) == len(a.edit.result.questions) == 2
    assert a.metadata["scene"] == first.scene(5) and a.metadata["change"] == parse_edit(a.edit.instruction)
    for example in (a, a.edit.result):
        assert all(check_caption(text, example.metadata["scene"]).ok for text in example.captions)
    assert first.edit_verdict(5, a.edit.result.image).ok and not first.edit_verdict(5, a.image).done
    assert first.caption_verdict(5, a.text).ok and not first.caption_verdict(5, "draw").ok


def test_what_cannot_be_edited_is_refused():
    with pytest.raises(ValueError, match="no edit states a relation"):
        Shapes(ShapesConfig(1, split="relation", edits=True))
    with pytest.raises(ValueError, match="set edits to true"):
        Shapes(ShapesConfig(1)).instruction(0)
    with pytest.raises(ValueError, match="another split than 'relation'"):
        sample_split_edit(np.random.default_rng(0), WORLD, "relation")


def test_fingerprints_tell_edits_and_questions_from_none_and_leave_older_ones_alone():
    config = ShapesConfig(3, image_size=32, world="shapes32")
    assert repr(config) == (
        "ShapesConfig(num_examples=3, split='train', image_size=32, world='shapes32', num_captions=1, seed=0, "
        "kind='shapes')"
    )
    changes = ({}, {"edits": True}, {"num_questions": 1}, {"num_questions": 2})
    assert len({Shapes(replace(config, **change)).fingerprint for change in changes}) == len(changes)


def test_edits_of_wide_and_tall_scenes_keep_their_frame_and_are_judged_in_it():
    config = ShapesConfig(40, image_size=32, world="shapes32", sizes=((32, 48), (48, 32)), num_questions=1, edits=True)
    for example in map(Shapes(config).__getitem__, range(40)):
        before, change = example.metadata["scene"], example.metadata["change"]
        after = example.edit.result.metadata["scene"]
        assert (after.width, after.height) == (before.width, before.height) != (1.0, 1.0)
        assert check_edit(example.edit.result.image, before, change, WORLDS["shapes32"]).ok
        assert not check_edit(example.image, before, change, WORLDS["shapes32"]).done
        if isinstance(change, Move):
            assert holds(Corner(change.kind, change.corner), after)
