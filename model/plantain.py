"""Plantain: the transformer, its id table and both tokenizers as one thing that takes prompts and gives pictures."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from data.pictures import to_pixels
from model.engine import Engine
from model.generate import Drawn, ImageRequest, draw_images, jacobi_window
from model.sampling import SamplingConfig
from model.transformer import ModelConfig, Transformer
from runtime.checkpoint import load_folder, load_weights, save_folder
from runtime.config import from_dict, to_dict
from runtime.device import resolve_device
from tasks.text_to_image import text_to_image
from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
from tokenizer.sequence import Segment, TextSegment, pack
from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_TYPE = "plantain"
TEXT_FILE = "tokenizer.json"
Decoding = Literal["sequential", "jacobi"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Generation:
    """Pictures, and everything that led to them; entry i of each list belongs to picture i."""

    images: "list[Image]"
    # grids of codes, each (rows, columns)
    codes: list[Int[np.ndarray, "h w"]]
    # the whole sequences, prompts included
    ids: list[Int[np.ndarray, " _"]]
    prompts: list[str | None]
    # the seed, and the number of each picture under it
    seed: int
    samples: list[int]
    sampling: SamplingConfig
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
    ) -> None:
        self.transformer = transformer.eval()
        self.image_tokenizer = image_tokenizer.eval()
        self.text_tokenizer = text_tokenizer
        self.vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
        self.recipe = recipe
        self.grids = [(rows, columns) for rows, columns in grids]
        self.card = card or {}
        self.draft = draft
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
        progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """Draws pictures of prompts.

        Picture i of a prompt under a seed is the same whatever else is drawn with it, however many at once, and however
        they are decoded.

        Args:
            prompt: What to draw, or several; None draws without a condition.
            num_images: Pictures of each prompt.
            seed: Chooses among all the pictures that the model can draw.
            guidance, guidance_until, temperature, top_k, top_p, min_p: See SamplingConfig; what is None follows the
                model's recipe.
            size: (height, width) in pixels, one that the model was trained on; by default its first.
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
        started = time.perf_counter()
        sampling = self._sampling(
            guidance=guidance,
            guidance_until=guidance_until,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
        prompts = _listed(prompt)
        requests = self.requests(prompts, num_images, seed, sampling, size)
        drawn: list[np.ndarray] = []
        images: list[np.ndarray] = []
        total = sum(rows * columns for rows, columns in (request.grid for request in requests))
        for batch in _batches(requests, batch_size):
            before = sum(grid.size for grid in drawn)
            for drawing in self._draw(batch, decoding, window):
                if progress is not None:
                    progress(before + int(drawing.counts.sum()), total)
            grids = drawing.codes.view(len(batch), *batch[0].grid)
            images.extend(self._paint(grids))
            drawn.extend(grids.cpu().numpy())
        return Generation(
            _to_pil(images),
            drawn,
            [self._sequence(request.segments, codes) for request, codes in zip(requests, drawn, strict=True)],
            [text for text in prompts for _ in range(num_images)],
            seed,
            [request.sample for request in requests],
            sampling,
            time.perf_counter() - started,
        )

    def stream(
        self,
        prompt: str | None | Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
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
        sampling = self._sampling(
            guidance=guidance,
            guidance_until=guidance_until,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
        requests = self.requests(_listed(prompt), num_images, seed, sampling, size)
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

    def _sampling(self, **settings: float | None) -> SamplingConfig:
        """The recipe, but for what a call sets."""
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        return replace(self.recipe, **given)

    def requests(
        self,
        prompts: Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        size: tuple[int, int] | None = None,
    ) -> list[ImageRequest]:
        """What model.generate is asked for: for each prompt, one request for every picture; see `generate`."""
        if num_images < 1:
            raise ValueError(f"num_images is {num_images}, but must be at least 1")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}, but must be a whole number from 0 to 2^63 - 1")
        grid = self._grid(size)
        conditions = [self._condition(text, grid) for text in prompts]
        return [
            ImageRequest(segments, grid, sampling or self.recipe, seed, number)
            for segments in conditions
            for number in range(num_images)
        ]

    def _draw(self, batch: list[ImageRequest], decoding: Decoding, window: int | None) -> Iterator[Drawn]:
        if decoding not in get_args(Decoding):
            raise ValueError(f"decoding is {decoding!r}, but must be one of {', '.join(get_args(Decoding))}")
        if decoding == "sequential":
            window = 1
        elif window is None:
            window = jacobi_window(self.device, batch)
        return draw_images(self.transformer, self.vocabulary, batch, window, self.draft, self._engine)

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

    def _grid(self, size: tuple[int, int] | None) -> tuple[int, int]:
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
        text = [token for segment in condition if isinstance(segment, TextSegment) for token in segment.ids]
        return pack(text_to_image(text, codes), self.vocabulary, self.transformer.config.positions).ids


def _listed(prompt: str | None | Sequence[str | None]) -> list[str | None]:
    return [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)


def _batches(requests: list[ImageRequest], batch_size: int) -> list[list[ImageRequest]]:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
    return [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]


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
