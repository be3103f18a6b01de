"""The checker reads a scene back off its picture, and is not talked into seeing what is not there."""

from dataclasses import replace

import numpy as np
import pytest

from data.shapes.checker import Parsed, check, components, parse, same_scene
from data.shapes.programs import Background, Inventory, Kind, Program, Relation, holds
from data.shapes.render import render
from data.shapes.scene import BACKGROUNDS, WORLDS, Object, Scene, World, sample_scene
from data.shapes.source import Shapes, ShapesConfig

WORLD = World()
SQUARE, WIDE, TALL = (1.0, 1.0), (1.5, 1.0), (1.0, 1.5)  # width and height


def scenes(number: int, world: World = WORLD, seed: int = 0, frame: tuple[float, float] = SQUARE) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, world, frame=frame) for _ in range(number)]


def everything(scene: Scene) -> Program:
    """All that a caption could say of a scene, places aside."""
    kinds = tuple(Kind(obj.shape, obj.colour, obj.size) for obj in scene.objects)
    return (Inventory(kinds), Background(scene.background))


def blurred(image: np.ndarray, deviation: float) -> np.ndarray:
    weights = np.exp(-((np.arange(-6, 7) / deviation) ** 2) / 2)
    for axis in (0, 1):
        padded = np.pad(image.astype(float), [(6, 6) if a == axis else (0, 0) for a in range(3)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 13, axis=axis)
        image = windows @ (weights / weights.sum())
    return image.round().astype(np.uint8)


def noisy(image: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(int(image.sum())).normal(0, deviation * 255, image.shape)
    return (image + noise).clip(0, 255).round().astype(np.uint8)


def halved(image: np.ndarray) -> np.ndarray:
    """Averaged down to half the size and repeated up again."""
    small = image.reshape(len(image) // 2, 2, len(image) // 2, 2, 3).mean((1, 3))
    return small.repeat(2, 0).repeat(2, 1).round().astype(np.uint8)


# The checker against what decoders do to pictures. Two objects of one colour can run together at 32 pixels.
CLEAN, BLUR, BLUR_MORE, NOISE, HALVED = range(5)
DAMAGES = (
    lambda image: image,
    lambda image: blurred(image, 1),
    lambda image: blurred(image, 2),
    lambda image: noisy(image, 0.08),
    halved,
)


@pytest.mark.parametrize(
    ("world", "size", "damage", "at_least"),
    [
        ("shapes64", 64, CLEAN, 1.0),
        ("shapes64", 64, BLUR, 1.0),
        ("shapes64", 64, BLUR_MORE, 0.98),
        ("shapes64", 64, NOISE, 1.0),
        ("shapes64", 64, HALVED, 1.0),
        ("shapes64", 32, CLEAN, 1.0),
        ("shapes64", 256, CLEAN, 1.0),
        ("tints64", 64, CLEAN, 1.0),
        ("tints64", 64, BLUR, 1.0),
        ("tints64", 64, NOISE, 1.0),
        ("shapes32", 32, CLEAN, 1.0),
        ("shapes32", 32, BLUR, 0.98),
        ("shapes32", 32, NOISE, 1.0),
        ("shapes32", 32, HALVED, 0.97),
    ],
)
def test_pictures_read_back_as_their_scenes(world, size, damage, at_least):
    world = WORLDS[world]
    found = [(parse(DAMAGES[damage](render(scene, size)), world), scene) for scene in scenes(40, world)]
    assert np.mean([same_scene(parsed, scene) for parsed, scene in found]) >= at_least


@pytest.mark.parametrize(("world", "size"), [("shapes64", 64), ("shapes64", 128), ("shapes32", 32)])
@pytest.mark.parametrize("frame", [WIDE, TALL, (4 / 3, 1.0)])
def test_wide_and_tall_pictures_read_back_as_their_scenes(world, size, frame):
    size = size * 3 // 4 if frame[0] == 4 / 3 else size  # a whole number of pixels
    world = WORLDS[world]
    for scene in scenes(50, world, seed=6, frame=frame):
        image = render(scene, size)
        assert image.shape == (round(size * frame[1]), round(size * frame[0]), 3)
        parsed = parse(image, world)
        assert (parsed.scene.width, parsed.scene.height) == frame and same_scene(parsed, scene)
        for obj in scene.objects:  # an object has the place, and the size in pixels, that it has in a square picture
            seen = min(parsed.scene.objects, key=lambda other: np.hypot(other.x - obj.x, other.y - obj.y))
            assert abs(seen.radius - obj.radius) < 0.006 and np.hypot(seen.x - obj.x, seen.y - obj.y) < 0.012


def test_a_picture_of_another_aspect_shows_another_scene():
    scene = Scene("gray", (Object("circle", "red", "large", 0.3, 0.3, 0.18),))
    for frame in (WIDE, TALL):
        wider = replace(scene, width=frame[0], height=frame[1])
        assert check(render(wider, 64), everything(scene), WORLD).ok  # no caption speaks of it
        assert not same_scene(parse(render(wider, 64), WORLD), scene)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "size"), [("shapes64", 64), ("tints64", 64), ("shapes32", 32)])
def test_ten_thousand_pictures_read_back_as_their_scenes(world, size):
    world = WORLDS[world]
    assert all(same_scene(parse(render(scene, size), world), scene) for scene in scenes(10_000, world, seed=1))


def test_every_picture_satisfies_its_own_caption():
    for split in ("train", "relation", "template", "pair"):
        source = Shapes(ShapesConfig(num_examples=10, split=split))
        for example in (source[index] for index in range(10)):
            verdict = check(example.image, example.metadata["program"], source.world)
            assert verdict.ok and all(verdict.facts.values()), (example.text, verdict)


@pytest.mark.parametrize(("world", "size"), [("shapes64", 64), ("tints64", 64), ("shapes32", 32)])
@pytest.mark.parametrize("frame", [SQUARE, WIDE, TALL])
def test_changing_any_one_attribute_flips_the_verdict(world, size, frame):
    rng = np.random.default_rng(2)
    world = WORLDS[world]
    radii = {name: (low + high) / 2 for name, low, high in world.radii}
    for scene in scenes(25, world, seed=2, frame=frame):
        program, rest = everything(scene), scene.objects[1:]
        first = replace(scene.objects[0], radius=radii["small"])  # no change of shape may make two objects touch
        for changed in (
            *(replace(first, shape=shape) for shape in world.shapes if shape != first.shape),
            *(replace(first, colour=colour) for colour in world.colours if colour != first.colour),
            *(replace(first, size=name, radius=radius) for name, radius in radii.items() if name != first.size),
        ):
            if rng.random() < 0.4:
                verdict = check(render(replace(scene, objects=(changed, *rest)), size), program, world)
                assert not verdict.ok and not verdict.facts["objects"]
        fewer = check(render(replace(scene, objects=rest), size), program, world)
        assert not fewer.ok and not fewer.facts["count"]
        other = next(name for name in BACKGROUNDS if name != scene.background)
        repainted = check(render(replace(scene, background=other), size), program, world)
        assert [name for name, verdict in repainted.facts.items() if not verdict] == ["background"]


@pytest.mark.parametrize("frame", [SQUARE, WIDE, TALL])
def test_a_mirror_image_flips_left_and_right_and_nothing_else(frame):
    flipped = 0
    for scene in scenes(40, seed=3, frame=frame):
        image = render(scene, 64)
        seen, mirrored = parse(image, WORLD).scene, parse(image[:, ::-1], WORLD).scene
        assert holds(everything(scene), mirrored)
        for a in scene.objects:
            for b in scene.objects:
                fact = Relation(Kind(a.shape, a.colour), "left", Kind(b.shape, b.colour))
                if holds(fact, scene, slack=0.02) and not holds(replace(fact, relation="right"), scene, slack=-0.02):
                    assert holds(fact, seen) is True and holds(fact, mirrored) is not True
                    flipped += 1
    assert flipped > 10


def test_all_resolutions_show_the_same_scene():
    for scene in scenes(20, seed=4):
        for size in (32, 48, 64, 128, 192):
            parsed = parse(render(scene, size), WORLD)
            assert same_scene(parsed, scene)
            for obj in scene.objects:
                seen = min(parsed.scene.objects, key=lambda other: np.hypot(other.x - obj.x, other.y - obj.y))
                assert abs(seen.radius - obj.radius) < 0.006 and np.hypot(seen.x - obj.x, seen.y - obj.y) < 0.01


def test_pictures_of_nothing_are_not_ok():
    rng = np.random.default_rng(5)
    program = (Inventory((Kind(),)),)
    ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    for image in (
        *(np.full((64, 64, 3), round(level * 255), np.uint8) for level in BACKGROUNDS.values()),
        np.full((64, 64, 3), (230, 26, 26), np.uint8),
        rng.integers(0, 256, (64, 64, 3), np.uint8),
        rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1),
        ramp,
    ):
        assert not check(image, program, WORLD).ok
    assert parse(np.full((64, 64, 3), 128, np.uint8), WORLD) == Parsed(Scene("gray", ()), (), (), 0.0)


