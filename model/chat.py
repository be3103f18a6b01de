"""A conversation with a model: pictures and text in one stream that grows, turn by turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.best import Effort, draw_best
from model.cache import Memory
from model.reading import write
from model.request import ImageRequest, guides_of, insisting
from model.sampling import SamplingConfig
from model.write import TextRequest
from tasks.conversation import again, line, shown
from tokenizer.sequence import ImageSegment, Segment, TextSegment, pack

if TYPE_CHECKING:
    from PIL.Image import Image

    from model.pretrained import Picture, Pretrained


@dataclass(frozen=True, eq=False)
class Reply:
    """What the model answered: a line of text, a picture, or a picture after a text."""

    text: str | None = None
    image: "Image | None" = None


class Chat:
    """A conversation, of any length: what is read of it is no longer than those of training.

    Training tells of a picture and one edit of it (tasks.mixture). So once an edit is drawn, reading begins anew with
    its result; and with the last picture when the model's length has no room for another after all that was said.

    Args:
        plantain: Who answers.
        size: (height, width) in pixels of the first picture, unless one is shown before it; later ones are as large as
            the one before. By default the first size that the model was trained on.
        seed: Chooses among all that it could answer.
        temperature: Of its text; pictures follow the model's recipes.
        best_of, effort: Of pictures that are drawn of words alone, see model.best; edits are drawn once.
    """

    def __init__(
        self,
        plantain: "Pretrained",
        size: tuple[int, int] | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        best_of: int = 1,
        effort: Effort = "full",
    ) -> None:
        self.plantain, self.seed = plantain, seed
        self.best_of: int = best_of
        self.effort: Effort = effort
        self.sampling = SamplingConfig(temperature=temperature)
        self.grid = plantain.grids[0] if size is None else plantain.grid_of(size)
        # everything said and shown so far, and what is still read of it
        self.segments: list[Segment] = []
        self.read: list[Segment] = []
        transformer = plantain.transformer
        self._memory = Memory(transformer.new_cache(1, transformer.config.max_length))

    def say(self, text: str, images: "Sequence[Picture]" = ()) -> Reply:
        """Says something, shows pictures before it, and lets the model answer; it decides whether in text or a picture.

        Args:
            text: One line.
            images: Pictures, see `Plantain.look`.

        Raises:
            ValueError: The text is empty, or with the last picture alone too long for the model; the conversation stays
                as it was.
        """
        if not text.strip():
            raise ValueError("there is nothing said: say something")
        plantain, turn = self.plantain, len(self.segments)
        seen = [shown(plantain.look(picture)) for picture in images]
        encode = plantain.text_tokenizer.encode
        new: list[Segment] = [*seen, line(text, encode)]
        kept = self._kept(new)
        request = TextRequest([*kept, *new], self.sampling, self.seed, turn)
        (written,) = write(plantain, [request], memory=self._memory)
        if written.ids:
            new.append(TextSegment(written.ids))
        if not written.opens_image:
            self.segments, self.read = [*self.segments, *new], [*kept, *new]
            return Reply(text=written.text)

        def told(words: str) -> list[Segment]:
            return again([*kept, *seen, line(words, encode), *new[len(seen) + 1 :]])

        read = told(text)
        before = _pictures(read)
        best_of = 1 if before else self.best_of
        sampling = plantain.sampling("edit" if before else "text_to_image", best_of)
        guides = guides_of(sampling.guidance, without=before)
        guides += insisting(sampling, [told(less) for less in plantain.shortened(text, sampling)])
        wanted = ImageRequest(read, self._next_grid(before), sampling, self.seed, turn, guides)
        memory = self._memory if best_of == 1 else None  # it is of one sequence
        drawn = draw_best(plantain, [wanted], [text], best_of, self.effort, memory=memory)
        result = ImageSegment(drawn.codes[0])
        self.segments = [*self.segments, *read[len(kept) :], result]
        self.read = [result] if before else [*read, result]
        return Reply(written.text or None, drawn.images[0])

    def _kept(self, new: Sequence[Segment]) -> list[Segment]:
        """What is read before something new: as long as a picture then still fits, all that was read so far."""
        whole = [*self.read, *new]
        picture = ImageSegment(np.zeros(self._next_grid(_pictures(whole)), np.int64))
        config = self.plantain.transformer.config
        length = len(pack([*again(whole), picture], self.plantain.vocabulary, config.positions).ids)
        return self.read if length <= config.max_length else [*_pictures(self.read)[-1:]]

    def _next_grid(self, pictures: Sequence[ImageSegment]) -> tuple[int, int]:
        """(rows, columns) of a picture that comes after these."""
        rows, columns = pictures[-1].codes.shape if pictures else self.grid
        return rows, columns


def _pictures(segments: Sequence[Segment]) -> list[ImageSegment]:
    return [segment for segment in segments if isinstance(segment, ImageSegment)]
