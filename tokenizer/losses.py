"""What a reconstruction is judged by while the image tokenizer learns; one function for each term."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "b 3 H W"]


def pixel_loss(reconstruction: Images, images: Images, absolute_weight: float) -> Float[Tensor, ""]:
    """Mean squared error plus `absolute_weight` times mean absolute error, over images in [-1, 1].

    The square alone leaves edges soft; the absolute value alone first gives up small things of another hue.
    """
    return F.mse_loss(reconstruction, images) + absolute_weight * F.l1_loss(reconstruction, images)


class PerceptualDistance(nn.Module):
    """Distance between the unit-normalised features of VGG-16, weighted per channel.

    Nothing is downloaded: `path` is a safetensors file with the keys `features.{n}.{weight,bias}` of VGG-16's ten first
    to thirteenth convolutions (n counts layers, ReLU and pooling included) and `lin{0..4}`, each (channels,).

    Args:
        path: The weights.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A tensor is missing or misshapen.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", section 3.
    """

    # convolutions of each stage of VGG-16, by their layer number; a 2x2 max-pool stands between stages
    STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    CHANNELS = (64, 128, 256, 512, 512)

    def __init__(self, path: Path) -> None:
        super().__init__()
        from safetensors.torch import load_file

        if not path.is_file():
            raise FileNotFoundError(f"no perceptual weights at {path}: put them there, or set perceptual_weight to 0")
        weights = load_file(path)
        previous = 3
        for stage, (layers, channels) in enumerate(zip(self.STAGES, self.CHANNELS, strict=True)):
            for layer in layers:
                self._take(weights, f"features.{layer}.weight", (channels, previous, 3, 3))
                self._take(weights, f"features.{layer}.bias", (channels,))
                previous = channels
            self._take(weights, f"lin{stage}", (channels,))
        self.mean = nn.Buffer(torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.std = nn.Buffer(torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def _take(self, weights: dict[str, Tensor], key: str, shape: tuple[int, ...]) -> None:
        if key not in weights or weights[key].shape != shape:
            found = tuple(weights[key].shape) if key in weights else "nothing"
            raise ValueError(f"perceptual weights: {key} should be of shape {shape}, found {found}")
        self.register_buffer(key.replace(".", "_"), weights[key].float())

    def _features(self, images: Images) -> list[Tensor]:
        x = ((images + 1) / 2 - self.mean) / self.std
        features = []
        for stage, layers in enumerate(self.STAGES):
            x = F.max_pool2d(x, 2) if stage else x
            for layer in layers:
                weight, bias = (getattr(self, f"features_{layer}_{name}") for name in ("weight", "bias"))
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            features.append(x)
        return features

    def forward(self, reconstruction: Images, images: Images) -> Float[Tensor, ""]:
        total = reconstruction.new_zeros(())
        pairs = zip(self._features(reconstruction), self._features(images), strict=True)
        for stage, (ours, theirs) in enumerate(pairs):
            squares = (F.normalize(ours, dim=1, eps=1e-10) - F.normalize(theirs, dim=1, eps=1e-10)) ** 2
            weight = getattr(self, f"lin{stage}")
            total = (
                total + reduce(squares * weight[:, None, None], "b c h w -> b", "sum").mean() / squares[0, 0].numel()
            )
        return total


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of an image, real (high) or reconstructed (low); one score for each.

    Group instead of batch normalisation, which leaks between the real and the reconstructed half of a small batch.

    Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", section 3.2.2.
    """

    def __init__(self, width: int = 32, num_layers: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(num_layers):
            channels = width * 2 ** (level + 1)
            stride = 2 if level < num_layers - 1 else 1
            layers += [nn.Conv2d(channels // 2, channels, 4, stride, 1), nn.GroupNorm(8, channels), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(width * 2**num_layers, 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Images) -> Float[Tensor, "b 1 p q"]:
        return self.layers(images)


def hinge_loss(real: Tensor, reconstructed: Tensor) -> Float[Tensor, ""]:
    """The discriminator's loss: real scores above 1, reconstructed ones below -1, cost nothing.

    Source: Lim and Ye, "Geometric GAN", section 4.
    """
    return (F.relu(1 - real).mean() + F.relu(1 + reconstructed).mean()) / 2
