"""Plantain: the transformer, its id table and both tokenizers as one thing that takes prompts and gives pictures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from data.pictures import to_pixels
from model.generate import ImageRequest, draw_images
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


class Plantain:
    """A trained model, ready to draw.

    Args:
        transformer: Ids to hidden states.
        image_tokenizer: Images to codes and back.
        text_tokenizer: Text to ids and back.
        recipe: How this model is best sampled; every call may differ from it.
        grids: Grids (rows, columns) of codes that it was trained on.
        card: What is known of the training: data, config, steps, ...
    """

    def __init__(
        self,
        transformer: Transformer,
        image_tokenizer: ImageTokenizer,
        text_tokenizer: TextTokenizer,
        recipe: SamplingConfig,
        grids: Sequence[tuple[int, int]],
        card: dict[str, Any] | None = None,
    ) -> None:
        self.transformer = transformer.eval()
        self.image_tokenizer = image_tokenizer.eval()
        self.text_tokenizer = text_tokenizer
        self.vocabulary = Vocabulary(text_tokenizer.num_text, image_tokenizer.codebook_size)
        self.recipe = recipe
        self.grids = [(rows, columns) for rows, columns in grids]
        self.card = card or {}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "auto",
        dtype: Literal["fp32", "bf16"] | None = None,
        revision: str | None = None,
    ) -> "Plantain":
        """Loads a checkpoint folder, or downloads one from the Hugging Face hub. Never unpickles.

        Args:
            name: A folder's path or a hub id such as `owner/name`.
            device: `auto` takes the first of CUDA, MPS and CPU that is there.
            dtype: Of the transformer; by default bf16 on CUDA and fp32 elsewhere. The image tokenizer stays in fp32.
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
        dtype = dtype or ("bf16" if device.type == "cuda" else "fp32")
        return cls(
            transformer.to(device, DTYPES[dtype]),
            image_tokenizer.to(device),
            text_tokenizer,
            from_dict(SamplingConfig, config["recipe"]),
            [tuple(grid) for grid in config["grids"]],
            config.get("card"),
        )

    def save_pretrained(self, folder: str | Path, dtype: Literal["fp32", "bf16"] = "fp32") -> None:
        """Writes `config.json`, `model.safetensors` and `tokenizer.json`; all of them or, on any error, none.

        Args:
            folder: Their place; what is there is replaced.
            dtype: In which the transformer's weights are stored.
        """
        weights: dict[str, Tensor] = {
            f"transformer.{name}": tensor.to(DTYPES[dtype]) for name, tensor in self.transformer.state_dict().items()
        }
        weights |= {f"image_tokenizer.{name}": tensor for name, tensor in self.image_tokenizer.state_dict().items()}
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

    def generate(
        self,
        prompt: str | None | Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        size: tuple[int, int] | None = None,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generation:
        """Draws pictures of prompts.

        Picture i of a prompt under a seed is the same whatever else is drawn with it, and however many at once.

        Args:
            prompt: What to draw, or several; None draws without a condition.
            num_images: Pictures of each prompt.
            seed: Chooses among all the pictures that the model can draw.
            guidance, temperature, top_k, top_p, min_p: See SamplingConfig; what is None follows the model's recipe.
            size: (height, width) in pixels, one that the model was trained on; by default its first.
            batch_size: Pictures drawn at once; more is faster and takes more memory.
            progress: Called with (codes drawn, codes in all) as they come.

        Returns:
            The pictures in order: all of the first prompt, then all of the second, ...

        Raises:
            ValueError: A prompt is empty or too long, a size was never trained, or a setting is out of range.
        """
        started = time.perf_counter()
        settings = dict(guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        sampling = replace(self.recipe, **{name: value for name, value in settings.items() if value is not None})
        if num_images < 1 or batch_size < 1:
            raise ValueError(f"num_images is {num_images} and batch_size {batch_size}: both must be at least 1")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}, but must be a whole number from 0 to 2^63 - 1")
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        grid = self._grid(size)
        segments = [self._condition(text, grid) for text in prompts]
        requests = [ImageRequest(condition, seed, number) for condition in segments for number in range(num_images)]
        total, done = len(requests) * grid[0] * grid[1], 0
        drawn: list[np.ndarray] = []
        images: list[np.ndarray] = []
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            steps = []
            for codes in draw_images(self.transformer, self.vocabulary, batch, grid, sampling):
                steps.append(codes)
                done += len(batch)
                if progress is not None:
                    progress(done, total)
            grids = torch.stack(steps, dim=1).view(len(batch), *grid)
            images.extend(to_pixels(self.image_tokenizer.decode(grids)))
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
