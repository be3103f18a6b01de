"""Twin: a trained flow with its tokenizers, from a checkpoint folder to pictures of prompts."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from data.pictures import to_pixels
from diffusion.flow import FlowSampling, num_passes, solve
from diffusion.network import FlowTransformer
from model.drawing import numbers_of
from model.pretrained import DTYPES
from model.transformer import ModelConfig
from runtime.checkpoint import load_folder, load_weights, save_folder
from runtime.config import from_dict, to_dict
from runtime.device import resolve_device
from tasks.text_to_image import text_to_image
from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
from tokenizer.sequence import Packed, pack
from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import PAD, Vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_TYPE = "plantain_twin"
TEXT_FILE = "tokenizer.json"


class Space(ABC):
    """What flows, each channel with mean 0 and deviation 1, and how pictures become it and come of it.

    Args:
        tokenizer: Whose stride is the side of a place, and in whose codes pictures are written down.
        mean, deviation: Of each channel, in pictures of training.
    """

    def __init__(self, tokenizer: ImageTokenizer, mean: Float[Tensor, " c"], deviation: Float[Tensor, " c"]) -> None:
        self.tokenizer, self.mean, self.deviation = tokenizer, mean, deviation

    @classmethod
    def of(cls, tokenizer: ImageTokenizer, channels: Float[Tensor, "n c"]) -> "Space":
        """The one in which these channels have mean 0 and deviation 1."""
        return cls(tokenizer, channels.mean(0), channels.std(0).clamp_min(1e-3))

    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "n c"]:
        """Latents of images, one after another in raster order."""
        return self.standardise(self.raw(self.tokenizer, images))

    def standardise(self, channels: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Latents of channels as they are."""
        return (channels - self.mean) / self.deviation

    @staticmethod
    @abstractmethod
    def raw(tokenizer: ImageTokenizer, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "n c"]:
        """The channels of images as they are."""

    @abstractmethod
    def paint(self, latents: Float[Tensor, "n c"], grid: tuple[int, int]) -> Float[Tensor, "b 3 H W"]:
        """Images in [-1, 1] of latents of pictures of one grid (rows, columns)."""

    @abstractmethod
    def codes(self, latents: Float[Tensor, "n c"], grid: tuple[int, int]) -> Int[Tensor, "b h w"]:
        """The nearest codes of latents of pictures of one grid."""


class LatentSpace(Space):
    """The image tokenizer's features before they are rounded. They are painted by way of the nearest codes, so that
    both contenders have the same ceiling."""

    @staticmethod
    def raw(tokenizer: ImageTokenizer, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "n c"]:
        return rearrange(tokenizer.features(images), "b c h w -> (b h w) c")

    def paint(self, latents: Float[Tensor, "n c"], grid: tuple[int, int]) -> Float[Tensor, "b 3 H W"]:
        return self.tokenizer.decode(self.codes(latents, grid))

    def codes(self, latents: Float[Tensor, "n c"], grid: tuple[int, int]) -> Int[Tensor, "b h w"]:
        features = rearrange(latents * self.deviation + self.mean, "(b h w) c -> b c h w", h=grid[0], w=grid[1])
        return self.tokenizer.quantizer(features).codes


class PixelSpace(Space):
    """The pixels of each place. No image tokenizer stands between, so there is no ceiling."""

    @staticmethod
    def raw(tokenizer: ImageTokenizer, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "n c"]:
        side = tokenizer.stride
        return rearrange(images, "b c (h p) (w q) -> (b h w) (p q c)", p=side, q=side)

    def paint(self, latents: Float[Tensor, "n c"], grid: tuple[int, int]) -> Float[Tensor, "b 3 H W"]:
        shape = {"h": grid[0], "w": grid[1], "p": self.tokenizer.stride, "q": self.tokenizer.stride}
        pixels = rearrange(latents * self.deviation + self.mean, "(b h w) (p q c) -> b c (h p) (w q)", **shape)
        return pixels.clamp(-1, 1)

    def codes(self, latents: Float[Tensor, "n c"], grid: tuple[int, int]) -> Int[Tensor, "b h w"]:
        return self.tokenizer.encode(self.paint(latents, grid))


SPACES: dict[str, type[Space]] = {"latents": LatentSpace, "pixels": PixelSpace}


@dataclass(frozen=True, eq=False)
class Drawing:
    """Pictures, and what led to them; entry i of each list belongs to picture i."""

    images: "list[Image]"
    # grids of codes, each (rows, columns)
    codes: list[Int[np.ndarray, "_ _"]]
    prompts: list[str | None]
    sampling: FlowSampling
    # forward passes of a picture
    num_passes: int
    # from the call to the last pixel
    seconds: float

    @property
    def num_drawn(self) -> int:
        return len(self.images)


