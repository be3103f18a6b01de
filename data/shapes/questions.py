"""Questions about scenes whose answers are one word and certain, and each answer of a sort of question as frequent.

`holds` decides the answers, or the attribute of the only object that a question can mean. What is ambiguous is not
asked. A guess that has not seen the picture is then right in one of k times, where k is the number of answers.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from data.shapes.answers import ANSWER_WEIGHTS
from data.shapes.captions import SLACK
from data.shapes.checker import UNKNOWN
from data.shapes.edits import descriptions, referents
from data.shapes.frames import Frames, read, write
from data.shapes.programs import RELATIONS, Count, Half, Inventory, Kind, Program, Relation, holds
from data.shapes.scene import SIZES, WORLDS, Scene, World
from data.shapes.splits import held_out, sample_split_scene, stated_held_out

NUMBERS = ("zero", "one", "two", "three", "four")
BALANCING_SCENES = 1500  # what finding a world's weights at once can afford
BALANCING_ROUNDS = 10  # they are settled by then


@dataclass(frozen=True)
class Exists:
    """Is there an object of the kind?"""

    kind: Kind


@dataclass(frozen=True)
class HowMany:
    """How many objects are of the kind?"""

    kind: Kind


@dataclass(frozen=True)
class WhatColour:
    """Which colour has the only object of the kind?"""

    kind: Kind


@dataclass(frozen=True)
class WhatShape:
    """Which shape has the only object of the kind?"""

    kind: Kind


@dataclass(frozen=True)
class WhatSize:
    """Which size has the only object of the kind?"""

    kind: Kind


@dataclass(frozen=True)
class WhatBackground:
    """Which name has the background?"""


@dataclass(frozen=True)
class LeftOrRight:
    """In which half of the picture, left or right, is the only object of the kind?"""

    kind: Kind


@dataclass(frozen=True)
class TopOrBottom:
    """In which half of the picture, top or bottom, is the only object of the kind?"""

    kind: Kind


@dataclass(frozen=True)
class Related:
    """Is the only object of the first kind to the left of (right of, above, below) the only one of the second?"""

    first: Kind
    relation: str
    second: Kind


Question = Exists | HowMany | WhatColour | WhatShape | WhatSize | WhatBackground | LeftOrRight | TopOrBottom | Related
_ASKED = {WhatShape: "shape", WhatColour: "colour", WhatSize: "size"}  # the attribute that is asked for
_HALVES = {LeftOrRight: ("left", "right"), TopOrBottom: ("top", "bottom")}  # the answers that there are

FRAMES: Frames = {
    Exists: ("is there a {kind}?", "do you see a {kind}?"),
    HowMany: ("how many {kinds} are there?", "how many {kinds} are in the picture?"),
    WhatColour: ("what colour is the {kind}?", "what is the colour of the {kind}?"),
    WhatShape: ("what is the {kind}?", "what kind of shape is the {kind}?"),
    WhatSize: ("what size is the {kind}?", "what is the size of the {kind}?"),
    WhatBackground: ("what colour is the background?", "what is the colour of the background?"),
    LeftOrRight: ("is the {kind} on the left or on the right?", "on which side is the {kind}, left or right?"),
    TopOrBottom: ("is the {kind} at the top or at the bottom?", "where is the {kind}, top or bottom?"),
    Related: ("is the {first} {relation} the {second}?", "do you see the {first} {relation} the {second}?"),
}
# For the split `template`: words that training questions use, in an order that they do not.
HELD_OUT_FRAMES: Frames = {
    Exists: ("do you see a {kind} in the picture?",),
    HowMany: ("how many {kinds} do you see?",),
    WhatColour: ("of what colour is the {kind}?",),
    WhatShape: ("of what shape is the {kind}?",),
    WhatSize: ("of what size is the {kind}?",),
    WhatBackground: ("of what colour is the background?",),
    LeftOrRight: ("is the {kind} left or right in the picture?",),
    TopOrBottom: ("is the {kind} top or bottom in the picture?",),
    Related: ("in the picture is the {first} {relation} the {second}?",),
}
_ALL_FRAMES: Frames = {question: FRAMES[question] + HELD_OUT_FRAMES[question] for question in FRAMES}

Case = tuple[type, str]  # a sort of question and an answer to it


def write_question(rng: np.random.Generator, question: Question, frames: Frames = FRAMES) -> str:
    """A question's text, in one of the frames for it."""
    return write(rng, question, frames)


