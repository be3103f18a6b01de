"""Examples are a function of config and index; nothing held out reaches training."""

from dataclasses import replace

import numpy as np
import pytest

from data.example import Source
from data.shapes.captions import HELD_OUT_WRAPPERS
from data.shapes.programs import holds
from data.shapes.scene import WORLDS, Scene, sample_scene
from data.shapes.source import Shapes, ShapesConfig
from data.shapes.splits import COMBINATIONS, SPLITS, canonical, draws_of, hash_split, held_out, occurs, stated_held_out
from runtime.config import from_dict


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
    changes: list[dict] = [{"seed": 1}, {"split": "pair"}, {"num_examples": 41}, {"image_size": 48}]
    for change in (*changes, {"world": "shapes32"}, {"world": "tints64"}):
        assert Shapes(replace(config, **change)).fingerprint != fingerprint


# Caches of codes and shipped models rest on these.
FINGERPRINTS = {
    ("shapes32", 32, "train"): "51b87dfff7fbfd14",
    ("shapes32", 32, "pair"): "9e02deef76dbe144",
    ("shapes64", 64, "train"): "05179e6c81b00af4",
    ("shapes64", 64, "test"): "5fd4a065ddabbda8",
}


@pytest.mark.parametrize(("world", "size", "split"), FINGERPRINTS)
def test_square_pictures_and_their_fingerprints_stay_what_they_are(world, size, split):
    source = shapes(split, 400, world=world, image_size=size, num_captions=2)
    assert source.fingerprint == FINGERPRINTS[world, size, split]


SIZES = ((32, 32), (32, 48), (48, 32))


def test_each_size_is_as_frequent_and_an_index_has_the_same_one_at_every_resolution():
    source, larger = (
        shapes(world="shapes32", image_size=32 * scale, sizes=tuple((scale * h, scale * w) for h, w in SIZES))
        for scale in (1, 2)
    )
    counts = dict.fromkeys(SIZES, 0)
    for index in range(300):
        scene = source.scene(index)
        counts[round(32 * scene.height), round(32 * scene.width)] += 1
        assert scene == larger.scene(index)
    assert all(70 < count < 130 for count in counts.values())
    for index in range(5):
        example, scene = source[index], source.scene(index)
        assert example.image.shape[:2] == (round(32 * scene.height), round(32 * scene.width))
        assert source.shows(index, example.image) and source.verdict(index, example.image).ok
        assert larger[index].image.shape[:2] == tuple(2 * side for side in example.image.shape[:2])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_objects_keep_to_their_picture_and_use_all_of_it(world, size):
    source = shapes(world=world, sizes=(size,))
    height, width = (side / 64 for side in size)
    outlines = [obj.outline() for index in range(300) for obj in source.scene(index).objects]
    points = np.concatenate(outlines) / (width, height)
    border = source.world.border / np.array([width, height])
    assert (points >= border - 1e-9).all() and (points <= 1 - border + 1e-9).all()
    assert (points.min(0) < 0.04).all() and (points.max(0) > 0.96).all()
    numbers = np.bincount([len(source.scene(index).objects) for index in range(300)])[1:]
    assert all(numbers > 0.7 * 300 / len(numbers))


def test_what_is_held_out_square_is_held_out_wide_and_tall():
    for split in ("train", "test", "pair"):
        source = shapes(split, sizes=((64, 96), (96, 64)))
        for index in range(30):
            scene = source.scene(index)
            stretched = tuple(replace(o, x=o.x / scene.width, y=o.y / scene.height) for o in scene.objects)
            square = Scene(scene.background, stretched)
            assert canonical(square) == canonical(scene)
            assert held_out(draws_of(scene)) == {split} & COMBINATIONS
            assert split in COMBINATIONS or hash_split(square) == hash_split(scene) == split


def test_sizes_have_the_image_size_as_their_shorter_side_and_a_fingerprint_of_their_own():
    with pytest.raises(ValueError, match=r"\(48, 96\), whose shorter side is not image_size, 64: change one"):
        shapes(sizes=((64, 64), (48, 96)))
    config = from_dict(ShapesConfig, {"num_examples": 40, "sizes": [[64, 64], [64, 96]]})  # as YAML has it
    assert config.sizes == ((64, 64), (64, 96))
    found = {shapes(num_examples=40, sizes=sizes).fingerprint for sizes in ((), ((64, 96),), ((64, 64), (64, 96)))}
    assert len(found) == 3
    square = shapes(sizes=((64, 64),))
    assert np.array_equal(square[3].image, shapes()[3].image) and square[3].captions == shapes()[3].captions


@pytest.mark.parametrize("world", WORLDS)
def test_training_scenes_have_nothing_that_is_held_out(world):
    source = shapes(world=world)
    for index in range(500):
        scene = source.scene(index)
        assert not held_out(draws_of(scene)) and hash_split(scene) == "train"
    for index in range(100):
        text, program = source.caption(index)
        assert not stated_held_out(program) and not text.startswith(HELD_OUT_WRAPPERS)


@pytest.mark.parametrize("world", ["shapes64", "shapes32"])
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


@pytest.mark.parametrize("split", ["count", "relation"])
def test_a_world_of_one_object_has_no_splits_that_need_several(split):
    with pytest.raises(ValueError, match="needs several objects, but 'single32' has one a scene"):
        Shapes(ShapesConfig(10, split, 32, "single32"))
    assert not occurs(split, WORLDS["single32"]) and occurs(split, WORLDS["shapes32"])
    assert all(len(Shapes(ShapesConfig(20, "pair", 32, "single32")).scene(index).objects) == 1 for index in range(20))
