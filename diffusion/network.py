"""The twin's network: the autoregressive model's blocks, over the same sequence, with noisy latents in place of codes.

    ids, latents, time -> embedding | projection + place -> depth x block, modulated by time -> norm -> velocities

Text sees the text before it; places of the image see the text and one another. Only they know the time, so that the
text is read as the autoregressive model reads it.
"""

import math
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.transformer import Block, Linear, ModelConfig, Rotation, rotation
from tokenizer.vocabulary import PAD, Vocabulary

Foretold = Literal["velocity", "data"]

# sines and cosines that a time is told in
_WAVES = 128
# size of what tells a latent's place, beside the latent's own
_PLACED = 0.1
# time left to the end of a path that velocities are computed from at least, lest they explode there
_LEAST_LEFT = 0.05


class TimedBlock(Block):
    """A block whose norms and outputs are scaled and shifted."""

    def timed(
        self, x: Float[Tensor, "b t d"], turn: Rotation, mask: Bool[Tensor, "b 1 t t"], parts: tuple[Tensor, ...]
    ) -> Float[Tensor, "b t d"]:
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = parts
        mixed = self.attention(self.attention_norm(x) * (1 + scale) + shift, turn, None, None, mask)
        x = x + (1 + gate) * mixed
        return x + (1 + mlp_gate) * self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift)