def parse_question(text: str) -> Question:
    """What a text asks.

    Raises:
        ValueError: The text is no question; names the first word that does not fit.
    """
    return read(text, _ALL_FRAMES)


def answer(text: str, scene: Scene) -> str | None:
    """The answer to a question's text, of any scene; None where the scene leaves it open.

    Raises:
        ValueError: The text is no question of the grammar.
    """
    return reply(parse_question(text), scene)


def reply(question: Question, scene: Scene, slack: float = 0.0) -> str | None:
    """The answer to a question.

    Args:
        question: What is asked.
        scene: Of what it is asked.
        slack: Further distance, in widths, by which geometry has to be clear.

    Returns:
        One word, or None where there is no certain one: the geometry is ambiguous, a kind that is to match one object
        matches none or several, or the answer is no word of the world.
    """
    match question:
        case Exists(kind):
            return "no" if holds(Count(kind, 0), scene) else "yes"
        case HowMany(kind):
            return next((word for number, word in enumerate(NUMBERS) if holds(Count(kind, number), scene)), None)
        case WhatBackground():
            return _known(scene.background)
        case Related(first, relation, second):
            if not all(holds(Count(kind, 1), scene) for kind in (first, second)):
                return None
            return {True: "yes", False: "no", None: None}[holds(Relation(first, relation, second), scene, slack)]
        case LeftOrRight(kind) | TopOrBottom(kind):
            if not holds(Count(kind, 1), scene):
                return None
            return next((half for half in _HALVES[type(question)] if holds(Half(kind, half), scene, slack)), None)
        case _:
            found = [obj for obj in scene.objects if question.kind.matches(obj)]
            return _known(getattr(found[0], _ASKED[type(question)])) if len(found) == 1 else None


def _known(word: str) -> str | None:
    return None if word == UNKNOWN else word


def stated(question: Question, said: str) -> Program:
    """What a question and its answer mention, as a caption would state it: splits hold out the same of both."""
    match question:
        case HowMany(kind):
            return (Inventory((kind,) * max(1, NUMBERS.index(said))),)
        case Related(first, relation, second):
            return (Inventory((first, second)), Relation(first, relation, second))
        case WhatBackground():
            return ()
        case _:
            return (Inventory((question.kind,)),)


def sample_questions(
    rng: np.random.Generator,
    scene: Scene,
    world: World,
    split: str = "train",
    number: int = 1,
    sorts: Sequence[str] = (),
) -> list[tuple[Question, str]]:
    """Draws questions about a scene, each with its answer and whatever the others are.

    Sorts of questions, and the answers of a sort, are equally frequent over the training scenes of the world.

    Args:
        rng: The source of all randomness.
        scene: Of what to ask.
        world: What could be asked of: "no" and "zero" are about what the world has and the scene lacks.
        split: Whose held-out combinations may be mentioned, in whatever role.
        number: How many to draw, 0 or more.
        sorts: Names of the only sorts to ask, where the scene allows one of them; by default all.
    """
    if number == 0:
        return []
    weights = _weights(world)
    cases = _cases(rng, scene, world, split)
    cases = {case: cases[case] for case in cases if case[0].__name__ in sorts} or cases
    chances = np.array([weights.get(case, 0.0) for case in cases])
    drawn = [list(cases)[i] for i in rng.choice(len(cases), size=number, p=chances / chances.sum())]
    return [(_one_of(rng, cases[case]), case[1]) for case in drawn]


def _one_of(rng: np.random.Generator, questions: list[Question]) -> Question:
    """Draws how much is said of a kind, then the kind: most absent kinds are said in full, which would tell "no"."""
    lengths = defaultdict(list)
    for question in questions:
        lengths[_said(question)].append(question)
    options = lengths[list(lengths)[rng.integers(len(lengths))]]
    return options[rng.integers(len(options))]


