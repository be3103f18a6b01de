"""Examples are a function of config and index; nothing held out reaches training."""

from dataclasses import replace

import numpy as np
import pytest

from data.example import Source
from data.shapes.captions import HELD_OUT_WRAPPERS
from data.shapes.programs import holds
from data.shapes.scene import WORLDS, Scene, sample_scene
from data.shapes.source import Shapes, ShapesConfig
from data.shapes.splits import COMBINATIONS, SPLITS, canonical, draws_of, hash_split, held_out, stated_held_out


def shapes(split: str = "train", num_examples: int = 1000, **settings) -> Shapes:
    return Shapes(ShapesConfig(num_examples=num_examples, split=split, **settings))


def test_an_index_gives_one_example_whatever_was_read_before():
    first, second = shapes(), shapes()
    assert isinstance(first, Source) and len(first) == 1000
    a = first[7]
    second[3], second[9]
    b = second[7]
    assert np.array_equal(a.image, b.image) and (a.captions, a.metadata) == (b.captions, b.metadata)
    assert a.image.shape == (64, 64, 3) and a.image.dtype == np.uint8
    assert holds(a.metadata["program"], a.metadata["scene"])


def test_an_example_does_not_depend_on_how_many_there_are_nor_on_its_resolution():
    assert shapes(num_examples=10).scene(3) == shapes(image_size=128).scene(3)


def test_seeds_splits_and_indices_differ():
    scenes = [shapes().scene(0), shapes().scene(1), shapes(seed=1).scene(0), shapes("val").scene(0)]
    assert len(set(scenes)) == 4


def test_each_draw_captions_the_same_scene_anew():
    source = shapes()
    draws = [source.caption(4, draw) for draw in range(20)]
    assert draws[0][0] == source[4].text
    assert len({text for text, _ in draws}) > 5
    assert all(holds(program, source.scene(4)) for _, program in draws)


def test_a_picture_can_come_with_several_captions():
    example = shapes(num_captions=3)[4]
    assert example.captions == tuple(shapes().caption(4, draw)[0] for draw in range(3))


def test_a_source_knows_whether_a_picture_shows_its_scene():
    source = shapes()
    assert source.shows(4, source[4].image) and not source.shows(4, source[5].image)


def test_what_is_not_there_is_refused_with_its_name():
    for index in (-1, 1000):
        with pytest.raises(IndexError, match=f"example {index} of 1000"):
            shapes()[index]
    with pytest.raises(ValueError, match="unknown split 'dev', expected one of train"):
        shapes("dev")
    with pytest.raises(ValueError, match="unknown world"):
        shapes(world="shapes16")
    with pytest.raises(ValueError, match="at least 1"):
        shapes(num_examples=0)


def test_a_fingerprint_changes_with_the_examples_only():
    config = ShapesConfig(num_examples=40, image_size=32)
    fingerprint = Shapes(config).fingerprint
    assert fingerprint == Shapes(config).fingerprint
    for change in ({"seed": 1}, {"split": "pair"}, {"num_examples": 41}, {"image_size": 48}, {"world": "shapes32"}):
        assert Shapes(replace(config, **change)).fingerprint != fingerprint


@pytest.mark.parametrize("world", WORLDS)
def test_training_scenes_have_nothing_that_is_held_out(world):
    source = shapes(world=world)
    for index in range(500):
        scene = source.scene(index)
        assert not held_out(draws_of(scene)) and hash_split(scene) == "train"
    for index in range(100):
        text, program = source.caption(index)
        assert not stated_held_out(program) and not text.startswith(HELD_OUT_WRAPPERS)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("split", [split for split in SPLITS if split != "train"])
def test_a_held_out_example_exercises_what_its_split_holds_out_and_nothing_else(split, world):
    source = shapes(split, world=world)
    for index in range(5):
        scene, (text, program) = source.scene(index), source.caption(index)
        assert held_out(draws_of(scene)) == {split} & COMBINATIONS
        assert stated_held_out(program) == {split} & (COMBINATIONS | {"relation"})
        assert (split == "template") == text.startswith(HELD_OUT_WRAPPERS)
        assert split in COMBINATIONS or hash_split(scene) != "train"


def test_scenes_that_look_alike_are_in_the_same_split():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng, WORLDS["shapes64"])
        turned = Scene(scene.background, scene.objects[::-1])
        assert canonical(turned) == canonical(scene) and hash_split(turned) == hash_split(scene)
        nudged = [replace(obj, x=(int(obj.x * 3) + 0.5) / 3, radius=0.1) for obj in scene.objects]
        assert canonical(Scene(scene.background, tuple(nudged))) == canonical(scene)


def test_the_training_scenes_still_show_every_attribute_and_number():
    draws = [draws_of(shapes().scene(index)) for index in range(300)]
    for attribute in zip(*shapes().world.kinds, strict=True):
        seen = {value for kinds in draws for kind in kinds for value in kind}
        assert set(attribute) <= seen
    numbers = np.bincount([len(kinds) for kinds in draws], minlength=5)
    assert numbers[0] == 0 and all(numbers[1:] > 40)


@pytest.mark.slow
def test_no_test_scene_is_among_many_training_scenes():
    trained = {canonical(shapes(num_examples=20_000).scene(index)) for index in range(20_000)}
    for split in ("val", "test", "relation", "template", *COMBINATIONS):
        assert not trained & {canonical(shapes(split).scene(index)) for index in range(100)}
