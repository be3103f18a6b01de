"""Which scenes and captions are trained on, and which are kept to ask what was learnt beyond them.

    train, val, test    the same distribution; a scene's hash decides, so that no scene is in two of them
    pair                scenes with a shape in a colour that it never has elsewhere
    count               scenes with a number of a shape that never occurs elsewhere
    size_colour         scenes with a colour in a size that it never has elsewhere
    relation            captions that relate two colours in a way that no other caption states
    template            captions in a frame that no other caption has

Each shape, colour, size, number, relation and word is seen in training: only combinations of them are held out. An
example of a held-out split exercises what that split holds out and nothing that another does. An edit leads to a scene
of its split, and for a held-out split from one that is not trained on. A question mentions nothing that another split
holds out, whatever its answer.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from data.shapes.captions import SLACK
from data.shapes.programs import Inventory, Kind, Program, Relation, holds
from data.shapes.scene import COLOURS, SHAPES, Draw, Scene, World, sample_scene

# Share of scenes by hash. The last two splits hold out captions only: their scenes are any but those of `train`.
SHARES = {"train": 0.92, "val": 0.04, "test": 0.04}
SPLITS = (*SHARES, "pair", "count", "size_colour", "relation", "template")
COMBINATIONS = frozenset({"pair", "count", "size_colour"})  # held out by what is in the scene

# A Latin square's diagonal: each shape lacks one colour and each colour one shape.
HELD_OUT_PAIRS = frozenset((shape, list(COLOURS)[(i + 2) % len(COLOURS)]) for i, shape in enumerate(SHAPES))
HELD_OUT_COUNTS = frozenset({("cross", 2), ("ring", 3), ("triangle", 4)})
HELD_OUT_SIZES = frozenset({("small", "cyan"), ("large", "yellow")})
# In either wording: "blue to the right of red" says the same as the first. Its mirror image is trained on.
HELD_OUT_RELATIONS = frozenset(
    {("red", "left", "blue"), ("cyan", "left", "yellow"), ("green", "above", "magenta"), ("yellow", "above", "red")}
)


def held_out(draws: Sequence[tuple[str | None, str | None, str | None]]) -> set[str]:
    """The splits that hold out something among these objects, each given by shape, colour and size."""
    shapes = [shape for shape, _, _ in draws]
    found = {
        "pair": any((shape, colour) in HELD_OUT_PAIRS for shape, colour, _ in draws),
        "count": any((shape, shapes.count(shape)) in HELD_OUT_COUNTS for shape in shapes),
        "size_colour": any((size, colour) in HELD_OUT_SIZES for _, colour, size in draws),
    }
    return {split for split in COMBINATIONS if found[split]}


def stated_held_out(program: Program) -> set[str]:
    """The splits that hold out something that a caption's program states; the caption's frame is not part of it."""
    found = set()
    reverse = {"right": "left", "below": "above"}
    for fact in program:
        if isinstance(fact, Inventory):
            found |= held_out([(kind.shape, kind.colour, kind.size) for kind in fact.kinds])
        if isinstance(fact, Relation):
            first, relation, second = fact.first.colour, fact.relation, fact.second.colour
            if relation in reverse:
                first, relation, second = second, reverse[relation], first
            if (first, relation, second) in HELD_OUT_RELATIONS:
                found.add("relation")
    return found


def draws_of(scene: Scene) -> list[Draw]:
    """Shape, colour and size of each object."""
    return [(obj.shape, obj.colour, obj.size) for obj in scene.objects]


def canonical(scene: Scene) -> str:
    """The same for scenes that look alike: background, and the sorted objects with their cells of a 3 x 3 grid.

    The grid spans the scene, square or not: a layout that is held out stays so when it is stretched.
    """
    objects = sorted(
        (*draw, int(obj.x / scene.width * 3), int(obj.y / scene.height * 3))
        for draw, obj in zip(draws_of(scene), scene.objects, strict=True)
    )
    return f"{scene.background} {objects}"


def hash_split(scene: Scene) -> str:
    """Which of train, val and test a scene belongs to."""
    digest = hashlib.blake2b(canonical(scene).encode(), digest_size=8).digest()
    fraction = int.from_bytes(digest) / 2**64
    train, val, _ = SHARES.values()
    return "train" if fraction < train else "val" if fraction < train + val else "test"


def occurs(split: str, world: World) -> bool:
    """Whether a world has scenes of a split: those of two splits have several objects."""
    return split not in ("count", "relation") or world.num_objects[1] > 1


def belongs(scene: Scene, split: str) -> bool:
    """Whether a scene can be an example's of the split."""
    return _fits(draws_of(scene), split) and _placed_for(scene, split)


def sample_split_scene(
    rng: np.random.Generator, world: World, split: str, frame: tuple[float, float] = (1.0, 1.0)
) -> Scene:
    """Draws scenes of a width and height until one belongs to the split.

    What the objects alone can rule out is ruled out before they are placed.
    """
    kinds = _kinds(world, split)
    while True:
        scene = sample_scene(rng, world, kinds, accept=lambda draws: _fits(draws, split), frame=frame)
        if _placed_for(scene, split):
            return scene


@lru_cache
def _kinds(world: World, split: str) -> tuple[Draw, ...]:
    """The kinds that the split's scenes can contain: none that a different split holds out."""
    return tuple(kind for kind in world.kinds if held_out([kind]) <= {split})


def _fits(draws: Sequence[Draw], split: str) -> bool:
    return held_out(draws) == {split} & COMBINATIONS and (split != "relation" or bool(_held_out_relations(draws)))


def _placed_for(scene: Scene, split: str) -> bool:
    """What is left to ask of a scene whose objects fit the split."""
    if split in COMBINATIONS:
        return True
    if split in SHARES:
        return hash_split(scene) == split
    return hash_split(scene) != "train" and (split == "template" or _shows_held_out_relation(scene))


def _held_out_relations(draws: Sequence[Draw]) -> list[Relation]:
    """Those that a caption could state of these objects without saying which of several it means."""
    colours = [colour for _, colour, _ in draws]
    return [
        Relation(Kind(colour=first), relation, Kind(colour=second))
        for first, relation, second in HELD_OUT_RELATIONS
        if colours.count(first) == colours.count(second) == 1
    ]


def _shows_held_out_relation(scene: Scene) -> bool:
    return any(holds(fact, scene, SLACK) for fact in _held_out_relations(draws_of(scene)))
