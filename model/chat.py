"""A conversation with a model: pictures and text in one stream that grows, turn by turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.cache import Memory
from model.drawing import draw
from model.generate import ImageRequest, guides_of
from model.reading import write
from model.sampling import SamplingConfig
from model.write import TextRequest
from tasks.conversation import again, line, shown
from tokenizer.sequence import ImageSegment, Segment, TextSegment

if TYPE_CHECKING:
    from PIL.Image import Image

    from model.pretrained import Picture, Pretrained


@dataclass(frozen=True, eq=False)
class Reply:
    """What the model answered: a line of text, a picture, or a picture after a text."""

    text: str | None = None
    image: "Image | None" = None


class Chat:
    """A conversation that goes on until it fills the model's length.

    Args:
        plantain: Who answers.
        size: (height, width) in pixels of the first picture, unless one is shown before it; later ones are as large as
            the one before. By default the first size that the model was trained on.
        seed: Chooses among all that it could answer.
        temperature: Of its text; pictures follow the model's recipes.
    """

    def __init__(
        self, plantain: "Pretrained", size: tuple[int, int] | None = None, seed: int = 0, temperature: float = 0.0
    ) -> None:
        self.plantain, self.seed = plantain, seed
        self.sampling = SamplingConfig(temperature=temperature)
        self.grid = plantain.grids[0] if size is None else plantain.grid_of(size)
        # everything said and shown so far
        self.segments: list[Segment] = []
        transformer = plantain.transformer
        self._memory = Memory(transformer.new_cache(1, transformer.config.max_length))

    def say(self, text: str, images: "Sequence[Picture]" = ()) -> Reply:
        """Says something, shows pictures before it, and lets the model answer; it decides whether in text or a picture.

        Args:
            text: One line.
            images: Pictures, see `Plantain.look`.

        Raises:
            ValueError: The text is empty, or the conversation would outgrow the model's length; it stays as it was.
        """
        if not text.strip():
            raise ValueError("there is nothing said: say something")
        plantain, turn = self.plantain, len(self.segments)
        seen = [shown(plantain.look(picture)) for picture in images]
        said: list[Segment] = [*self.segments, *seen, line(text, plantain.text_tokenizer.encode)]
        request = TextRequest(said, self.sampling, self.seed, turn)
        (written,) = write(plantain, [request], memory=self._memory)
        if written.ids:
            said.append(TextSegment(written.ids))
        if not written.opens_image:
            self.segments = said
            return Reply(text=written.text)
        said = again(said)
        before = [segment for segment in said if isinstance(segment, ImageSegment)]
        rows, columns = before[-1].codes.shape if before else self.grid
        sampling = plantain.sampling(editing=bool(before))
        guides = guides_of(sampling.guidance, without=before)
        wanted = ImageRequest(said, (rows, columns), sampling, self.seed, turn, guides)
        drawn = draw(plantain, [wanted], [text], memory=self._memory)
        self.segments = [*said, ImageSegment(drawn.codes[0])]
        return Reply(written.text or None, drawn.images[0])
