"""Captioned shapes as a source of examples, each drawn when it is asked for from nothing but its index."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from data.example import Example
from data.shapes.captions import HELD_OUT_WRAPPERS, WRAPPERS, sample_caption
from data.shapes.checker import parse, same_scene
from data.shapes.programs import Program
from data.shapes.render import render
from data.shapes.scene import WORLDS, Scene
from data.shapes.splits import COMBINATIONS, SPLITS, sample_split_scene, stated_held_out

if TYPE_CHECKING:
    from data.shapes.checker import Verdict


@dataclass(frozen=True)
class ShapesConfig:
    """Which captioned shapes, and how many."""

    # examples, at least 1; each is drawn afresh, so more cost nothing but their time
    num_examples: int
    # name in data.shapes.splits.SPLITS
    split: str = "train"
    # the picture's shorter side in pixels; worlds are named after the least at which theirs can be checked
    image_size: int = 64
    # name in data.shapes.scene.WORLDS
    world: str = "shapes64"
    # captions of each picture, in different words; training draws one of them
    num_captions: int = 1
    # start of all randomness; whether a scene is trained on does not depend on it
    seed: int = 0
    # (height, width) of the pictures, as many of one as of another; without any, all are square. Not a part of `repr`,
    # which fingerprints hash: those of square pictures stay what they were
    sizes: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    kind: Literal["shapes"] = "shapes"


class Shapes:
    """A `Source` of captioned shapes: a pure function of the config and an index.

    An example's metadata hold its `scene` and the `program` that its caption states.
    """

    def __init__(self, config: ShapesConfig):
        for name, value, known in (("split", config.split, SPLITS), ("world", config.world, WORLDS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}, expected one of {', '.join(known)}")
        if config.num_examples < 1 or config.image_size < 1:
            raise ValueError(f"num_examples and image_size have to be at least 1, not as in {config}")
        for size in config.sizes:
            if min(size) != config.image_size:
                raise ValueError(
                    f"sizes has {size}, whose shorter side is not image_size, {config.image_size}: change one of them"
                )
        self.config = config
        self.world = WORLDS[config.world]

    def __len__(self) -> int:
        return self.config.num_examples

    def __getitem__(self, index: int) -> Example:
        scene = self.scene(index)
        captions = [self._describe(scene, index, draw) for draw in range(self.config.num_captions)]
        metadata = {"scene": scene, "program": captions[0][1]}
        return Example(render(scene, self.config.image_size), tuple(text for text, _ in captions), metadata)

    def shows(self, index: int, image: UInt8[np.ndarray, "height width 3"]) -> bool:
        """Whether a picture says the same as an example's own, to the checker: the ceiling of whatever redraws it."""
        return same_scene(parse(image, self.world), self.scene(index))

    def verdict(self, index: int, image: UInt8[np.ndarray, "height width 3"]) -> "Verdict":
        """Which facts of an example's first caption a picture shows."""
        from data.shapes.checker import check

        return check(image, self.caption(index)[1], self.world)

    def scene(self, index: int) -> Scene:
        """The scene of an example, without its picture."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return sample_split_scene(self._rng("scene", index), self.world, self.config.split, self._frame(index))

    def caption(self, index: int, draw: int = 0) -> tuple[str, Program]:
        """A caption of an example and the program that it states; each draw gives another, independently."""
        return self._describe(self.scene(index), index, draw)

    @property
    def fingerprint(self) -> str:
        """A hash of the config and of examples throughout: it changes with the code wherever the code's results do."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.config, self.world)).encode())
        if self.config.sizes:
            digest.update(repr(self.config.sizes).encode())
        for index in range(0, len(self), -(-len(self) // 32)):
            example = self[index]
            digest.update(example.image.tobytes() + example.text.encode())
        return digest.hexdigest()[:16]

    def _frame(self, index: int) -> tuple[float, float]:
        """Width and height of an example's scene, drawn apart from what is in it."""
        sizes = self.config.sizes or ((1, 1),)
        height, width = sizes[self._rng("size", index).integers(len(sizes))]
        return width / min(height, width), height / min(height, width)

    def _describe(self, scene: Scene, index: int, draw: int) -> tuple[str, Program]:
        rng = self._rng(f"caption {draw}", index)
        wrappers = HELD_OUT_WRAPPERS if self.config.split == "template" else WRAPPERS
        wanted = {self.config.split} & (COMBINATIONS | {"relation"})
        while True:
            text, program = sample_caption(rng, scene, wrappers)
            if stated_held_out(program) == wanted:
                return text, program

    def _rng(self, purpose: str, index: int) -> np.random.Generator:
        name = f"{self.config.seed} {self.config.split} {index} {purpose}"
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest())
        return np.random.Generator(np.random.Philox(key=key))
