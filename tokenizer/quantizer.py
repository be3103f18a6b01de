"""One interface over the quantisers of `vector-quantize-pytorch`: features -> values, codes, loss; and codes -> values.

The library's own projections stay off: the autoencoder's 1x1 convolutions on either side do that work, so a code's
value is always a plain row of a codebook, whatever the method.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class FSQConfig:
    """Finite scalar quantisation: each channel is rounded to a few levels. No state, no auxiliary loss, no collapse."""

    kind: Literal["fsq"] = "fsq"
    # levels of each channel, 3 or more; their product is the codebook's size
    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 3:
            raise ValueError(f"levels is {self.levels}; FSQ needs at least one channel, of 3 or more levels each")

    @property
    def codebook_size(self) -> int:
        return math.prod(self.levels)

    @property
    def code_dim(self) -> int:
        return len(self.levels)


@dataclass(frozen=True)
class CosineVQConfig:
    """Nearest neighbour by angle in a codebook that follows the features by exponential moving average."""

    kind: Literal["cosine_vq"] = "cosine_vq"
    # number of codes
    codebook_size: int = 1024
    # channels of a code
    code_dim: int = 8
    # share of the old codebook that each step keeps
    decay: float = 0.99
    # weight of the loss that pulls features towards their codes
    commitment_weight: float = 0.25
    # a code drawn less often than this per step (moving average) is replaced by a feature of the batch; 0: never
    dead_code_threshold: float = 0.1


@dataclass(frozen=True)
class SimVQConfig:
    """A frozen random codebook seen through one learned linear map, so that every code moves at every step."""

    kind: Literal["simvq"] = "simvq"
    # number of codes
    codebook_size: int = 1024
    # channels of a code
    code_dim: int = 8
    # weight of the loss that pulls features and codes together
    commitment_weight: float = 1.0


@dataclass(frozen=True)
class LFQConfig:
    """Lookup-free quantisation: a code is the signs of its channels; an entropy term keeps all of them in use."""

    kind: Literal["lfq"] = "lfq"
    # number of codes, a power of two
    codebook_size: int = 1024
    # weight of (entropy of one feature's codes - entropy over the batch)
    entropy_weight: float = 0.1
    # weight of the loss that pulls features towards their codes
    commitment_weight: float = 0.25

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"codebook_size is {self.codebook_size}; LFQ needs a power of two")

    @property
    def code_dim(self) -> int:
        return self.codebook_size.bit_length() - 1


QuantizerConfig = FSQConfig | CosineVQConfig | SimVQConfig | LFQConfig


class Quantized(NamedTuple):
    """The quantiser's answer."""

    values: Float[Tensor, "b d h w"]
    codes: Int[Tensor, "b h w"]
    loss: Float[Tensor, ""]


class Quantizer(nn.Module):
    """Rounds features to codes; gradients pass straight through."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.method: Any = _build(config)

    def forward(self, features: Float[Tensor, "b d h w"]) -> Quantized:
        features = features.float()  # rounding features in bf16 flips about one code in two hundred
        with torch.autocast(features.device.type, enabled=False):
            result = self.method(features)
        loss = features.new_zeros(()) if isinstance(self.config, FSQConfig) else result[2].sum()
        return Quantized(result[0], result[1].long(), loss)

    def decode(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The values of codes."""
        if isinstance(self.config, CosineVQConfig):  # the library's own look-up is wrong for grids
            return rearrange(self.method.codebook[codes], "b h w d -> b d h w")
        return self.method.indices_to_codes(codes)


def _build(config: QuantizerConfig) -> nn.Module:
    # The library takes seconds to import: only those who build a tokenizer wait for it.
    from vector_quantize_pytorch import FSQ, LFQ, SimVQ, VectorQuantize

    match config:
        case FSQConfig():
            return FSQ(list(config.levels))
        case CosineVQConfig():
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            return VectorQuantize(
                dim=config.code_dim,
                codebook_size=config.codebook_size,
                use_cosine_sim=True,
                decay=config.decay,
                commitment_weight=config.commitment_weight,
                threshold_ema_dead_code=config.dead_code_threshold,  # pyright: ignore[reportArgumentType]
                rotation_trick=False,
                accept_image_fmap=True,
                sync_codebook=distributed,  # the library's default is cached at first use, which may be too early
            )
        case SimVQConfig():
            return SimVQ(
                dim=config.code_dim,
                codebook_size=config.codebook_size,
                commitment_weight=config.commitment_weight,
                rotation_trick=False,
                channel_first=True,
            )
        case LFQConfig():
            return LFQ(
                codebook_size=config.codebook_size,
                entropy_loss_weight=config.entropy_weight,
                commitment_loss_weight=config.commitment_weight,
            )
