"""The one table of ids that text and images share: [specials | text | image codes].

Every offset of the project lives here. Image codes are one contiguous block at the end, so "only image ids are allowed
here" is a slice, and the head can compute just those rows.
"""

from dataclasses import dataclass

PAD, BEGIN, END, IMAGE, END_IMAGE = range(5)
_FIRST_SIDE = 5
# the longest side of a grid, in codes, that has a token of its own
MAX_SIDE = 64

# Names of the specials in the order of their ids. Text that happens to contain one is ordinary text.
SPECIALS = ("<pad>", "<begin>", "<end>", "<image>", "</image>", *(f"<side {n}>" for n in range(1, MAX_SIDE + 1)))
TEXT_START = len(SPECIALS)

# The image block starts at a multiple of this, for the sake of aligned memory.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Vocabulary:
    """The id table of a model.

    Args:
        num_text: Ids of text, from TEXT_START on.
        codebook_size: Codes of the image tokenizer, from `image_start` on.
    """

    num_text: int
    codebook_size: int

    @property
    def image_start(self) -> int:
        """The id of image code 0."""
        return -(-(TEXT_START + self.num_text) // _ALIGNMENT) * _ALIGNMENT

    @property
    def size(self) -> int:
        """Number of ids, among them a few unused ones before the image block."""
        return self.image_start + self.codebook_size

    @property
    def text_block(self) -> slice:
        """Ids that may stand outside images: specials and text."""
        return slice(0, TEXT_START + self.num_text)

    @property
    def image_block(self) -> slice:
        """Ids of image codes."""
        return slice(self.image_start, self.size)


def side_id(length: int) -> int:
    """The id that states a grid's side of `length` codes.

    Raises:
        ValueError: There is no token for such a side.
    """
    if not 1 <= length <= MAX_SIDE:
        raise ValueError(f"a grid's side is {length} codes, but only 1 to {MAX_SIDE} can be stated")
    return _FIRST_SIDE + length - 1


def side_length(token: int) -> int:
    """The inverse of `side_id`.

    Raises:
        ValueError: The id states no side.
    """
    if not _FIRST_SIDE <= token < TEXT_START:
        raise ValueError(f"id {token} stands where a grid's side should, but states none")
    return token - _FIRST_SIDE + 1
