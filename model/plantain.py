"""Plantain: what a trained model can do, in prompts and pictures: draw, edit, fill holes, describe, answer, converse.

Each ability turns its arguments into requests, which model.drawing and model.reading fulfil.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from jaxtyping import Bool, Int

from model.best import DESCRIPTION_TEMPERATURE, Effort, describe_best, draw_best
from model.drawing import DrawOptions, Generation, Progress, draw, numbers_of, stream
from model.pretrained import Drawing, Pretrained
from model.reading import description_scores, write
from model.request import ImageRequest, guides_of, insisting
from model.sampling import SamplingConfig
from model.write import TextRequest, log_likelihoods
from tasks.conversation import DESCRIBE, asking, editing, inpainting
from tokenizer.sequence import ImageSegment, Segment, TextSegment

if TYPE_CHECKING:
    from model.chat import Chat
    from model.pretrained import Picture


class Plantain(Pretrained):
    """A trained model, ready to draw; see Pretrained for how it is loaded and what it is made of."""

    def generate(
        self,
        prompt: str | None | Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        negative: str | None = None,
        size: tuple[int, int] | None = None,
        best_of: int = 1,
        effort: Effort = "full",
        first: int | Sequence[int] = 0,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[DrawOptions],
    ) -> Generation:
        """Draws pictures of prompts.

        Picture i of a prompt under a seed is the same whatever else is drawn with it, however many at once, and however
        they are decoded.

        Args:
            prompt: What to draw, or several; None draws without a condition.
            num_images: Pictures of each prompt.
            seed: Chooses among all the pictures that the model can draw.
            negative: What guidance pushes the pictures away from, in place of pictures of anything.
            size: (height, width) in pixels, one that the model was trained on; by default its first.
            best_of: Draws so many of each picture and keeps the one that the model itself, which must have learnt to
                describe, finds best: see model.best.
            effort: `auto` draws two first, and others one by one until its judgements of the best two agree.
            first: Number under the seed of each prompt's first picture; one for all prompts, or one for each. Pictures
                of one number share their noise, also those of different prompts.
            progress: Called with (codes drawn, codes in all) as they come.
            options: See model.drawing.DrawOptions: guidance, temperature, ..., batch_size, decoding, window.

        Returns:
            The pictures in order: all of the first prompt, then all of the second, ...

        Raises:
            ValueError: A prompt is empty or too long, a size was never trained, or a setting is out of range.
        """
        sampling, how = self._parted(options, best_of=best_of)
        prompts = _listed(prompt)
        requests = self.requests(prompts, num_images, seed, sampling, size, negative, first)
        labels = [text for text in prompts for _ in range(num_images)]
        return draw_best(self, requests, labels, best_of, effort, progress=progress, **how)

    def stream(
        self,
        prompt: str | None | Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        negative: str | None = None,
        size: tuple[int, int] | None = None,
        preview_rows: int = 1,
        first: int | Sequence[int] = 0,
        **options: Unpack[DrawOptions],
    ) -> Iterator[Progress]:
        """Draws pictures of prompts and shows them while they grow; closing the iterator stops at once.

        Args:
            prompt, num_images, ..., options: As for `generate`, which draws the same pictures.
            preview_rows: Rows of codes that a picture grows by from one of its events to the next.

        Yields:
            A picture, whenever it has grown; its last event is marked as finished.

        Raises:
            ValueError: As for `generate`, before anything is drawn.
        """
        sampling, how = self._parted(options)
        requests = self.requests(_listed(prompt), num_images, seed, sampling, size, negative, first)
        return stream(self, requests, preview_rows=preview_rows, **how)

    def edit(
        self,
        images: "Picture | Sequence[Picture]",
        instruction: str | Sequence[str],
        num_images: int = 1,
        seed: int = 0,
        image_guidance: float = 1.0,
        size: tuple[int, int] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[DrawOptions],
    ) -> Generation:
        """Draws what an instruction makes of pictures.

        Args:
            images: A picture, or several that the instruction is about: paths or PIL pictures, see `look`.
            instruction: What to do; or several instructions, as many as pictures, each for its own one.
            num_images: Results of each instruction.
            seed: Chooses among all the results that the model can draw.
            image_guidance: How much the pictures are insisted on, beside `guidance`, which is about the instruction;
                1 for not at all, which saves a third stream.
            size: (height, width) of the results; by default that of the last picture.
            progress, options: As for `generate`.

        Raises:
            ValueError: No picture, an empty instruction, or more than the model's length holds.
        """
        self.must_know("edit")
        if not 0 <= image_guidance <= 100:
            raise ValueError(f"image_guidance is {image_guidance}, but must lie between 0 and 100")
        several = not isinstance(instruction, str)
        instructions = list(instruction) if several else [instruction]
        given = _pictures(images)
        if not given:
            raise ValueError("there is no picture to edit: give one, or several")
        if several and len(given) != len(instructions):
            raise ValueError(f"{len(instructions)} instructions for {len(given)} pictures: give as many of each")
        seen = [self.look(picture) for picture in given]
        sampling, how = self._parted(options, "edit")
        encode = self.text_tokenizer.encode
        requests, labels = [], []
        for codes, text in zip([[one] for one in seen] if several else [seen], instructions, strict=True):
            if not text.strip():
                raise ValueError("the instruction is empty: say what to change")
            segments = editing(codes, text, encode)
            pictures = [segment for segment in segments if isinstance(segment, ImageSegment)]
            guides = guides_of(sampling.guidance, between=pictures, between_guidance=image_guidance)
            guides += insisting(sampling, [editing(codes, less, encode) for less in self.shortened(text, sampling)])
            rows, columns = codes[-1].shape
            grid = (rows, columns) if size is None else self.grid_of(size)
            requests += [ImageRequest(segments, grid, sampling, seed, i, guides) for i in range(num_images)]
            labels += [text] * num_images
        return draw(self, requests, labels, progress=progress, **how)

    def inpaint(
        self,
        images: "Picture | Sequence[Picture]",
        masks: "Picture | Sequence[Picture]",
        prompt: str | Sequence[str],
        num_images: int = 1,
        seed: int = 0,
        best_of: int = 1,
        effort: Effort = "full",
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[DrawOptions],
    ) -> Generation:
        """Draws parts of pictures anew. What is drawn fits what was there before, also what lies behind.

        Args:
            images: A picture or several, see `look`.
            masks: For each, where to draw: a picture of its size that is white there and black elsewhere. Every code
                of which a pixel is lighter than middle gray is drawn; the others stay as they are.
            prompt: What the whole picture is to show; one for each picture.
            num_images, seed, progress, options: As for `edit`.
            best_of, effort: As for `generate`.

        Raises:
            ValueError: A mask is of another size than its picture, or leaves nothing to draw.
        """
        self.must_know("inpaint")
        pictures, holes = _pictures(images), _pictures(masks)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not len(pictures) == len(holes) == len(prompts):
            raise ValueError(
                f"{len(pictures)} pictures, {len(holes)} masks and {len(prompts)} prompts: give as many of each"
            )
        seen = [self.look(picture) for picture in pictures]
        shapes = (codes.shape for codes in seen)
        hidden = [self._hidden(*each) for each in zip(pictures, holes, shapes, strict=True)]
        sampling, how = self._parted(options, "inpaint", best_of)
        requests = self.fillings(seen, hidden, prompts, num_images, seed, sampling)
        labels = [text for text in prompts for _ in range(num_images)]
        return draw_best(self, requests, labels, best_of, effort, progress=progress, **how)

    def outpaint(
        self,
        image: "Picture",
        prompt: str,
        size: tuple[int, int],
        anchor: tuple[float, float] = (0.5, 0.5),
        num_images: int = 1,
        seed: int = 0,
        best_of: int = 1,
        effort: Effort = "full",
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[DrawOptions],
    ) -> Generation:
        """Draws what lies around a picture.

        Args:
            image: See `look`.
            prompt: What the whole of the larger picture is to show.
            size: (height, width) in pixels of the larger picture, one that was trained.
            anchor: Where the picture stands in it, from (0, 0), the top left, to (1, 1), the bottom right.
            num_images, seed, progress, options: As for `edit`.
            best_of, effort: As for `generate`.

        Raises:
            ValueError: The picture is no smaller than the size, or the anchor lies outside.
        """
        self.must_know("inpaint")
        codes, (rows, columns) = self.look(image), self.grid_of(size)
        free = rows - codes.shape[0], columns - codes.shape[1]
        if min(free) < 0 or max(free) == 0:
            raise ValueError(
                f"a picture of {codes.shape[0]} x {codes.shape[1]} codes leaves nothing to draw around it in {rows} x "
                f"{columns}: give a larger size"
            )
        if not all(0 <= share <= 1 for share in anchor):
            raise ValueError(f"anchor is {anchor}, but must lie between (0, 0), the top left, and (1, 1)")
        top, left = (round(share * room) for share, room in zip(anchor, free, strict=True))
        whole, hidden = np.zeros((rows, columns), codes.dtype), np.ones((rows, columns), bool)
        inside = slice(top, top + codes.shape[0]), slice(left, left + codes.shape[1])
        whole[inside], hidden[inside] = codes, False
        sampling, how = self._parted(options, "inpaint", best_of)
        requests = self.fillings([whole], [hidden], [prompt], num_images, seed, sampling)
        return draw_best(self, requests, [prompt] * num_images, best_of, effort, progress=progress, **how)

    def fillings(
        self,
        seen: Sequence[Int[np.ndarray, "_ _"]],
        hidden: Sequence[Bool[np.ndarray, "_ _"]],
        prompts: Sequence[str],
        num_images: int,
        seed: int,
        sampling: SamplingConfig,
    ) -> list[ImageRequest]:
        """As `requests`, for pictures of which some codes are hidden and the others known."""
        encode = self.text_tokenizer.encode
        requests = []
        for codes, holes, text in zip(seen, hidden, prompts, strict=True):
            if not text.strip():
                raise ValueError("the prompt is empty: say what the whole picture is to show")
            segments = inpainting(codes, holes, text, encode)
            guides = guides_of(sampling.guidance, without=segments[:-1])
            short = self.shortened(text, sampling)
            guides += insisting(sampling, [inpainting(codes, holes, less, encode) for less in short])
            known, (rows, columns) = np.where(holes, -1, codes), codes.shape
            requests += [
                ImageRequest(segments, (rows, columns), sampling, seed, i, guides, known) for i in range(num_images)
            ]
        return requests

    def describe(
        self, images: "Picture | Sequence[Picture]", seed: int = 0, temperature: float | None = None, best_of: int = 1
    ) -> list[str]:
        """Says what pictures show.

        Args:
            images: A picture or several, see `look`.
            seed: Chooses among all that can be said, at a temperature above 0.
            temperature: 0, the default, says what is likeliest, word by word. Of several descriptions, which are to
                differ, the first always does; for the others the default is above 0.
            best_of: Describes each picture so many times and keeps the description that the model itself, which must
                have learnt to draw, finds best: see model.best.
        """
        self.must_know("describe")
        pictures = _pictures(images)
        if best_of == 1:
            return self._answers(pictures, [DESCRIBE] * len(pictures), seed, temperature or 0.0)
        temperature = DESCRIPTION_TEMPERATURE if temperature is None else temperature
        return describe_best(self, [self.look(picture) for picture in pictures], best_of, seed, temperature)

    def ask(
        self,
        images: "Picture | Sequence[Picture]",
        questions: str | Sequence[str],
        seed: int = 0,
        temperature: float = 0.0,
    ) -> list[str]:
        """Answers questions about pictures.

        Args:
            images: A picture, or one for each question, see `look`.
            questions: One or several.
            seed, temperature: As for `describe`.

        Raises:
            ValueError: A question is empty, or too long.
        """
        self.must_know("ask")
        asked = [questions] if isinstance(questions, str) else list(questions)
        pictures = _pictures(images)
        if len(pictures) == 1:
            pictures = pictures * len(asked)
        if len(pictures) != len(asked):
            raise ValueError(
                f"{len(asked)} questions about {len(pictures)} pictures: give one picture, or one for each"
            )
        if not all(question.strip() for question in asked):
            raise ValueError("the question is empty: ask something")
        return self._answers(pictures, asked, seed, temperature)

    def _answers(self, pictures: "Sequence[Picture]", asked: Sequence[str], seed: int, temperature: float) -> list[str]:
        encode, sampling = self.text_tokenizer.encode, SamplingConfig(temperature=temperature)
        requests = [
            TextRequest(asking(self.look(picture), question, encode), sampling, seed, 0)
            for picture, question in zip(pictures, asked, strict=True)
        ]
        return [written.text for written in write(self, requests)]

    def score(self, prompt: str, image: "Picture", of: Literal["prompt", "image"] = "prompt") -> float:
        """How likely the model holds a prompt to be said of a picture, or the picture to be drawn of the prompt.

        Args:
            prompt: A caption.
            image: A picture, see `look`.
            of: Whose log probability, in nats, given the other.
        """
        self.must_know("describe" if of == "prompt" else "text_to_image")
        codes = self.look(image)
        if of == "prompt":
            return description_scores(self, [prompt], [codes])[0][1]
        rows, columns = codes.shape
        told = [*self._condition(prompt, (rows, columns)), ImageSegment(codes)]
        return float(log_likelihoods(self.transformer, self.vocabulary, [told])[0][-1])

    def chat(
        self,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        best_of: int = 1,
        effort: Effort = "full",
    ) -> "Chat":
        """A new conversation, see model.chat."""
        from model.chat import Chat

        self.must_know("dialogue")
        return Chat(self, size, seed, temperature, best_of, effort)

    def _hidden(self, picture: "Picture", mask: "Picture", grid: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
        """The codes that a mask uncovers."""
        from data.images import read_to_fit, size_of

        if size_of(picture) != size_of(mask):
            raise ValueError(f"the mask is {size_of(mask)} pixels (width, height), its picture {size_of(picture)}")
        stride = self.image_tokenizer.stride
        pixels = read_to_fit(mask, [(grid[0] * stride, grid[1] * stride)])
        hidden = (pixels.max(-1) > 127).reshape(grid[0], stride, grid[1], stride).any((1, 3))
        if not hidden.any():
            raise ValueError("the mask is black, which leaves nothing to draw: make it white where to draw")
        return hidden

    def requests(
        self,
        prompts: Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        size: tuple[int, int] | None = None,
        negative: str | None = None,
        first: int | Sequence[int] = 0,
    ) -> list[ImageRequest]:
        """What is asked for: for each prompt, one request for every picture; see `generate`."""
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}, but must be at least 1")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}, but must be a whole number from 0 to 2^63 - 1")
        grid = self.grid_of(size)
        sampling = sampling or self.recipe
        away = guides_of(sampling.guidance, self._condition(negative, grid))
        requests = []
        for text, numbers in zip(prompts, numbers_of(len(prompts), num_images, first), strict=True):
            segments = self._condition(text, grid)
            short = self.shortened(text, sampling)
            guides = away + insisting(sampling, [self._condition(less, grid) for less in short])
            requests += [ImageRequest(segments, grid, sampling, seed, number, guides) for number in numbers]
        return requests

    def _parted(
        self, options: DrawOptions, ability: Drawing = "text_to_image", best_of: int = 1
    ) -> tuple[SamplingConfig, dict[str, Any]]:
        """What options say of sampling, over the recipe that fits, and the rest of them."""
        settings: dict[str, Any] = dict(options)
        how = {name: settings.pop(name) for name in ("batch_size", "decoding", "window") if name in settings}
        return self.sampling(ability, best_of, **settings), how

    def _condition(self, prompt: str | None, grid: tuple[int, int]) -> list[Segment]:
        if prompt is None:
            return []
        if not prompt.strip():
            raise ValueError("the prompt is empty: say what to draw, or give None for a picture without a condition")
        ids = self.text_tokenizer.encode(prompt)
        room = self.transformer.config.max_length - grid[0] * grid[1] - 6  # what frames the text and the picture
        if len(ids) > room:
            raise ValueError(
                f"the prompt is {len(ids)} tokens long, but only {room} fit beside the picture: shorten it"
            )
        return [TextSegment(ids)]


def _pictures(images: "Picture | Sequence[Picture]") -> "list[Picture]":
    return list(images) if isinstance(images, list | tuple) else [images]  # pyright: ignore[reportReturnType]


def _listed(prompt: str | None | Sequence[str | None]) -> list[str | None]:
    return [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