def _said(question: Question) -> tuple[bool, ...]:
    """Which attributes a question says."""
    kinds = [kind for kind in vars(question).values() if isinstance(kind, Kind)]
    return tuple(said is not None for kind in kinds for said in (kind.shape, kind.colour, kind.size))


def _cases(rng: np.random.Generator, scene: Scene, world: World, split: str) -> dict[Case, list[Question]]:
    """The questions that can be asked of a scene, by sort and answer; of each related pair, one wording drawn."""
    cases: dict[Case, list[Question]] = defaultdict(list)
    present = Counter(kind for obj in scene.objects for kind in descriptions(obj))
    for kind, how_many, exists in _countable(world, split):
        number = present[kind]
        if number < 2 or stated_held_out(stated(how_many, NUMBERS[number])) <= {split}:
            cases[HowMany, NUMBERS[number]].append(how_many)
        if kind != Kind():
            cases[Exists, "yes" if number else "no"].append(exists)

    names = {obj: referents(obj, scene) for obj in scene.objects}
    for obj, kinds in names.items():
        for sort, attribute in _ASKED.items():
            asking = [sort(kind) for kind in kinds if getattr(kind, attribute) is None]
            if asking:
                cases[sort, getattr(obj, attribute)] += asking
        for sort in _HALVES:  # of one object, so the answer is the same in whatever words it is asked
            if kinds and (said := reply(sort(kinds[0]), scene, SLACK)):
                cases[sort, said] += map(sort, kinds)
    cases[WhatBackground, scene.background].append(WhatBackground())
    named = [kinds for kinds in names.values() if kinds]
    for first, second in permutations(named, 2):
        for relation in RELATIONS:
            question = Related(first[rng.integers(len(first))], relation, second[rng.integers(len(second))])
            said = reply(question, scene, SLACK)
            if said and stated_held_out(stated(question, said)) <= {split}:
                cases[Related, said].append(question)
    return cases


@lru_cache
def _countable(world: World, split: str) -> tuple[tuple[Kind, HowMany, Exists], ...]:
    """All that can be said of one object without mentioning what other splits hold out, and asked of it."""
    said = product((None, *world.shapes), (None, *world.colours), (None, *SIZES))
    kinds = [Kind(*triple) for triple in said if held_out([triple]) <= {split}]
    return tuple((kind, HowMany(kind), Exists(kind)) for kind in kinds)


@lru_cache
def _weights(world: World) -> dict[Case, float]:
    """How much to prefer each case where a scene allows it: known of the named worlds, found anew of any other."""
    for name, known in ANSWER_WEIGHTS.items():
        if WORLDS[name] == world:
            sorts = {sort.__name__: sort for sort in FRAMES}
            return {(sorts[sort], said): weight for sort, row in known.items() for said, weight in row.items()}
    return balancing_weights(world)


def balancing_weights(world: World, num_scenes: int = BALANCING_SCENES) -> dict[Case, float]:
    """The preferences with which, over training scenes, all sorts and all answers of a sort come equally often.

    Scenes with four objects are rarer than scenes without a ring, so "four" has to be preferred to "zero". Each round
    multiplies every weight by what its case's frequency lacks (iterative proportional fitting).

    Args:
        world: The world whose scenes are drawn.
        num_scenes: How many are; shares err by about 10% of themselves with 1,500, and by 2% with 30,000.
    """
    rng = np.random.default_rng(0)
    scenes = (sample_split_scene(rng, world, "train") for _ in range(num_scenes))
    allowed = [_cases(rng, scene, world, "train").keys() for scene in scenes]
    cases = sorted(set().union(*allowed), key=str)
    sorts = Counter(sort for sort, _ in cases)
    wanted = np.array([1 / len(sorts) / sorts[sort] for sort, _ in cases])
    possible = np.array([[case in some for case in cases] for some in allowed], float)
    weights = wanted / possible.mean(0)
    for _ in range(BALANCING_ROUNDS):
        shares = possible * weights
        weights *= wanted / (shares / shares.sum(1, keepdims=True)).mean(0)
    return dict(zip(cases, weights.tolist(), strict=True))
