"""ImageTokenizer: images -> codes on a grid, and back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from runtime.checkpoint import digest, load_folder, load_weights, save_folder
from runtime.config import from_dict, to_dict
from tokenizer.autoencoder import AutoencoderConfig, Decoder, Encoder
from tokenizer.quantizer import FSQConfig, Quantizer, QuantizerConfig


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """Everything that determines an image tokenizer's weights and arithmetic."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    quantizer: QuantizerConfig = field(default_factory=FSQConfig)


class Reconstruction(NamedTuple):
    """What training looks at."""

    images: Float[Tensor, "b 3 H W"]
    values: Float[Tensor, "b d h w"]
    codes: Int[Tensor, "b h w"]
    quantizer_loss: Float[Tensor, ""]


class ImageTokenizer(nn.Module):
    """A convolutional autoencoder whose bottleneck is rounded to a finite set of codes.

    Images are RGB in [-1, 1]; codes are integers in [0, codebook_size), one for each stride x stride square of pixels.
    """

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.autoencoder, config.quantizer.code_dim)
        self.quantizer = Quantizer(config.quantizer)
        self.decoder = Decoder(config.autoencoder, config.quantizer.code_dim)

    @property
    def stride(self) -> int:
        """Pixels per code, along each axis."""
        return self.config.autoencoder.stride

    @property
    def codebook_size(self) -> int:
        return self.config.quantizer.codebook_size

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Int[Tensor, "b h w"]:
        """Codes of images, always computed in fp32: in bf16 codes near a boundary flip.

        Raises:
            ValueError: A side is no multiple of the stride.
        """
        return self.quantizer(self.features(images)).codes

    @torch.no_grad()
    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """What becomes codes when it is rounded, in fp32; raises as `encode` does."""
        self.check_size(*images.shape[-2:])
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # it would round fp32 to 10 bits
        with torch.autocast(images.device.type, enabled=False), exact:
            return self.encoder(images.float())

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of codes, clipped to [-1, 1].

        Raises:
            ValueError: A code outside the codebook.
        """
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"codes must lie in [0, {self.codebook_size}), got {int(codes.min())} to {int(codes.max())}"
            )
        return self.decoder(self.quantizer.decode(codes)).clamp(-1, 1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Reconstruction:
        """Encodes, rounds and decodes, with gradients."""
        self.check_size(*images.shape[-2:])
        quantized = self.quantizer(self.encoder(images))
        return Reconstruction(self.decoder(quantized.values), *quantized)

    def decode_alone(self, values: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images each of whose squares the decoder made of one code, as if there were none around it."""
        height, width = values.shape[-2:]
        squares = self.decoder(rearrange(values, "b d h w -> (b h w) d 1 1"))
        return rearrange(squares, "(b h w) c p q -> b c (h p) (w q)", h=height, w=width)

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless both sides, in pixels, are positive multiples of the stride."""
        if height % self.stride or width % self.stride or not height or not width:
            low, high = (max(1, height // self.stride) * self.stride, (height // self.stride + 1) * self.stride)
            raise ValueError(
                f"an image of {height} x {width} pixels has no grid of codes at stride {self.stride}: "
                f"crop or resize each side to a multiple of {self.stride}, such as {low} or {high}"
            )

    def grid_of(self, size: tuple[int, int] | None, trained: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """The grid (rows, columns) of codes of pictures of a size (height, width), one of those that a model was
        trained on; None for the first.

        Raises:
            ValueError: The size was never trained.
        """
        if size is None:
            return trained[0]
        self.check_size(*size)
        grid = (size[0] // self.stride, size[1] // self.stride)
        if grid not in trained:
            known = ", ".join(f"{rows * self.stride}x{columns * self.stride}" for rows, columns in trained)
            raise ValueError(f"size {size[0]}x{size[1]} (height x width) was never trained: this model draws {known}")
        return grid

    @cached_property
    def digest(self) -> str:
        """The name of the codes: of all that makes them of images, as it was when it was first asked for.

        The decoder's weights are no part of it. It may learn on, and codes and models of codes stay valid.
        """
        weights = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("decoder.")}
        return digest(to_dict(self.config), weights)

    def save_pretrained(self, folder: Path) -> None:
        """Writes `config.json` and `model.safetensors`."""
        save_folder(folder, {"model_type": "plantain_image_tokenizer", **to_dict(self.config)}, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> "ImageTokenizer":
        """Reads what `save_pretrained` wrote, or the image tokenizer within a model's folder.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: The folder holds something else, or a truncated file.
        """
        config, weights = load_folder(folder)
        within = "image_tokenizer" in config
        if config.pop("model_type", None) != "plantain_image_tokenizer" and not within:
            raise ValueError(f"{folder} holds no image tokenizer: give the `checkpoint` folder of a tokenizer's run")
        tokenizer = cls(from_dict(ImageTokenizerConfig, config["image_tokenizer"] if within else config))
        load_weights(tokenizer, weights, folder, "image_tokenizer." if within else "")
        return tokenizer.eval()