def picture(obj: Object) -> np.ndarray:
    return render(Scene("black", (obj,)), 64)


def test_an_object_without_its_colour_is_junk_and_half_of_one_is_no_shape():
    scene = Scene(
        "gray", (Object("circle", "red", "large", 0.3, 0.3, 0.18), Object("ring", "blue", "small", 0.7, 0.7, 0.13))
    )
    image = render(scene, 64)
    assert check(image, everything(scene), WORLD).ok
    colourless = image.copy()
    colourless[32:, 32:] = np.where(image[32:, 32:] == 128, 128, 240)
    assert not check(colourless, everything(scene), WORLD).facts["clean"]
    halved = image.copy()
    halved[:20] = 128
    verdict = check(halved, everything(scene), WORLD)
    assert not verdict.facts["shape"] and verdict.facts["count"]


def test_shapes_and_colours_between_those_of_the_world_are_unknown():
    circle = Object("circle", "red", "large", 0.5, 0.5, 0.18)
    orange = picture(circle)
    orange[..., 1] = (orange[..., 0] * 0.55).astype(np.uint8)
    assert parse(orange, WORLD).scene.objects[0].colour == "unknown"
    upside_down = picture(replace(circle, shape="triangle"))[::-1]
    assert parse(upside_down, WORLD).scene.objects[0].shape == "unknown"
    for radius, size in ((0.10, "unknown"), (0.13, "small"), (0.155, "unknown"), (0.19, "large"), (0.24, "unknown")):
        assert parse(picture(replace(circle, radius=radius)), WORLD).scene.objects[0].size == size


