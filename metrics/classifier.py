"""A small classifier, trained on the pictures that a model learned from: a judge of class-conditional ones, offline.

    python -m metrics.classifier --config configs/classifier/cifar10.yaml

It says how often a picture of a class is taken for one, where CLIP would say how well it fits its caption; and its
features, which know the classes, are those between which distances are taken (see metrics.extractors).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from data.example import Example
from data.pictures import to_images
from data.sources import SourceConfig, open_source
from runtime.checkpoint import digest, load_folder, load_weights, save_folder
from runtime.config import load_config
from runtime.loop import LoopConfig, train

MODEL_TYPE = "plantain_classifier"


class Classifier(nn.Module):
    """Residual convolutions over three halvings of the picture, a mean over its places, and a linear map.

    Args:
        classes: Their names.
        widths: Channels after each halving.

    Source: He et al., "Deep Residual Learning for Image Recognition", with group norms in place of batch norms, whose
    running means an average of weights would not fit.
    """

    def __init__(self, classes: tuple[str, ...], widths: tuple[int, ...] = (64, 128, 256)) -> None:
        super().__init__()
        self.classes, self.widths = classes, widths
        self.halvings, self.blocks = nn.ModuleList(), nn.ModuleList()
        before = 3
        for width in widths:
            self.halvings.append(nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False))
            self.blocks.append(_Residual(width))
            before = width
        self.head = nn.Linear(before, len(classes))

    @property
    def name(self) -> str:
        """What distances between its features are called by: its weights make them what they are."""
        found = digest({"classes": self.classes, "widths": self.widths}, self.state_dict())
        return f"classifier{self.widths[-1]}({found[:8]})"

    def features(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        x = images
        for halve, block in zip(self.halvings, self.blocks, strict=True):
            x = block(halve(x))
        return x.mean((2, 3))

    def forward(self, pixels: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b d"]:
        """Features, as metrics.extractors.Extractor has it."""
        return self.features(pixels.float() / 127.5 - 1)

    def log_probabilities(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Of the classes, from features."""
        return self.head(features).log_softmax(1)

    @torch.no_grad()
    def classify(self, pixels: UInt8[np.ndarray, "b H W 3"]) -> list[str]:
        """The likeliest class of each picture."""
        images = to_images(pixels).to(self.head.weight.device)
        return [self.classes[place] for place in self.head(self.features(images)).argmax(1).tolist()]

    def save_pretrained(self, folder: Path) -> None:
        """Writes `config.json` and `model.safetensors`; both or, on any error, none."""
        config = {"model_type": MODEL_TYPE, "classes": self.classes, "widths": self.widths}
        save_folder(folder, config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Classifier":
        """Reads what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            ValueError: The folder holds something else, or a truncated file.
        """
        config, weights = load_folder(folder)
        if config.get("model_type") != MODEL_TYPE:
            raise ValueError(f"{folder} holds no classifier: give the `checkpoint` folder of a classifier's run")
        classifier = cls(tuple(config["classes"]), tuple(config["widths"]))
        load_weights(classifier, weights, folder)
        return classifier.eval().requires_grad_(False)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.middle = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.middle(self.first(F.relu(self.norm(x))))))


def label_of(example: Example) -> str:
    """The class of an example.

    Raises:
        ValueError: It has none.
    """
    label = example.metadata.get("label")
    if label is None:
        raise ValueError(
            "these pictures have no classes: a classifier needs a label_column with names, and a caption with {label}"
        )
    return str(label)


@dataclass(frozen=True)
class ClassifierTraining:
    """A run that trains a classifier on a source whose examples have labels."""

    loop: LoopConfig
    data: SourceConfig
    validation: SourceConfig
    # channels after each halving of the picture
    widths: tuple[int, ...] = (64, 128, 256)
    # pictures are shifted by up to so many pixels, and every second one is mirrored
    shift: int = 4

    def build(self, device: torch.device) -> "ClassifierObjective":
        return ClassifierObjective(self)


class _Loss(nn.Module):
    def __init__(self, classifier: Classifier, shift: int) -> None:
        super().__init__()
        self.classifier, self.shift = classifier, shift

    def forward(
        self, images: Float[Tensor, "b 3 H W"], labels: Int[Tensor, " b"], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training:
            images = self._moved(images)
        logits = self.classifier.head(self.classifier.features(images))
        right = (logits.argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels, label_smoothing=0.1), {"accuracy": right}

    def _moved(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        height, width = images.shape[-2:]
        padded = F.pad(images, [self.shift] * 4, mode="reflect")
        tops, lefts = torch.randint(0, 2 * self.shift + 1, (2, len(images))).tolist()
        moved = torch.stack(
            [
                one[:, top : top + height, left : left + width]
                for one, top, left in zip(padded, tops, lefts, strict=True)
            ]
        )
        mirrored = (torch.rand(len(images), device=images.device) < 0.5)[:, None, None, None]
        return torch.where(mirrored, moved.flip(-1), moved)


class ClassifierObjective:
    """See runtime.loop.Objective."""

    def __init__(self, config: ClassifierTraining) -> None:
        self.config = config
        self.source, self.validation = open_source(config.data), open_source(config.validation)
        some = range(0, len(self.source), max(1, len(self.source) // 5000))
        self.classes = tuple(sorted({label_of(self.source[index]) for index in some}))
        self.model = _Loss(Classifier(self.classes, config.widths), config.shift)

    def outer_parameters(self) -> list[Tensor]:
        head = self.model.classifier.head
        return [head.weight, self.model.classifier.halvings[0].weight]  # pyright: ignore[reportReturnType]

    def dataset(self) -> "_Labelled":
        return _Labelled(self.source, self.classes)

    def length(self, item: Any) -> int:
        return 1

    def collate(self, items: list[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
        pixels, labels = zip(*items, strict=True)
        return {"images": to_images(np.stack(pixels)), "labels": torch.tensor(labels)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, _Loss)
        right = []
        for start in range(0, len(self.validation), 100):
            some = [self.validation[index] for index in range(start, min(start + 100, len(self.validation)))]
            said = model.classifier.classify(np.stack([example.image for example in some]))
            right += [label_of(example) == label for example, label in zip(some, said, strict=True)]
        return {"accuracy": float(np.mean(right))}

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, _Loss)
        model.classifier.save_pretrained(folder)


class _Labelled(torch.utils.data.Dataset[tuple[np.ndarray, int]]):
    def __init__(self, source: Any, classes: tuple[str, ...]) -> None:
        self.source, self.classes = source, classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int]:
        example = self.source[key[1]]
        return example.image, self.classes.index(label_of(example))


def main() -> None:
    """Trains a classifier, resuming where an earlier run of the same config stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, such as one of configs/classifier/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    arguments, more = parser.parse_known_args()
    try:
        print(f"wrote {train(load_config(ClassifierTraining, arguments.config, [*arguments.overrides, *more]))}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"metrics.classifier: {error}\n")


if __name__ == "__main__":
    main()
