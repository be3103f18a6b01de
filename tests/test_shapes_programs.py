"""One function decides whether a statement holds of a scene; it says so when it cannot."""

from dataclasses import replace

import pytest

from data.shapes.programs import CORNERS, Background, Corner, Count, Inventory, Kind, Relation, fact_verdicts, holds
from data.shapes.scene import Object, Scene

CIRCLE = Object("circle", "red", "small", 0.2, 0.5, 0.13)
SQUARE = Object("square", "blue", "large", 0.7, 0.6, 0.18)
SCENE = Scene("gray", (CIRCLE, SQUARE))

A_CIRCLE, A_SQUARE = Kind("circle"), Kind("square")


def test_an_inventory_names_every_object_and_no_other():
    assert holds(Inventory((A_CIRCLE, A_SQUARE)), SCENE)
    assert holds(Inventory((A_SQUARE, A_CIRCLE)), SCENE)
    assert holds(Inventory((Kind(colour="blue"), Kind(size="small"))), SCENE)
    assert holds(Inventory((A_CIRCLE,)), SCENE) is False
    assert holds(Inventory((A_CIRCLE, A_SQUARE, A_SQUARE)), SCENE) is False
    assert holds(Inventory((A_CIRCLE, A_CIRCLE)), SCENE) is False


def test_each_thing_of_an_inventory_has_an_object_of_its_own():
    large = replace(SQUARE, shape="circle", colour="red")
    both = Scene("gray", (CIRCLE, large))
    vague, precise = Kind("circle", "red"), Kind("circle", size="large")
    assert holds(Inventory((vague, precise)), both)  # the vague one has to take the small circle
    assert holds(Inventory((vague, precise)), replace(both, objects=(CIRCLE, CIRCLE))) is False
    assert holds(Inventory((precise, precise)), both) is False


def test_a_count_is_exact_and_leaves_the_rest_open():
    assert holds(Count(A_CIRCLE, 1), SCENE)
    assert holds(Count(Kind(), 2), SCENE)
    assert holds(Count(Kind("ring"), 0), SCENE)
    assert holds(Count(Kind(), 1), SCENE) is False


@pytest.mark.parametrize(
    ("dx", "dy", "left", "above"),
    [
        (0.3, 0.0, True, None),
        (-0.3, 0.1, False, None),
        (0.05, 0.3, None, True),
        (0.2, 0.2, None, None),
        (0.09, 0.0, None, None),
        (0.1, -0.3, None, False),
    ],
)
def test_a_relation_is_ambiguous_on_the_diagonal_and_close_to_the_axis(dx, dy, left, above):
    scene = Scene("gray", (replace(CIRCLE, x=0.5, y=0.5), replace(SQUARE, x=0.5 + dx, y=0.5 + dy)))
    assert holds(Relation(A_CIRCLE, "left", A_SQUARE), scene) is left
    assert holds(Relation(A_SQUARE, "right", A_CIRCLE), scene) is left
    assert holds(Relation(A_CIRCLE, "above", A_SQUARE), scene) is above
    assert holds(Relation(A_SQUARE, "below", A_CIRCLE), scene) is above


def test_slack_asks_for_clearer_geometry():
    scene = Scene("gray", (replace(CIRCLE, x=0.5), replace(SQUARE, x=0.62, y=0.5)))
    assert holds(Relation(A_CIRCLE, "left", A_SQUARE), scene) is True
    assert holds(Relation(A_CIRCLE, "left", A_SQUARE), scene, slack=0.05) is None


def test_an_object_is_not_related_to_itself_nor_to_what_is_not_there():
    assert holds(Relation(A_CIRCLE, "left", A_CIRCLE), SCENE) is False
    assert holds(Relation(A_CIRCLE, "left", Kind("ring")), SCENE) is False


def test_corners_have_a_clear_inside_and_a_clear_outside():
    fact = Corner(A_CIRCLE, "bottom left")
    for y, verdict in ((0.8, True), (0.58, None), (0.3, False)):
        assert holds(fact, Scene("gray", (replace(CIRCLE, y=y),))) is verdict
    assert holds(fact, Scene("gray", (replace(CIRCLE, x=0.8, y=0.8),))) is False


@pytest.mark.parametrize(("width", "height"), [(1.5, 1.0), (1.0, 1.5)])
def test_corners_are_those_of_the_picture_and_the_middle_of_a_long_side_is_in_none(width, height):
    for corner, (right, bottom) in CORNERS.items():
        for x, y, verdict in ((0.3, 0.3, True), (0.43, 0.3, None), (0.5, 0.5, False)):  # distances from the corner
            circle = replace(CIRCLE, x=width - x if right else x, y=height - y if bottom else y)
            scene = Scene("gray", (circle,), width, height)
            assert holds(Corner(A_CIRCLE, corner), scene) is verdict
            assert not any(holds(Corner(A_CIRCLE, other), scene) for other in CORNERS if other != corner)
    for x, y in ((width / 2, 0.2), (width / 2, height - 0.2), (0.2, height / 2), (width - 0.2, height / 2)):
        scene = Scene("gray", (replace(CIRCLE, x=x, y=y),), width, height)
        assert all(holds(Corner(A_CIRCLE, corner), scene) is False for corner in CORNERS)


def test_a_program_is_false_before_it_is_ambiguous_before_it_is_true():
    true, unclear, false = Background("gray"), Relation(A_CIRCLE, "above", A_SQUARE), Background("black")
    assert holds((true, true), SCENE) is True
    assert holds((true, unclear), SCENE) is None
    assert holds((false, unclear, true), SCENE) is False
    assert holds((), SCENE) is True


def test_verdicts_name_just_what_is_stated_and_what_is_wrong():
    full = Inventory((Kind("circle", "red", "small"), Kind("square", "blue", "large")))
    program = (full, Relation(A_CIRCLE, "left", A_SQUARE), Background("gray"))
    names = {"count", "shape", "colour", "size", "objects", "relation", "background"}
    assert fact_verdicts(program, SCENE) == dict.fromkeys(names, True)
    assert set(fact_verdicts((Inventory((A_CIRCLE,)),), SCENE)) == {"count", "shape", "objects"}

    swapped = replace(SCENE, objects=(replace(CIRCLE, colour="blue"), replace(SQUARE, colour="red")))
    wrong = {name for name, verdict in fact_verdicts(program, swapped).items() if not verdict}
    assert wrong == {"objects"}  # all the right colours, on the wrong objects
    ambiguous = replace(SCENE, objects=(replace(CIRCLE, x=0.65, y=0.2), SQUARE))
    assert fact_verdicts(program, ambiguous)["relation"] is False