def test_a_small_stray_blot_is_junk_and_a_speck_is_forgiven():
    scene = Scene("gray", (Object("circle", "red", "large", 0.3, 0.3, 0.18),))
    for side, clean in ((3, True), (8, False)):
        for colour in ((26, 26, 230), (250, 250, 250)):
            image = render(scene, 64)
            image[50 : 50 + side, 50 : 50 + side] = colour
            assert check(image, everything(scene), WORLD).ok is clean


def test_touching_objects_of_different_colours_stay_two():
    square = Object("square", "red", "large", 0.3, 0.5, 0.18)
    for colour in ("green", "cyan", "magenta"):
        for damage in DAMAGES[:2]:
            scene = Scene("black", (square, replace(square, colour=colour, x=0.3 + 0.18 * np.sqrt(np.pi))))
            found = parse(damage(render(scene, 64)), WORLD).scene
            assert holds(everything(scene), found)


def test_components_share_a_side_and_a_class():
    classes = np.array([[0, 0, -1, 0], [1, 0, -1, 0], [1, -1, 0, -1]])
    labels = components(classes)
    assert labels.max() == 4
    assert np.array_equal(labels == 0, classes == -1)
    assert labels[0, 0] == labels[1, 1] != labels[0, 3] != labels[2, 2]


def test_a_picture_that_cannot_be_averaged_down_is_refused():
    for height, width in ((129, 129), (128, 129)):
        with pytest.raises(ValueError, match=f"{height} x {width} pixels has no whole blocks of 2"):
            parse(np.zeros((height, width, 3), np.uint8), WORLD)


def test_a_scene_has_a_shorter_side_of_one_and_a_picture_whole_pixels():
    for width, height in ((2.0, 1.5), (0.5, 1.0)):
        with pytest.raises(ValueError, match=f"{width} wide and {height} high.* divide both by it"):
            Scene("gray", (), width, height)
    with pytest.raises(ValueError, match="no whole number of pixels at size 33: choose another size"):
        render(Scene("gray", (), 1.5, 1.0), 33)
