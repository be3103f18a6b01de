"""What turns pictures into features that distances are taken between."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn


@runtime_checkable
class Extractor(Protocol):
    """Pictures to features. Distances are only comparable where the name is the same."""

    @property
    def name(self) -> str: ...

    def parameters(self) -> Iterator[Tensor]: ...

    def __call__(self, pixels: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]: ...


def open_extractor(description: str, device: str | torch.device = "cpu") -> Extractor:
    """What `random`, or `KIND=PATH` of inception, clip, dinov2 or classifier, names, on a device.

    Raises:
        FileNotFoundError, ModuleNotFoundError: What it needs is not there; the message says what is expected where.
        ValueError: There is no such kind, or the weights are others.
    """
    kind, _, path = description.partition("=")
    if kind == "random" and not path:
        return RandomConvolutions().to(device)
    if kind not in ("inception", "clip", "dinov2", "classifier") or not path:
        raise ValueError(
            f"{description!r} is no extractor: random, or inception, clip, dinov2 or classifier with =PATH"
        )
    if kind == "inception":
        from metrics.inception import Inception

        return Inception.from_file(Path(path)).to(device)
    if kind == "classifier":
        from metrics.classifier import Classifier

        return Classifier.from_pretrained(Path(path)).to(device)
    from metrics.pretrained import Clip, Dinov2

    return (Clip if kind == "clip" else Dinov2)(Path(path), device)


class RandomConvolutions(nn.Module):
    """Means and spreads of the channels of an untrained network, the same in every place for one seed.

    It knows nothing of objects, but is at hand everywhere, has seen no data set, and sees blur, noise and colours that
    are missing (tests/test_distances.py).

    Source: Naeem et al., "Reliable Fidelity and Diversity Metrics", section 4, which recommends untrained embeddings
    where pictures are unlike photographs.
    """

    def __init__(self, seed: int = 0, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.stages = nn.ModuleList()
        before = 3
        for width in widths:
            stage = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            nn.init.orthogonal_(stage.weight, gain=2**0.5, generator=generator)
            self.stages.append(stage)
            before = width
        self.name = f"rand{2 * sum(widths)}(seed{seed})"
        self.requires_grad_(False)

    def forward(self, pixels: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        x = pixels.float() / 127.5 - 1
        features = []
        for stage in self.stages:
            x = F.leaky_relu(stage(x), 0.2)
            features += [x.mean((2, 3)), x.std((2, 3))]
        return torch.cat(features, 1)


def features_of(extractor: Extractor, pixels: np.ndarray, batch_size: int = 100) -> Float[Tensor, "n d"]:
    """Features (n, d) of pictures.

    Raises:
        ValueError: The pictures are no bytes of three colours.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(
            f"pictures are {pixels.dtype} of shape {pixels.shape}, but have to be uint8 (n, height, width, 3): convert "
            "what is in [-1, 1] with data.pictures.to_pixels"
        )
    device = next((weight.device for weight in extractor.parameters()), "cpu")
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        return torch.cat([extractor(part.to(device)).float().cpu() for part in channels_first.split(batch_size)])
