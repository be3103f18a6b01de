"""The convolutional encoder and decoder around the quantiser.

Pictures are folded into patches before the first convolution: nothing runs at pixel resolution, where a convolution
costs `patch`^2 times more and, for the same time, learns less.
"""

from dataclasses import dataclass

import torch
from einops.layers.torch import Rearrange
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoencoderConfig:
    """Widths and depths. The stride, in pixels per code, is patch * 2^(number of widths - 1)."""

    # pixels per side of the patches that the first convolution sees: 1, 2, 4, ...
    patch: int = 4
    # channels at each resolution, finest first; each next one is half as fine
    widths: tuple[int, ...] = (64, 128)
    # residual blocks at each resolution, in the encoder and in the decoder
    num_blocks: int = 2
    # side of the encoder's convolutions. 3: a code also knows of its surroundings, which saves pixel errors; 1: it says
    # what its own square of `stride` pixels holds and nothing else, which a model of the codes learns much sooner
    encoder_kernel: int = 3

    def __post_init__(self) -> None:
        if self.encoder_kernel not in (1, 3):
            raise ValueError(f"encoder_kernel is {self.encoder_kernel}, but must be 1 or 3")
        if self.patch < 1 or not self.widths or any(width % 32 for width in self.widths):
            raise ValueError(
                f"patch {self.patch}, widths {self.widths}: widths must be multiples of 32, patch at least 1"
            )

    @property
    def stride(self) -> int:
        return self.patch * 2 ** (len(self.widths) - 1)


class ChannelNorm(nn.Module):
    """Divides the channels at each place by their root mean square.

    Statistics over the whole picture, as GroupNorm has them, would let every code depend on everything in it: a patch
    of plain background then has hundreds of codes.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt() * self.weight


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))))))"""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ChannelNorm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, kernel, padding=kernel // 2),
            ChannelNorm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, kernel, padding=kernel // 2),
        )
        nn.init.zeros_(self.layers[-1].weight)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.layers(x)


class Encoder(nn.Module):
    """images -> features of `code_dim` channels, one per code"""

    def __init__(self, config: AutoencoderConfig, code_dim: int) -> None:
        super().__init__()
        patch, widths, kernel = config.patch, config.widths, config.encoder_kernel
        layers: list[nn.Module] = [
            Rearrange("b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch),
            nn.Conv2d(3 * patch**2, widths[0], kernel, padding=kernel // 2),
        ]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, kernel + 1, stride=2, padding=kernel // 2))
            layers += [ResidualBlock(width, kernel) for _ in range(config.num_blocks)]
        layers += [ChannelNorm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], code_dim, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        return self.layers(images)


class Decoder(nn.Module):
    """values of codes -> images"""

    def __init__(self, config: AutoencoderConfig, code_dim: int) -> None:
        super().__init__()
        patch, widths = config.patch, config.widths
        layers: list[nn.Module] = [nn.Conv2d(code_dim, widths[-1], 3, padding=1)]
        for level in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[level]) for _ in range(config.num_blocks)]
            if level:
                layers += [nn.Conv2d(widths[level], 4 * widths[level - 1], 3, padding=1), nn.PixelShuffle(2)]
        layers += [
            ChannelNorm(widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], 3 * patch**2, 3, padding=1),
        ]
        layers.append(Rearrange("b (c p q) h w -> b c (h p) (w q)", p=patch, q=patch))
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        return self.layers(values)

    @property
    def last_weight(self) -> Tensor:
        """The last convolution's weight: adversarial terms are balanced by their gradients there."""
        return self.layers[-2].weight  # pyright: ignore[reportReturnType]
