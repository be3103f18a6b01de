"""Plantain: the transformer, its id table and both tokenizers as one thing that takes prompts and gives pictures."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from data.pictures import by_shape, to_images, to_pixels
from model.best import Effort, choose
from model.cache import Memory
from model.engine import Engine
from model.generate import Drawn, ImageRequest, draw_images, guides_of, jacobi_window
from model.sampling import SamplingConfig
from model.transformer import ModelConfig, Transformer
from model.write import TextRequest, log_likelihoods, write_texts
from runtime.checkpoint import load_folder, load_weights, save_folder
from runtime.config import from_dict, to_dict
from runtime.device import resolve_device
from tasks.conversation import DESCRIBE, LINE_BREAK, asking, describing, editing, inpainting, line
from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
from tokenizer.sequence import ImageSegment, Segment, TextSegment, pack
from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import IMAGE, TEXT_START, Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

    from model.chat import Chat

    Picture = str | Path | Image

MODEL_TYPE = "plantain"
TEXT_FILE = "tokenizer.json"
Decoding = Literal["sequential", "jacobi"]
MOST_WRITTEN = 256  # ids of one answer
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Generation:
    """Pictures, and everything that led to them; entry i of each list belongs to picture i."""

    images: "list[Image]"
    # grids of codes, each (rows, columns)
    codes: list[Int[np.ndarray, "_ _"]]
    # the whole sequences, prompts included
    ids: list[Int[np.ndarray, " _"]]
    prompts: list[str | None]
    # the seed, and the number of each picture under it
    seed: int
    samples: list[int]
    sampling: SamplingConfig
    # pictures that were drawn to choose these from
    num_drawn: int
    # from the call to the last pixel
    seconds: float


@dataclass(frozen=True, eq=False)
class Progress:
    """One picture of a stream, as far as it has come."""

    # which of the call's pictures, in the order in which `generate` returns them
    picture: int
    # those of the grid's codes that are final, in raster order
    codes: Int[np.ndarray, " _"]
    # what its finished rows of codes show; the rest is gray
    image: "Image"
    finished: bool


class Written(NamedTuple):
    """One turn of text, and whether the model opened an image after it."""

    # without the line break that ends it
    text: str
    # with the line break, if the model came to it
    ids: list[int]
    opens_image: bool


class Plantain:
    """A trained model, ready to draw.

    Args:
        transformer: Ids to hidden states.
        image_tokenizer: Images to codes and back.
        text_tokenizer: Text to ids and back.
        recipe: How this model is best sampled; every call may differ from it.
        grids: Grids (rows, columns) of codes that it was trained on.
        card: What is known of the training: data, config, steps, ...
        draft: What Jacobi decoding guesses from, see model.draft.
        abilities: What it has learnt, as tasks.mixture calls it; other things it is not asked for.
    """

    def __init__(
        self,
        transformer: Transformer,
        image_tokenizer: ImageTokenizer,
        text_tokenizer: TextTokenizer,
        recipe: SamplingConfig,
        grids: Sequence[tuple[int, int]],
        card: dict[str, Any] | None = None,
        draft: Int[Tensor, " size"] | None = None,
        abilities: Sequence[str] = ("text_to_image",),
    ) -> None:
        self.transformer = transformer.eval()
        self.image_tokenizer = image_tokenizer.eval()
        self.text_tokenizer = text_tokenizer
        self.vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
        self.recipe = recipe
        self.grids = [(rows, columns) for rows, columns in grids]
        self.card = card or {}
        self.draft = draft
        self.abilities = tuple(abilities)
        self._engine: Engine | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "auto",
        dtype: Literal["fp32", "bf16", "int8"] | None = None,
        revision: str | None = None,
    ) -> "Plantain":
        """Loads a checkpoint folder, or downloads one from the Hugging Face hub. Never unpickles.

        Args:
            name: A folder's path or a hub id such as `owner/name`.
            device: `auto` takes the first of CUDA, MPS and CPU that is there.
            dtype: Of the transformer; by default bf16 on CUDA and fp32 elsewhere. int8 also rounds its matrices to 8
                bits: a quarter of the memory of fp32, not sooner on every CPU. The image tokenizer stays in fp32.
            revision: Branch, tag or commit on the hub.

        Raises:
            FileNotFoundError: No such folder or hub id, or a file is missing.
            ValueError: A file is truncated, of another kind of model, or the parts do not belong together.
        """
        folder = _find(name, revision)
        config, weights = load_folder(folder, (TEXT_FILE,))
        if config.get("model_type") != MODEL_TYPE:
            raise ValueError(
                f"{folder} holds a {config.get('model_type')!r}, not a {MODEL_TYPE!r}: give a model's folder"
            )
        parts = ("transformer", "image_tokenizer", "image_tokenizer_digest", "recipe", "grids")
        if missing := [part for part in parts if part not in config]:
            raise ValueError(f"{folder}: config.json lacks {', '.join(missing)}: copy or train the checkpoint again")
        text_tokenizer = TextTokenizer.from_json((folder / TEXT_FILE).read_text())
        image_tokenizer = ImageTokenizer(from_dict(ImageTokenizerConfig, config["image_tokenizer"]))
        load_weights(image_tokenizer, weights, folder, "image_tokenizer.")
        if image_tokenizer.digest != config["image_tokenizer_digest"]:
            raise ValueError(
                f"{folder}: the image tokenizer's weights ({image_tokenizer.digest}) are not those whose codes the "
                f"model learned ({config['image_tokenizer_digest']}): copy both from one training run"
            )
        vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
        transformer = Transformer(from_dict(ModelConfig, config["transformer"]), vocabulary.size)
        load_weights(transformer, weights, folder, "transformer.")
        device = resolve_device(device)
        draft = weights.get("draft")
        default = "bf16" if device.type == "cuda" else "fp32"
        transformer.to(device, DTYPES[default if dtype in (None, "int8") else dtype])
        if dtype == "int8":
            transformer.quantize()
        return cls(
            transformer,
            image_tokenizer.to(device),
            text_tokenizer,
            from_dict(SamplingConfig, config["recipe"]),
            [tuple(grid) for grid in config["grids"]],
            config.get("card"),
            None if draft is None else draft.to(device),
            config.get("abilities", ("text_to_image",)),
        )

    def save_pretrained(self, folder: str | Path, dtype: Literal["fp32", "bf16"] = "fp32") -> None:
        """Writes `config.json`, `model.safetensors` and `tokenizer.json`; all of them or, on any error, none.

        Args:
            folder: Their place; what is there is replaced.
            dtype: In which the transformer's weights are stored.

        Raises:
            ValueError: The weights are rounded to 8 bits.
        """
        if self.transformer.head.scale is not None:
            raise ValueError("weights in int8 are for sampling: load the checkpoint in fp32 or bf16 to save it")
        weights: dict[str, Tensor] = {
            f"transformer.{name}": tensor.to(DTYPES[dtype]) for name, tensor in self.transformer.state_dict().items()
        }
        weights |= {f"image_tokenizer.{name}": tensor for name, tensor in self.image_tokenizer.state_dict().items()}
        if self.draft is not None:
            weights["draft"] = self.draft
        config = {
            "model_type": MODEL_TYPE,
            "transformer": to_dict(self.transformer.config),
            "image_tokenizer": to_dict(self.image_tokenizer.config),
            "image_tokenizer_digest": self.image_tokenizer.digest,
            "recipe": to_dict(self.recipe),
            "grids": self.grids,
            "abilities": self.abilities,
            "card": self.card,
        }
        save_folder(Path(folder), config, weights, {TEXT_FILE: self.text_tokenizer.to_json()})

    @property
    def device(self) -> torch.device:
        return self.transformer.head.weight.device

    def compile(self) -> "Plantain":
        """Lets later calls run compiled passes: several times sooner, after a minute's wait in the first of each kind.

        Kinds differ by batch size, counted in powers of two, by window and by which filters are used. Needs a C++
        compiler on a CPU.
        """
        self._engine = self._engine or Engine()
        if self.device.type == "cuda":
            decoder: torch.nn.Module = self.image_tokenizer.decoder
            decoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            decoder.compile(dynamic=True)
        else:
            self.transformer.keep_narrow()
        return self

    def generate(
        self,
        prompt: str | None | Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        negative: str | None = None,
        guidance: float | None = None,
        guidance_until: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        size: tuple[int, int] | None = None,
        best_of: int = 1,
        effort: Effort = "full",
        batch_size: int = 64,
        decoding: Decoding = "jacobi",
        window: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """Draws pictures of prompts.

        Picture i of a prompt under a seed is the same whatever else is drawn with it, however many at once, and however
        they are decoded.

        Args:
            prompt: What to draw, or several; None draws without a condition.
            num_images: Pictures of each prompt.
            seed: Chooses among all the pictures that the model can draw.
            negative: What guidance pushes the pictures away from, in place of pictures of anything.
            guidance, guidance_until, temperature, top_k, top_p, min_p: See SamplingConfig; what is None follows the
                model's recipe.
            size: (height, width) in pixels, one that the model was trained on; by default its first.
            best_of: Draws so many of each picture and keeps the one of which the model itself, if it has learnt to
                describe, finds the prompt likeliest.
            effort: `auto` draws two first, and the others only where its own descriptions of the two differ.
            batch_size: Pictures drawn at once; more is faster and takes more memory.
            decoding: `sequential` draws a code at each pass, `jacobi` as many as a window of guesses has right. The
                pictures are the same, but for logits that tie to within rounding.
            window: Codes of a picture that a pass of `jacobi` looks at; by default what suits device and batch: one,
                which is sequential, where the batch alone keeps the machine busy.
            progress: Called with (codes drawn, codes in all) as they come.

        Returns:
            The pictures in order: all of the first prompt, then all of the second, ...

        Raises:
            ValueError: A prompt is empty or too long, a size was never trained, or a setting is out of range.
        """
        sampling = self.sampling(
            guidance=guidance,
            guidance_until=guidance_until,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
        prompts = _listed(prompt)
        requests = self.requests(prompts, num_images, seed, sampling, size, negative)
        labels = [text for text in prompts for _ in range(num_images)]
        drawing = partial(self.draw, batch_size=batch_size, decoding=decoding, window=window, progress=progress)
        return drawing(requests, labels) if best_of == 1 else choose(self, drawing, requests, labels, best_of, effort)

    def edit(
        self,
        images: "Picture | Sequence[Picture]",
        instruction: str | Sequence[str],
        num_images: int = 1,
        seed: int = 0,
        image_guidance: float = 1.0,
        size: tuple[int, int] | None = None,
        batch_size: int = 64,
        decoding: Decoding = "jacobi",
        window: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **settings: float | int | None,
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
            batch_size, decoding, window, progress: As for `generate`.
            settings: guidance, guidance_until, temperature, top_k, top_p, min_p, as for `generate`.

        Raises:
            ValueError: No picture, an empty instruction, or more than the model's length holds.
        """
        self.must_know("edit")
        if not 0 <= image_guidance <= 100:
            raise ValueError(f"image_guidance is {image_guidance}, but must lie between 0 and 100")
        several = not isinstance(instruction, str)
        instructions = list(instruction) if several else [instruction]
        pictures = _pictures(images)
        if not pictures:
            raise ValueError("there is no picture to edit: give one, or several")
        if several and len(pictures) != len(instructions):
            raise ValueError(f"{len(instructions)} instructions for {len(pictures)} pictures: give as many of each")
        seen = [self.look(picture) for picture in pictures]
        sampling = self.sampling(**settings)
        requests, labels = [], []
        for codes, text in zip([[one] for one in seen] if several else [seen], instructions, strict=True):
            if not text.strip():
                raise ValueError("the instruction is empty: say what to change")
            segments = editing(codes, text, self.text_tokenizer.encode)
            guides = guides_of(sampling.guidance, between=segments[:-1], between_guidance=image_guidance)
            rows, columns = codes[-1].shape
            grid = (rows, columns) if size is None else self.grid_of(size)
            requests += [ImageRequest(segments, grid, sampling, seed, i, guides) for i in range(num_images)]
            labels += [text] * num_images
        return self.draw(requests, labels, batch_size, decoding, window, progress)

    def inpaint(
        self,
        images: "Picture | Sequence[Picture]",
        masks: "Picture | Sequence[Picture]",
        prompt: str | Sequence[str],
        num_images: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        decoding: Decoding = "jacobi",
        window: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **settings: float | int | None,
    ) -> Generation:
        """Draws parts of pictures anew. What is drawn fits what was there before, also what lies behind.

        Args:
            images: A picture or several, see `look`.
            masks: For each, where to draw: a picture of its size that is white there and black elsewhere. Every code
                of which a pixel is lighter than middle gray is drawn; the others stay as they are.
            prompt: What the whole picture is to show; one for each picture.
            num_images, seed, batch_size, decoding, window, progress, settings: As for `edit`.

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
        requests = self._filling(seen, hidden, prompts, num_images, seed, self.sampling(**settings))
        labels = [text for text in prompts for _ in range(num_images)]
        return self.draw(requests, labels, batch_size, decoding, window, progress)

    def outpaint(
        self,
        image: "Picture",
        prompt: str,
        size: tuple[int, int],
        anchor: tuple[float, float] = (0.5, 0.5),
        num_images: int = 1,
        seed: int = 0,
        batch_size: int = 64,
        decoding: Decoding = "jacobi",
        window: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **settings: float | int | None,
    ) -> Generation:
        """Draws what lies around a picture.

        Args:
            image: See `look`.
            prompt: What the whole of the larger picture is to show.
            size: (height, width) in pixels of the larger picture, one that was trained.
            anchor: Where the picture stands in it, from (0, 0), the top left, to (1, 1), the bottom right.
            num_images, seed, batch_size, decoding, window, progress, settings: As for `edit`.

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
        requests = self._filling([whole], [hidden], [prompt], num_images, seed, self.sampling(**settings))
        return self.draw(requests, [prompt] * num_images, batch_size, decoding, window, progress)

    def _filling(
        self,
        seen: Sequence[Int[np.ndarray, "_ _"]],
        hidden: Sequence[Bool[np.ndarray, "_ _"]],
        prompts: Sequence[str],
        num_images: int,
        seed: int,
        sampling: SamplingConfig,
    ) -> list[ImageRequest]:
        """Requests for pictures of which some codes are hidden and the others known."""
        requests = []
        for codes, holes, text in zip(seen, hidden, prompts, strict=True):
            if not text.strip():
                raise ValueError("the prompt is empty: say what the whole picture is to show")
            segments = inpainting(codes, holes, text, self.text_tokenizer.encode)
            guides = guides_of(sampling.guidance, without=segments[:-1])
            known, (rows, columns) = np.where(holes, -1, codes), codes.shape
            requests += [
                ImageRequest(segments, (rows, columns), sampling, seed, i, guides, known) for i in range(num_images)
            ]
        return requests

    def describe(self, images: "Picture | Sequence[Picture]", seed: int = 0, temperature: float = 0.0) -> list[str]:
        """Says what pictures show.

        Args:
            images: A picture or several, see `look`.
            seed: Chooses among all that can be said, at a temperature above 0.
            temperature: 0 says what is likeliest, word by word.
        """
        self.must_know("describe")
        pictures = _pictures(images)
        return self._answers(pictures, [DESCRIBE] * len(pictures), seed, temperature)

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
        return [written.text for written in self.write(requests)]

    def score(self, prompt: str, image: "Picture", of: Literal["prompt", "image"] = "prompt") -> float:
        """How likely the model holds a prompt to be said of a picture, or the picture to be drawn of the prompt.

        Args:
            prompt: A caption.
            image: A picture, see `look`.
            of: Whose log probability, in nats, given the other.
        """
        self.must_know("describe" if of == "prompt" else "text_to_image")
        return self.scores([prompt], [self.look(image)], of)[0]

    def chat(self, size: tuple[int, int] | None = None, seed: int = 0, temperature: float = 0.0) -> "Chat":
        """A new conversation, see model.chat."""
        from model.chat import Chat

        self.must_know("dialogue")
        return Chat(self, size, seed, temperature)

    def must_know(self, ability: str) -> None:
        """Raises ValueError unless the model has learnt an ability."""
        if ability not in self.abilities:
            raise ValueError(
                f"this model has not learnt {ability!r}, only {', '.join(self.abilities)}: take another checkpoint, or "
                f"train one whose mixture has a share of it"
            )

    def look(self, picture: "Picture") -> Int[np.ndarray, "h w"]:
        """The codes of a picture as the model reads it.

        It is turned as its EXIF says, what is transparent becomes white, gray becomes RGB. A picture of another size
        than was trained is cut around its centre and resized, with a warning.

        Args:
            picture: A path or a PIL picture.

        Raises:
            ValueError: The file is missing, damaged or no picture.
        """
        from data.images import read_to_fit

        stride = self.image_tokenizer.stride
        pixels = read_to_fit(picture, [(rows * stride, columns * stride) for rows, columns in self.grids])
        return self.image_tokenizer.encode(to_images(pixels[None]).to(self.device))[0].cpu().numpy()

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

    def draw(
        self,
        requests: Sequence[ImageRequest],
        prompts: Sequence[str | None],
        batch_size: int = 64,
        decoding: Decoding = "jacobi",
        window: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        memory: Memory | None = None,
    ) -> Generation:
        """Draws the pictures of requests: what `generate`, `edit` and `inpaint` make of their arguments.

        Args:
            requests: At least one; the result names the seed and settings of the first.
            prompts: What each was asked for, to be kept with the result.
            batch_size, decoding, window, progress: As for `generate`.
            memory: For one request alone: what has been read of its sequence before.
        """
        started = time.perf_counter()
        codes: list[np.ndarray] = []
        total = sum(rows * columns for rows, columns in (request.grid for request in requests))
        for batch in _batches(requests, batch_size):
            before, drawing = sum(grid.size for grid in codes), None
            for drawing in self._draw(batch, decoding, window, memory):
                if progress is not None:
                    progress(before + int(drawing.counts.sum()), total)
            assert drawing is not None
            for request, row in zip(batch, drawing.codes.cpu().numpy(), strict=True):
                rows, columns = request.grid
                codes.append(row[: rows * columns].reshape(rows, columns))
        return Generation(
            _to_pil(self._painted(codes, batch_size)),
            codes,
            [self._sequence(request.segments, grid) for request, grid in zip(requests, codes, strict=True)],
            list(prompts),
            requests[0].seed,
            [request.sample for request in requests],
            requests[0].sampling,
            len(requests),
            time.perf_counter() - started,
        )

    def _painted(self, codes: Sequence[Int[np.ndarray, "_ _"]], batch_size: int) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """Pictures of grids of codes; those of one size are painted together."""
        pixels: dict[int, np.ndarray] = {}
        for places in by_shape(codes):
            for start in range(0, len(places), batch_size):
                some = places[start : start + batch_size]
                grids = torch.from_numpy(np.stack([codes[place] for place in some])).to(self.device)
                pixels.update(zip(some, self._paint(grids), strict=True))
        return [pixels[place] for place in range(len(codes))]

    def write(
        self, requests: Sequence[TextRequest], batch_size: int = 64, memory: Memory | None = None
    ) -> list[Written]:
        """Writes the texts of requests: what `ask` and `describe` make; `memory` is for one alone."""
        (stop,) = self.text_tokenizer.encode(LINE_BREAK)
        written: list[Written] = []
        for start in range(0, len(requests), batch_size):
            some = requests[start : start + batch_size]
            for ids in write_texts(self.transformer, self.vocabulary, some, stop, MOST_WRITTEN, memory):
                text = [token for token in ids if token >= TEXT_START]
                said = self.text_tokenizer.decode(text).removesuffix(LINE_BREAK)
                written.append(Written(said, text, bool(ids) and ids[-1] == IMAGE))
        return written

    def descriptions(self, codes: Sequence[Int[np.ndarray, "_ _"]]) -> list[str]:
        """What `describe` says of pictures of these codes."""
        encode, sampling = self.text_tokenizer.encode, SamplingConfig(temperature=0.0)
        written = self.write([TextRequest(describing(grid, encode), sampling, 0, 0) for grid in codes])
        return [one.text for one in written]

    def scores(
        self, prompts: Sequence[str], codes: Sequence[np.ndarray], of: Literal["prompt", "image"]
    ) -> list[float]:
        """`score` of prompts and pictures of these codes, one by one."""
        encode = self.text_tokenizer.encode
        told: list[list[Segment]] = [
            [*describing(grid, encode), line(prompt, encode)]
            if of == "prompt"
            else [*self._condition(prompt, (grid.shape[0], grid.shape[1])), ImageSegment(grid)]
            for prompt, grid in zip(prompts, codes, strict=True)
        ]
        return log_likelihoods(self.transformer, self.vocabulary, told).tolist()

    def stream(
        self,
        prompt: str | None | Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        negative: str | None = None,
        guidance: float | None = None,
        guidance_until: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = 64,
        decoding: Decoding = "jacobi",
        window: int | None = None,
        preview_rows: int = 1,
    ) -> Iterator[Progress]:
        """Draws pictures of prompts and shows them while they grow; closing the iterator stops at once.

        Args:
            prompt, num_images, ..., window: As for `generate`, which draws the same pictures.
            preview_rows: Rows of codes that a picture grows by from one of its events to the next.

        Yields:
            A picture, whenever it has grown; its last event is marked as finished.

        Raises:
            ValueError: As for `generate`, before anything is drawn.
        """
        if preview_rows < 1:
            raise ValueError(f"preview_rows is {preview_rows}, but must be at least 1")
        sampling = self.sampling(
            guidance=guidance,
            guidance_until=guidance_until,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
        requests = self.requests(_listed(prompt), num_images, seed, sampling, size, negative)
        return self._stream(_batches(requests, batch_size), decoding, window, preview_rows)

    def _stream(
        self,
        batches: Iterable[list[ImageRequest]],
        decoding: Decoding,
        window: int | None,
        preview_rows: int,
    ) -> Iterator[Progress]:
        first = 0
        for batch in batches:
            shown = [0] * len(batch)
            for codes, counts in self._draw(batch, decoding, window):
                for row, count in enumerate(counts.tolist()):
                    rows, columns = batch[row].grid
                    ready = count // columns
                    if ready > shown[row] and (ready - shown[row] >= preview_rows or ready == rows):
                        shown[row] = ready
                        image = self._preview(codes[row, : ready * columns].view(ready, columns), rows)
                        final = codes[row, :count].cpu().numpy()
                        yield Progress(first + row, final, image, ready == rows)
            first += len(batch)

    def sampling(self, **settings: float | int | None) -> SamplingConfig:
        """The recipe, but for those fields of SamplingConfig that are given and not None."""
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        return replace(self.recipe, **given)

    def requests(
        self,
        prompts: Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        size: tuple[int, int] | None = None,
        negative: str | None = None,
    ) -> list[ImageRequest]:
        """What model.generate is asked for: for each prompt, one request for every picture; see `generate`."""
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}, but must be at least 1")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}, but must be a whole number from 0 to 2^63 - 1")
        grid = self.grid_of(size)
        sampling = sampling or self.recipe
        guides = guides_of(sampling.guidance, self._condition(negative, grid))
        conditions = [self._condition(text, grid) for text in prompts]
        return [
            ImageRequest(segments, grid, sampling, seed, number, guides)
            for segments in conditions
            for number in range(num_images)
        ]

    def _draw(
        self, batch: list[ImageRequest], decoding: Decoding, window: int | None, memory: Memory | None = None
    ) -> Iterator[Drawn]:
        if decoding not in get_args(Decoding):
            raise ValueError(f"decoding is {decoding!r}, but must be one of {', '.join(get_args(Decoding))}")
        if decoding == "sequential":
            window = 1
        elif window is None:
            window = jacobi_window(self.device, batch)
        return draw_images(self.transformer, self.vocabulary, batch, window, self.draft, self._engine, memory)

    def _paint(self, codes: Int[Tensor, "b h w"]) -> UInt8[np.ndarray, "b H W 3"]:
        """Pictures of codes; on CUDA in bf16, whose error a byte's own hides."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return to_pixels(self.image_tokenizer.decode(codes))

    def _preview(self, codes: Int[Tensor, "h w"], rows: int) -> "Image":
        """The first rows of a picture that will have `rows` of them, the rest gray."""
        pixels = self._paint(codes[None])[0]
        whole = np.full((rows * self.image_tokenizer.stride, *pixels.shape[1:]), 128, np.uint8)
        whole[: len(pixels)] = pixels
        return _to_pil([whole])[0]

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

    def grid_of(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """The grid (rows, columns) of pictures of a size (height, width); the first trained one for None.

        Raises:
            ValueError: The size was never trained.
        """
        if size is None:
            return self.grids[0]
        self.image_tokenizer.check_size(*size)
        stride = self.image_tokenizer.stride
        grid = (size[0] // stride, size[1] // stride)
        if grid not in self.grids:
            known = ", ".join(f"{rows * stride}x{columns * stride}" for rows, columns in self.grids)
            raise ValueError(f"size {size[0]}x{size[1]} (height x width) was never trained: this model draws {known}")
        return grid

    def _sequence(self, condition: Sequence[Segment], codes: np.ndarray) -> np.ndarray:
        return pack([*condition, ImageSegment(codes)], self.vocabulary, self.transformer.config.positions).ids


def _pictures(images: "Picture | Sequence[Picture]") -> "list[Picture]":
    return list(images) if isinstance(images, list | tuple) else [images]  # pyright: ignore[reportReturnType]


def _listed(prompt: str | None | Sequence[str | None]) -> list[str | None]:
    return [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)


def _batches(requests: Sequence[ImageRequest], batch_size: int) -> list[list[ImageRequest]]:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
    return [list(requests[start : start + batch_size]) for start in range(0, len(requests), batch_size)]


def _to_pil(images: Sequence[np.ndarray]) -> "list[Image]":
    from PIL import Image

    return [Image.fromarray(image) for image in images]


def _find(name: str | Path, revision: str | None) -> Path:
    """A folder as it is, or a hub id's local copy."""
    folder = Path(name)
    if folder.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # offline, no such repository, gated: the hub has many classes for it
        raise FileNotFoundError(f"{name} is neither a folder here nor to be had from the hub: {error}") from error