class FlowTransformer(nn.Module):
    """Sequences with noisy latents -> the velocity of each latent.

    Args:
        config: The shape of the autoregressive model; the MLP here is wider, see `matched`.
        vocabulary: Its ids, of which only specials and text are embedded.
        latent_dim: Channels of a latent.
        foretells: What the head gives: the velocity, or the data that the path ends in, which says as much.
        picture_share: Of the ids of a sequence of training, those of the picture, on average.

    Source: Chen et al., "PixArt-alpha", section 2.3 (adaLN-single: one map from time, and an offset for each block).
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: Vocabulary,
        latent_dim: int,
        picture_share: float = 0.8,
        foretells: Foretold = "velocity",
    ) -> None:
        super().__init__()
        self.config, self.picture_share, self.foretells = config, picture_share, foretells
        if config.dim % 4:
            raise ValueError(f"dim {config.dim} is no multiple of 4: cosines and sines of two axes share it")
        self.mlp_dim, time_dim = matched(config, vocabulary, latent_dim, picture_share)
        inner = replace(config, mlp_dim=self.mlp_dim)
        self.embedding = nn.Embedding(vocabulary.text_block.stop, config.dim)
        self.project = Linear(latent_dim, config.dim)
        told = Linear(time_dim, 6 * config.dim)
        self.time = nn.Sequential(Linear(2 * _WAVES, time_dim), nn.SiLU(), told)
        self.offsets = nn.Parameter(torch.zeros(config.depth, 6 * config.dim))
        self.blocks = nn.ModuleList(TimedBlock(inner) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.head = Linear(config.dim, latent_dim)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and name != "offsets":
                last = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.depth) if last else 0.02)
        nn.init.normal_(self.project.weight, std=1 / math.sqrt(latent_dim) * 0.1)
        # It begins as a network that time does not change and that foretells no movement.
        nn.init.zeros_(told.weight)
        nn.init.zeros_(self.head.weight)

    def forward(
        self,
        ids: Int[Tensor, "b t"],
        positions: Int[Tensor, "b t 2"],
        places: Int[Tensor, " n"],
        latents: Float[Tensor, "n c"],
        times: Float[Tensor, " b"],
    ) -> Float[Tensor, "n c"]:
        """Velocities.

        Args:
            ids: Whole sequences of one picture each, padded on the right; those in the picture's places are ignored.
            positions: Row and column of each id.
            places: Where the pictures' places are, counted through the whole batch. A mask would have to be asked how
                many there are: the host would wait for the device, and the compiler stop.
            latents: What stands there.
            times: Of each sequence, from 0 (noise) to 1 (data).
        """
        length = ids.shape[1]
        is_image = torch.zeros(ids.numel(), dtype=torch.bool, device=ids.device)
        is_image = is_image.index_fill(0, places, True).view_as(ids)
        x = self.embedding(ids.masked_fill(is_image, PAD))
        told = self.project(latents) + _PLACED * self.placed(positions, is_image, places)
        x = x.flatten(0, 1).index_copy(0, places, told.to(x.dtype)).view_as(x)
        order = torch.arange(length, device=ids.device)
        mask = (order <= order[:, None]) | (is_image[:, None, :] & is_image[:, :, None])
        modulation = self.time(waves(times))
        turn = rotation(positions, self.config)
        for block, offset in zip(self.blocks, self.offsets, strict=True):
            assert isinstance(block, TimedBlock)
            parts = ((modulation + offset)[:, None] * is_image[..., None]).to(x.dtype)
            x = block.timed(x, turn, mask[:, None], parts.chunk(6, -1))
        found = self.head(self.norm(x).flatten(0, 1)[places]).float()
        if self.foretells == "velocity":
            return found
        left = (1 - times).clamp_min(_LEAST_LEFT)
        return (found - latents) / left[places // length, None]

    def placed(
        self, positions: Int[Tensor, "b t 2"], is_image: Bool[Tensor, "b t"], places: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """Cosines and sines of row and column, counted from the picture's corner.

        Ids that see only those before them learn their place from these; ids that see all of the picture can't.

        Source: Peebles & Xie, "Scalable Diffusion Models with Transformers", section 3.2.
        """
        corner = positions.masked_fill(~is_image[..., None], torch.iinfo(torch.long).max).amin(1, keepdim=True)
        exponents = torch.arange(self.config.dim // 4, device=positions.device) / (self.config.dim // 4)
        angles = (positions - corner).flatten(0, 1)[places, :, None].float() * self.config.rope_theta**-exponents
        return torch.cat([angles.cos(), angles.sin()], -1).flatten(1)


def waves(times: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
    """Times in [0, 1] as cosines and sines of wavelengths from 2 pi / 1000 to 20 pi."""
    rates = 1000 * torch.exp(-math.log(10_000) * torch.arange(_WAVES, device=times.device) / _WAVES)
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)


def matched(config: ModelConfig, vocabulary: Vocabulary, latent_dim: int, picture_share: float) -> tuple[int, int]:
    """Widths of the MLP and of the time's map with which the twin is as large and as costly as the other.

    What the other spends on predicting codes, at each place one row of its head for each code, goes into the MLP, which
    is asked at every id; what its tables hold beside that goes into the map of the time, which costs next to nothing.

    Raises:
        ValueError: The shape is so small that the parts don't match to within 2%.
    """
    spare = picture_share * (vocabulary.codebook_size - 2 * latent_dim)
    mlp_dim = config.mlp_dim + max(0, round(spare / (3 * config.depth) / 8)) * 8
    ours = 3 * config.dim * config.depth * (mlp_dim - config.mlp_dim) + config.dim * (
        vocabulary.text_block.stop + 2 * latent_dim + 6 * config.depth
    )
    theirs = 2 * config.dim * vocabulary.size
    time_dim = round((theirs - ours) / (2 * _WAVES + 6 * config.dim))
    if time_dim < 8:
        raise ValueError(
            f"no twin of {config} has as many parameters: its tables of {vocabulary.size} ids leave none to tell the "
            "time with; take a larger codebook or a smaller depth"
        )
    return mlp_dim, time_dim


def flops(config: ModelConfig, mlp_dim: int, length: int, num_places: int, rows_out: int) -> int:
    """Multiplications and additions of a forward pass over one sequence, each counted.

    Args:
        config: The shape.
        mlp_dim: Inner width of its MLP.
        length: Ids of the sequence.
        num_places: Of them, those of the picture.
        rows_out: What is multiplied at each of these before and after the blocks: rows of head and projection.

    Attention counts as if every place saw every other, as torch's counter does. Norms, rotations and the map of the
    time are left out.
    """
    inner, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    matrices = config.dim * (2 * inner + 2 * kv + 3 * mlp_dim)
    attention = 2 * length * inner
    return 2 * (config.depth * length * (matrices + attention) + num_places * rows_out * config.dim)
