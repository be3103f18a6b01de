"""Segments become one sequence and come back; every id has the place and the weight that it should."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from tasks.text_to_image import text_to_image
from tokenizer.sequence import ImageSegment, Segment, TextSegment, pack, unpack
from tokenizer.vocabulary import (
    BEGIN,
    END,
    END_IMAGE,
    IMAGE,
    MAX_SIDE,
    PAD,
    SPECIALS,
    TEXT_START,
    Vocabulary,
    side_id,
    side_length,
)

VOCABULARY = Vocabulary(num_text=256, codebook_size=10)
START = VOCABULARY.image_start
A, B, C = TEXT_START, TEXT_START + 1, TEXT_START + 255  # ids of text
WIDE = np.arange(6).reshape(2, 3)
TALL = np.array([[9], [0], [4]])

EXAMPLES: dict[str, list[Segment]] = {
    "text to image": text_to_image([A, B, C], WIDE, text_weight=0.1),
    "unconditional": text_to_image([], WIDE),
    "caption": [ImageSegment(WIDE, 0.0), TextSegment([A, B])],
    "edit": [ImageSegment(WIDE, 0.0), TextSegment([B], 0.0), ImageSegment(TALL)],
    "interleaved": [
        TextSegment([A]),
        ImageSegment(TALL),
        TextSegment([C, C]),
        ImageSegment(WIDE),
        ImageSegment(TALL),
        TextSegment([B]),
    ],
}


def same(left: Sequence[Segment], right: Sequence[Segment]) -> bool:
    return [(type(s), np.array(s.ids if isinstance(s, TextSegment) else s.codes).tolist()) for s in left] == [
        (type(s), np.array(s.ids if isinstance(s, TextSegment) else s.codes).tolist()) for s in right
    ]


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("positions", ["grid", "line"])
@pytest.mark.parametrize("end", [True, False])
def test_pack_then_unpack_is_the_identity(name: str, positions, end: bool):
    packed = pack(EXAMPLES[name], VOCABULARY, positions, end)
    assert same(unpack(packed.ids.tolist(), VOCABULARY), EXAMPLES[name])
    padded = [*packed.ids.tolist(), PAD, PAD]
    assert same(unpack(padded, VOCABULARY), EXAMPLES[name])


def test_the_ids_of_a_captioned_picture_are_these():
    packed = pack(EXAMPLES["text to image"], VOCABULARY, "grid")
    sides = [side_id(2), side_id(3)]
    codes = [START + code for code in range(6)]
    assert packed.ids.tolist() == [BEGIN, A, B, C, IMAGE, *sides, *codes, END_IMAGE, END]


def test_weights_stand_at_the_id_that_is_predicted_and_forced_structure_has_none():
    packed = pack(EXAMPLES["text to image"], VOCABULARY, "grid")
    #                                        begin text          <image> sides   codes      </image> <end>
    np.testing.assert_allclose(packed.weights, [0.0, 0.1, 0.1, 0.1, 1.0, 0.0, 0.0, *[1.0] * 6, 0.0, 1.0])
    edit = pack(EXAMPLES["edit"], VOCABULARY, "line")
    assert edit.weights[: -(3 + 3 + 2)].sum() == 0  # nothing of what is given is learned
    np.testing.assert_allclose(edit.weights[-8:], [1, 0, 0, 1, 1, 1, 0, 1])


def test_the_end_weighs_what_the_last_segment_does():
    assert pack([TextSegment([A], 1.0), ImageSegment(WIDE, 0.25)], VOCABULARY, "grid").weights[-1] == 0.25
    assert pack([], VOCABULARY, "grid").weights.tolist() == [0, 0]


def test_only_codes_are_marked_as_image():
    packed = pack(EXAMPLES["interleaved"], VOCABULARY, "grid")
    assert packed.is_image.tolist() == [token >= START for token in packed.ids]
    assert packed.is_image.sum() == 3 + 6 + 3


@pytest.mark.parametrize("length", [0, 1, 20, 57, 58, 80])
def test_a_place_of_an_earlier_picture_is_at_the_same_distance_whatever_is_said_in_between(length: int):
    packed = pack(
        [TextSegment([A]), ImageSegment(TALL), TextSegment([B] * length), ImageSegment(TALL)], VOCABULARY, "grid"
    )
    places = packed.positions[packed.is_image].reshape(2, -1, 2)
    distances = places[1] - places[0]
    assert (distances == (64 if length < 58 else 128)).all()
    assert (np.diff(packed.positions[~packed.is_image][:, 0]) > 0).all()


def test_grid_positions_are_those_worked_out_by_hand():
    packed = pack([TextSegment([A, B]), ImageSegment(WIDE), TextSegment([C]), ImageSegment(TALL)], VOCABULARY, "grid")
    by_hand = [
        *[(0, 0), (1, 1), (2, 2)],  # <begin> and text
        *[(3, 3), (4, 4), (5, 5)],  # <image> and its sides
        *[(6, 6), (6, 7), (6, 8), (7, 6), (7, 7), (7, 8)],
        *[(9, 9), (10, 10)],  # </image> stands past the longer side; text
        *[(11, 11), (12, 12), (13, 13)],
        *[(70, 70), (71, 70), (72, 70)],  # 64 further than the first grid
        *[(73, 73), (74, 74)],
    ]
    assert packed.positions.tolist() == [list(place) for place in by_hand]


@pytest.mark.parametrize("name", EXAMPLES)
def test_line_positions_are_the_index(name: str):
    packed = pack(EXAMPLES[name], VOCABULARY, "line")
    assert packed.positions.tolist() == [[index, index] for index in range(len(packed.ids))]


def test_no_two_ids_of_a_sequence_share_a_grid_position():
    places = pack(EXAMPLES["interleaved"], VOCABULARY, "grid").positions.tolist()
    assert len({tuple(place) for place in places}) == len(places)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([TextSegment([IMAGE])], "is no text id"),
        ([TextSegment([PAD])], "is no text id"),
        ([TextSegment([TEXT_START + 256])], "is no text id"),  # unused, before the image block
        ([TextSegment([START])], "is no text id"),
        ([TextSegment([-1])], "is no text id"),
        ([ImageSegment(np.array([[10]]))], "codes must lie in [0, 10)"),
        ([ImageSegment(np.array([[0, -1]]))], "codes must lie in [0, 10)"),
        ([ImageSegment(np.zeros((1, MAX_SIDE + 1), dtype=np.int64))], "65 codes, but only 1 to 64"),
        ([ImageSegment(np.zeros((MAX_SIDE + 1, 1), dtype=np.int64))], "65 codes, but only 1 to 64"),
    ],
)
def test_what_the_vocabulary_does_not_hold_is_refused(segments: list[Segment], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        pack(segments, VOCABULARY, "grid")


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="a grid's side is 0 codes, but only 1 to 64"):
        pack([ImageSegment(np.zeros((0, 3), dtype=np.int64))], VOCABULARY, "grid")


GOOD = pack(EXAMPLES["text to image"], VOCABULARY, "grid").ids.tolist()


def test_an_image_cut_off_anywhere_is_an_error():
    first, last = GOOD.index(IMAGE), GOOD.index(END_IMAGE)
    for stop in range(first + 1, last + 1):
        with pytest.raises(ValueError, match=f"the image that begins at {first} (is cut off|does not end)"):
            unpack(GOOD[:stop], VOCABULARY)
    assert same(unpack(GOOD[: last + 1], VOCABULARY), EXAMPLES["text to image"])


@pytest.mark.parametrize(
    ("index", "token", "message"),
    [
        (7, A, "holds ids that are no image codes"),
        (7, START - 1, "holds ids that are no image codes"),
        (7, START + 10, "holds ids that are no image codes"),
        (7, END_IMAGE, "holds ids that are no image codes"),
        (5, A, "stands where a grid's side should"),
        (6, side_id(4), "does not end after its 2 x 4 codes"),
        (1, START + 2, "stands outside any image"),
        (1, END_IMAGE, "stands outside any image"),
        (1, side_id(1), "stands outside any image"),
        (1, TEXT_START + 256, "stands outside any image"),
        (1, VOCABULARY.size, "stands outside any image"),
    ],
)
def test_an_id_that_stands_where_it_can_not_is_an_error(index: int, token: int, message: str):
    ids = list(GOOD)
    ids[index] = token
    with pytest.raises(ValueError, match=re.escape(message)):
        unpack(ids, VOCABULARY)


@pytest.mark.parametrize("num_text", [256, 300, 512, 1000, 64 * 9 - TEXT_START])
def test_image_codes_are_one_aligned_block_at_the_end(num_text: int):
    vocabulary = Vocabulary(num_text, 1000)
    block, text = vocabulary.image_block, vocabulary.text_block
    assert block.start % 64 == 0 and block.stop - block.start == 1000 and block.stop == vocabulary.size
    assert text == slice(0, TEXT_START + num_text) and 0 <= block.start - text.stop < 64
    assert vocabulary.image_start == block.start


def test_sides_have_tokens_up_to_the_longest_and_no_further():
    sides = range(1, MAX_SIDE + 1)
    assert [side_length(side_id(side)) for side in sides] == list(sides)
    assert [SPECIALS[side_id(side)] for side in sides] == [f"<side {side}>" for side in sides]
    assert len(set(SPECIALS)) == len(SPECIALS) == TEXT_START
    for side in (0, -1, MAX_SIDE + 1):
        with pytest.raises(ValueError, match="can be stated"):
            side_id(side)
    for token in (END_IMAGE, TEXT_START):
        with pytest.raises(ValueError, match="states none"):
            side_length(token)


def test_specials_have_the_names_of_their_constants():
    assert [SPECIALS[token] for token in (PAD, BEGIN, END, IMAGE, END_IMAGE)] == [
        "<pad>",
        "<begin>",
        "<end>",
        "<image>",
        "</image>",
    ]
