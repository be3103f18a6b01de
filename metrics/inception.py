"""The Inception network of 2015 whose features FID is defined by. Its weights are read from a file of the user's.

The file is `pt_inception-2015-12-05-6726825d.pth`, as pytorch-fid and torch-fidelity publish it: the weights of
TensorFlow's frozen graph under torchvision's names. The last eight digits of its name begin its SHA-256, which is
checked.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision"; where the graph of 2015 differs
(what pools leave out at borders, a maximum in the last block, 1008 classes), the graph.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

FILE, SHA256 = "pt_inception-2015-12-05-6726825d.pth", "6726825d"
SIDE = 299

Kernel = int | tuple[int, int]


class _Convolution(nn.Module):
    def __init__(self, before: int, after: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Branches side by side; each is a chain of convolutions, and the last one may fork.

    Args:
        before: Channels that come in.
        branches: By name: (channels, kernel) of each convolution. `branch1x1` and the like of one convolution are
            called as the branch is, longer ones `branch_1`, `branch_2`, ...
        pool: What the last branch takes: averages that leave out the border, maxima, or maxima of every second place.
        pooled: Channels of a convolution after the pool; 0 for none.
        forks: Whether the last step of each chain is two convolutions side by side, (1, 3) and (3, 1).
    """

    def __init__(
        self,
        before: int,
        branches: dict[str, list[tuple[int, Kernel]]],
        pool: str,
        pooled: int,
        forks: bool = False,
    ) -> None:
        super().__init__()
        self.pool, self.chains = pool, list[list[list[str]]]()
        halves = pool == "halve"
        for branch, steps in branches.items():
            chain, channels = list[list[str]](), before
            for number, (after, kernel) in enumerate(steps, 1):
                name = branch if len(steps) == 1 and not forks else f"{branch}_{number}"
                last = number == len(steps)
                if forks and last and number > 1:
                    for letter, shape in (("a", (1, 3)), ("b", (3, 1))):
                        self.add_module(name + letter, _convolution(channels, after, shape))
                    chain.append([name + "a", name + "b"])
                else:
                    name = branch if len(steps) == 1 else name
                    self.add_module(name, _convolution(channels, after, kernel, stride=2 if halves and last else 1))
                    chain.append([name])
                channels = after
            self.chains.append(chain)
        if pooled:
            self.branch_pool = _convolution(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain in self.chains:
            y = x
            for names in chain:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            found.append(y)
        if self.pool == "mean":
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        else:
            pooled = F.max_pool2d(x, 3, 2) if self.pool == "halve" else F.max_pool2d(x, 3, 1, 1)
        return torch.cat([*found, self.branch_pool(pooled) if hasattr(self, "branch_pool") else pooled], 1)


def _convolution(before: int, after: int, kernel: Kernel, stride: int = 1) -> _Convolution:
    """One that keeps the size, or halves it without a border."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    return _Convolution(before, after, kernel, stride, (high // 2, wide // 2) if stride == 1 else 0)


def _five(before: int, pooled: int) -> _Mixed:
    double: list[tuple[int, Kernel]] = [(64, 1), (96, 3), (96, 3)]
    branches = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)], "branch3x3dbl": double}
    return _Mixed(before, branches, "mean", pooled)


def _six(width: int) -> _Mixed:
    across, down = (1, 7), (7, 1)
    single: list[tuple[int, Kernel]] = [(width, 1), (width, across), (192, down)]
    double: list[tuple[int, Kernel]] = [(width, 1), (width, down), (width, across), (width, down), (192, across)]
    return _Mixed(768, {"branch1x1": [(192, 1)], "branch7x7": single, "branch7x7dbl": double}, "mean", 192)


def _seven(before: int, pool: str) -> _Mixed:
    double: list[tuple[int, Kernel]] = [(448, 1), (384, 3), (384, 3)]
    branches = {"branch1x1": [(320, 1)], "branch3x3": [(384, 1), (384, 3)], "branch3x3dbl": double}
    return _Mixed(before, branches, pool, 192, forks=True)


class Inception(nn.Module):
    """Pictures to 2048 features, as metrics.extractors.Extractor has it, or to log probabilities of 1008 classes."""

    name = "inception2015"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _five(192, 32), _five(256, 64), _five(288, 64)
        self.Mixed_6a = _Mixed(288, {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}, "halve", 0)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(_six, (128, 160, 160, 192))
        double: list[tuple[int, Kernel]] = [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]
        self.Mixed_7a = _Mixed(768, {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": double}, "halve", 0)
        self.Mixed_7b, self.Mixed_7c = _seven(1280, "mean"), _seven(2048, "maximum")
        self.fc = nn.Linear(2048, 1008)
        self.eval().requires_grad_(False)

    @classmethod
    def from_file(cls, path: Path) -> "Inception":
        """Reads the published weights.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not the published one.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no Inception weights at {path}: expected the file {FILE} of pytorch-fid")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if not found.startswith(SHA256):
            raise ValueError(f"{path} is not {FILE}: its SHA-256 begins with {found[:8]}, not {SHA256}")
        network = cls()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return network

    def forward(self, pixels: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        x = (resize(pixels.float()) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))

    def log_probabilities(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Of the classes, from features; the graph of 2015 forgot the bias, and so do all who compare with it."""
        return F.linear(features, self.fc.weight).log_softmax(1)


def resize(pixels: Float[Tensor, "b 3 H W"], side: int = SIDE) -> Float[Tensor, "b 3 s s"]:
    """As TensorFlow 1 resized: between the pixels whose corners, not centres, lie around the place. No antialiasing."""
    for axis in (2, 3):
        size = pixels.shape[axis]
        places = torch.arange(side, device=pixels.device) * (size / side)
        low = places.floor().long()
        share = (places - low).view(-1, *[1] * (3 - axis))
        before, after = pixels.index_select(axis, low), pixels.index_select(axis, (low + 1).clamp(max=size - 1))
        pixels = before + (after - before) * share
    return pixels
