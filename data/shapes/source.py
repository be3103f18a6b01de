"""Captioned shapes as a source of examples, each drawn when it is asked for from nothing but its index."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import UInt8

from data.example import Edit, Example
from data.shapes import edits, questions
from data.shapes.captions import HELD_OUT_WRAPPERS, OMISSIONS, WRAPPERS, CaptionVerdict, check_caption, sample_caption
from data.shapes.checker import parse, same_scene
from data.shapes.programs import Program
from data.shapes.render import render
from data.shapes.scene import WORLDS, Scene
from data.shapes.splits import SPLITS, draws_of, held_out, occurs, sample_split_scene, stated_held_out

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
    # (height, width) of the pictures, as many of one as of another; without any, all are square. This and what follows
    # are no part of `repr`, which fingerprints hash: those of configs without them stay what they were
    sizes: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    # questions about each picture
    num_questions: int = field(default=0, repr=False)
    # sorts of question, classes of data.shapes.questions, that alone are asked where a scene allows one of them
    asked: tuple[str, ...] = field(default=(), repr=False)
    # whether each example comes with an edit of its picture; the scenes then are such that there is one
    edits: bool = field(default=False, repr=False)
    kind: Literal["shapes"] = "shapes"


class Shapes:
    """A `Source` of captioned shapes: a pure function of the config and an index.

    An example's metadata hold its `scene`, the `program` that its caption states, and the `change` that its edit asks.
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
        if not occurs(config.split, WORLDS[config.world]):
            raise ValueError(f"the split {config.split!r} needs several objects, but {config.world!r} has one a scene")
        if config.num_questions < 0:
            raise ValueError(f"num_questions has to be 0 or more, not {config.num_questions}")
        if unknown := set(config.asked) - {sort.__name__ for sort in questions.FRAMES}:
            known = ", ".join(sort.__name__ for sort in questions.FRAMES)
            raise ValueError(f"unknown sorts of question {', '.join(sorted(unknown))}, expected some of {known}")
        if config.edits and config.split == "relation":
            raise ValueError("no edit states a relation: with the split 'relation', edits has to be false")
        self.config = config
        self.world = WORLDS[config.world]

    def __len__(self) -> int:
        return self.config.num_examples

    def __getitem__(self, index: int) -> Example:
        if not self.config.edits:
            return self._example(self.scene(index), index)
        before, change, after = self._edited(index)
        example = self._example(before, index)
        edit = Edit(self._instruct(change, index), self._example(after, index, "edited "))
        return replace(example, metadata={**example.metadata, "change": change}, edit=edit)

    @property
    def omissions(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """What can be left out of a caption: see `data.shapes.captions.OMISSIONS`."""
        return OMISSIONS

    def shows(self, index: int, image: UInt8[np.ndarray, "height width 3"]) -> bool:
        """Whether a picture says the same as an example's own, to the checker: the ceiling of whatever redraws it."""
        return same_scene(parse(image, self.world), self.scene(index))

    def verdict(self, index: int, image: UInt8[np.ndarray, "height width 3"]) -> "Verdict":
        """Which facts of an example's first caption a picture shows."""
        from data.shapes.checker import check

        return check(image, self.caption(index)[1], self.world)

    def caption_verdict(self, index: int, text: str) -> CaptionVerdict:
        """Whether a text describes an example's picture."""
        return check_caption(text, self.scene(index))

    def edit_verdict(self, index: int, image: UInt8[np.ndarray, "height width 3"]) -> edits.EditVerdict:
        """Whether a picture is what an example's edit was to give; any way to follow the instruction is."""
        before, change, _ = self._edited(index)
        return edits.check_edit(image, before, change, self.world)

    def scene(self, index: int) -> Scene:
        """The scene of an example, without its picture."""
        if self.config.edits:
            return self._edited(index)[0]
        return sample_split_scene(self._rng("scene", index), self.world, self.config.split, self._frame(index))

    def caption(self, index: int, draw: int = 0) -> tuple[str, Program]:
        """A caption of an example and the program that it states; each draw gives another, independently."""
        return self._describe(self.scene(index), index, draw)

    def instruction(self, index: int) -> tuple[str, edits.Change]:
        """The instruction of an example's edit and the change that it asks for."""
        change = self._edited(index)[1]
        return self._instruct(change, index), change

    @property
    def fingerprint(self) -> str:
        """A hash of the config and of examples throughout: it changes with the code wherever the code's results do."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.config, self.world)).encode())
        if self.config.sizes:
            digest.update(repr(self.config.sizes).encode())
        if self.config.num_questions or self.config.edits:
            digest.update(f"{self.config.num_questions} questions, edits: {self.config.edits}".encode())
        digest.update("".join(self.config.asked).encode())
        for index in range(0, len(self), -(-len(self) // 32)):
            example = self[index]
            digest.update(example.image.tobytes() + example.text.encode())
            digest.update("".join(question + answer for question, answer in example.questions).encode())
            if example.edit:
                result = example.edit.result
                digest.update(example.edit.instruction.encode() + result.image.tobytes() + result.text.encode())
        return digest.hexdigest()[:16]

    def _frame(self, index: int) -> tuple[float, float]:
        """Width and height of an example's scene, drawn apart from what is in it."""
        sizes = self.config.sizes or ((1, 1),)
        height, width = sizes[self._rng("size", index).integers(len(sizes))]
        return width / min(height, width), height / min(height, width)

    def _example(self, scene: Scene, index: int, part: str = "") -> Example:
        captions = [self._describe(scene, index, draw, part) for draw in range(self.config.num_captions)]
        texts = tuple(text for text, _ in captions)
        metadata = {"scene": scene, "program": captions[0][1]}
        return Example(render(scene, self.config.image_size), texts, metadata, self._ask(scene, index, part))

    def _edited(self, index: int) -> tuple[Scene, edits.Change, Scene]:
        if not self.config.edits:
            raise ValueError("these examples have no edits: set edits to true in their config")
        return edits.sample_split_edit(self._rng("edit", index), self.world, self.config.split, self._frame(index))

    def _instruct(self, change: edits.Change, index: int) -> str:
        frames = edits.HELD_OUT_FRAMES if self.config.split == "template" else edits.FRAMES
        return edits.write_edit(self._rng("instruction", index), change, frames)

    def _ask(self, scene: Scene, index: int, part: str) -> tuple[tuple[str, str], ...]:
        rng = self._rng(f"{part}questions", index)
        config = self.config
        asked = questions.sample_questions(rng, scene, self.world, config.split, config.num_questions, config.asked)
        frames = questions.HELD_OUT_FRAMES if self.config.split == "template" else questions.FRAMES
        return tuple((questions.write_question(rng, question, frames), answer) for question, answer in asked)

    def _describe(self, scene: Scene, index: int, draw: int, part: str = "") -> tuple[str, Program]:
        rng = self._rng(f"{part}caption {draw}", index)
        wrappers = HELD_OUT_WRAPPERS if self.config.split == "template" else WRAPPERS
        wanted = held_out(draws_of(scene)) | ({self.config.split} & {"relation"})
        while True:
            text, program = sample_caption(rng, scene, wrappers)
            if stated_held_out(program) == wanted:
                return text, program

    def _rng(self, purpose: str, index: int) -> np.random.Generator:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        name = f"{self.config.seed} {self.config.split} {index} {purpose}"
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest())
        return np.random.Generator(np.random.Philox(key=key))