class Twin:
    """Draws pictures of prompts by following a flow.

    Args:
        network: Velocities of latents.
        space: Between latents and pictures.
        text_tokenizer: Text to ids.
        recipe: How this model is best sampled; every call may differ from it.
        grids: Grids (rows, columns) of latents that it was trained on.
        card: What is known of the training.
    """

    def __init__(
        self,
        network: FlowTransformer,
        space: Space,
        text_tokenizer: TextTokenizer,
        recipe: FlowSampling,
        grids: Sequence[tuple[int, int]],
        card: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.space, self.text_tokenizer = network.eval(), space, text_tokenizer
        self.vocabulary = Vocabulary(text_tokenizer.num_text, space.tokenizer.codebook_size)
        self.recipe, self.grids, self.card = recipe, [(rows, columns) for rows, columns in grids], card or {}

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        return self.space.tokenizer

    @property
    def device(self) -> torch.device:
        return self.network.head.weight.device

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "auto",
        dtype: Literal["fp32", "bf16"] | None = None,
    ) -> "Twin":
        """Reads what `save_pretrained` wrote. Never unpickles.

        Args:
            folder: Its place.
            device: Where the twin is to draw.
            dtype: Of the network; by default bf16 on CUDA and fp32 elsewhere, as the other contender's.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: The folder holds something else, or a truncated file.
        """
        folder = Path(folder)
        config, weights = load_folder(folder, (TEXT_FILE,))
        if config.get("model_type") != MODEL_TYPE:
            raise ValueError(
                f"{folder} holds a {config.get('model_type')!r}, not a {MODEL_TYPE!r}: give a twin's folder"
            )
        device = resolve_device(device)
        text = TextTokenizer.from_json((folder / TEXT_FILE).read_text())
        tokenizer = ImageTokenizer(from_dict(ImageTokenizerConfig, config["image_tokenizer"])).eval()
        load_weights(tokenizer, weights, folder, "image_tokenizer.")
        vocabulary = Vocabulary(text.num_text, tokenizer.codebook_size)
        mean, deviation = (weights[name].to(device) for name in ("mean", "deviation"))
        shape = from_dict(ModelConfig, config["transformer"])
        network = FlowTransformer(shape, vocabulary, len(mean), config["picture_share"], config["foretells"])
        load_weights(network, weights, folder, "network.")
        space = SPACES[config["space"]](tokenizer.to(device), mean, deviation)
        recipe = from_dict(FlowSampling, config["recipe"])
        network.to(device, DTYPES[dtype or ("bf16" if device.type == "cuda" else "fp32")])
        return cls(network, space, text, recipe, [tuple(grid) for grid in config["grids"]], config["card"])

    def compile(self) -> "Twin":
        """Lets later calls run compiled passes: sooner, after a minute's wait in the first."""
        cuda = self.device.type == "cuda"
        self.network.compile(mode="reduce-overhead" if cuda else None)  # one launch a pass there
        if cuda:
            self.image_tokenizer.decoder.compile(dynamic=True)
        return self

    def save_pretrained(self, folder: str | Path, dtype: Literal["fp32", "bf16"] = "fp32") -> None:
        """Writes `config.json`, `model.safetensors` and `tokenizer.json`; all of them or, on any error, none.

        Args:
            folder: Their place; what is there is replaced.
            dtype: In which the network's weights are stored.
        """
        tokenizer = self.space.tokenizer
        weights = {f"network.{name}": tensor.to(DTYPES[dtype]) for name, tensor in self.network.state_dict().items()}
        weights |= {f"image_tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
        weights |= {"mean": self.space.mean, "deviation": self.space.deviation}
        config = {
            "model_type": MODEL_TYPE,
            "transformer": to_dict(self.network.config),
            "picture_share": self.network.picture_share,
            "foretells": self.network.foretells,
            "space": next(name for name, kind in SPACES.items() if type(self.space) is kind),
            "image_tokenizer": to_dict(tokenizer.config),
            "recipe": to_dict(self.recipe),
            "grids": self.grids,
            "card": self.card,
        }
        save_folder(Path(folder), config, weights, {TEXT_FILE: self.text_tokenizer.to_json()})

    @torch.no_grad()
    def generate(
        self,
        prompt: str | None | Sequence[str | None],
        num_images: int = 1,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        batch_size: int = 64,
        first: int | Sequence[int] = 0,
        negative: str | None = None,
        **settings: Any,
    ) -> Drawing:
        """Draws pictures.

        Args:
            prompt: What to draw, or several; None for a picture without a condition.
            num_images: Of each prompt. Picture i of a prompt under a seed is the same alone or among others, to within
                rounding.
            seed: From 0 on.
            size: (height, width) in pixels, one that the model was trained on; by default its first.
            batch_size: Pictures drawn at once.
            first, negative: See model.Plantain.generate.
            settings: Fields of FlowSampling that differ from the recipe.

        Raises:
            ValueError: An argument is out of range, or a prompt too long.
        """
        started = time.perf_counter()
        sampling, grid = self._sampling(settings), self.image_tokenizer.grid_of(size, self.grids)
        if num_images < 1 or batch_size < 1 or seed < 0:
            raise ValueError(f"num_images {num_images} and batch_size {batch_size} start at 1, seed {seed} at 0")
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else prompt
        numbers = numbers_of(len(prompts), num_images, first)
        wanted = [(text, number) for text, some in zip(prompts, numbers, strict=True) for number in some]
        images, codes = [], []
        for start in range(0, len(wanted), batch_size):
            *_, latents = self.follow(wanted[start : start + batch_size], seed, grid, sampling, negative)
            images += self._paint(latents, grid)
            codes += list(self.space.codes(latents, grid).cpu().numpy())
        return Drawing(
            images,
            codes,
            [text for text, _ in wanted],
            sampling,
            num_passes(sampling),
            time.perf_counter() - started,
        )

    @torch.no_grad()
    def stream(
        self,
        prompt: str | None,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        negative: str | None = None,
        **settings: Any,
    ) -> Iterator["Image"]:
        """One picture as it is foreseen after each step; the last is what `generate` returns."""
        sampling, grid = self._sampling(settings), self.image_tokenizer.grid_of(size, self.grids)
        for latents in self.follow([(prompt, 0)], seed, grid, sampling, negative):
            yield self._paint(latents, grid)[0]

    def _sampling(self, settings: dict[str, Any]) -> FlowSampling:
        """The recipe, but for what is set otherwise."""
        if unknown := set(settings) - {field.name for field in fields(FlowSampling)}:
            raise ValueError(f"{', '.join(sorted(unknown))} is nothing that a diffusion twin knows: leave it out")
        return replace(self.recipe, **settings)

    def _paint(self, latents: Float[Tensor, "n c"], grid: tuple[int, int]) -> "list[Image]":
        """Pictures of latents; on CUDA in bf16, whose error a byte's own hides."""
        from PIL import Image

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            pixels = to_pixels(self.space.paint(latents, grid))
        return [Image.fromarray(image) for image in pixels]

    def follow(
        self,
        wanted: Sequence[tuple[str | None, int]],
        seed: int,
        grid: tuple[int, int],
        sampling: FlowSampling,
        negative: str | None = None,
    ) -> Iterator[Float[Tensor, "n c"]]:
        """The latents that each step foresees, for prompts and the number of each picture under the seed."""
        num_places, channels = grid[0] * grid[1], len(self.space.mean)
        noise = [
            torch.randn(
                num_places, channels, generator=torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
            )
            for _, number in wanted
        ]
        told = [self.sequence(prompt, grid) for prompt, _ in wanted]
        free = [self.sequence(negative, grid)] * len(told)
        alone, both = collate(told, self.device), collate(told + free, self.device)

        def velocity(x: Tensor, at: float) -> Tensor:
            times = torch.full((2 * len(wanted),), at, device=x.device)
            if not sampling.guided(at):
                return self.network(**alone, latents=x, times=times[: len(wanted)]).clone()  # a graph reuses its own
            slope, away = self.network(**both, latents=torch.cat([x, x]), times=times).chunk(2)
            return away + sampling.guidance * (slope - away)

        yield from solve(velocity, torch.cat(noise).to(self.device), sampling.num_steps, sampling.solver)

    def sequence(self, prompt: str | None, grid: tuple[int, int]) -> Packed:
        """What the network reads of a prompt and a picture to come."""
        if prompt is not None and not prompt.strip():
            raise ValueError("the prompt is empty: say what to draw, or give None for a picture without a condition")
        ids = [] if prompt is None else self.text_tokenizer.encode(prompt)
        packed = pack(text_to_image(ids, np.zeros(grid, np.int64)), self.vocabulary, self.network.config.positions)
        if len(packed.ids) > self.network.config.max_length:
            raise ValueError(f"the prompt is {len(ids)} tokens long, too long beside the picture: shorten it")
        return packed


def collate(items: Sequence[Packed], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Sequences as the network takes them, padded on the right."""
    longest = max(len(item.ids) for item in items)
    ids = torch.full((len(items), longest), PAD)
    positions = torch.zeros(len(items), longest, 2, dtype=torch.long)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = torch.from_numpy(item.ids)
        positions[row, : len(item.ids)] = torch.from_numpy(item.positions)
    places = [row * longest + np.flatnonzero(item.is_image) for row, item in enumerate(items)]
    batch = {"ids": ids, "positions": positions, "places": torch.from_numpy(np.concatenate(places))}
    return {name: tensor.to(device) for name, tensor in batch.items()}
