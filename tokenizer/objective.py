"""Training an image tokenizer: its losses, its judgement, its checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from data.pictures import by_shape, grid, to_images, to_pixels, turn_hue
from data.sources import SourceConfig, open_source
from runtime.loop import LoopConfig
from tokenizer.image import ImageTokenizer, ImageTokenizerConfig
from tokenizer.losses import PatchDiscriminator, PerceptualDistance, hinge_loss, pixel_loss
from tokenizer.quality import codebook_use, psnr, ssim


@dataclass(frozen=True)
class ReconstructionLossConfig:
    """The weight of each term; the squared pixel error has weight one."""

    # pictures are trained on with their hues turned by up to so many degrees, which teaches colours apart from outlines
    hue_jitter: float = 0.0
    # mean absolute pixel error
    absolute_weight: float = 0.2
    # the pixel errors once more, of codes that are each decoded alone: they then hold what their own square shows,
    # where the decoder would otherwise guess half of it, such as the colour, from the codes around
    alone_weight: float = 0.0
    # distance between VGG features; needs `perceptual_weights`
    perceptual_weight: float = 0.0
    # safetensors file with the weights of the perceptual distance
    perceptual_weights: str | None = None
    # what the discriminator's opinion weighs, after balancing it against the rest by their gradients
    adversarial_weight: float = 0.0
    # the step from which that opinion counts; the discriminator learns from half of that on. Late is safe: before the
    # reconstructions are near, and on small data, it only learns to remember
    adversarial_start: int = 20_000

    def __post_init__(self) -> None:
        if not 0 <= self.hue_jitter <= 180:
            raise ValueError(f"hue_jitter is {self.hue_jitter}, but must lie between 0 and 180 degrees")
        if self.perceptual_weight and self.perceptual_weights is None:
            raise ValueError("perceptual_weight is set, but perceptual_weights names no file of VGG weights")


@dataclass(frozen=True)
class TokenizerTraining:
    """A run that trains an image tokenizer."""

    loop: LoopConfig
    data: SourceConfig
    validation: SourceConfig
    network: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    loss: ReconstructionLossConfig = field(default_factory=ReconstructionLossConfig)
    # checkpoint folder of an image tokenizer of the same `network` to go on from, instead of from random weights
    start: str | None = None
    # decoder: the encoder stands still, so that the codes, and the models that learned them, stay valid
    trained: Literal["all", "decoder"] = "all"

    def __post_init__(self) -> None:
        if self.trained == "decoder" and self.start is None:
            raise ValueError("trained is decoder, but start names no image tokenizer whose codes it could decode")

    def build(self, device: torch.device) -> "ReconstructionObjective":
        return ReconstructionObjective(self)


class Reconstructor(nn.Module):
    """The tokenizer and, where there is one, its discriminator: both learn from one backward pass.

    The discriminator judges detached reconstructions for its own loss, and a frozen view of it judges attached ones for
    the tokenizer's, so neither loss reaches the other's weights.
    """

    def __init__(self, config: TokenizerTraining) -> None:
        super().__init__()
        self.config = config.loss
        self.tokenizer = ImageTokenizer(config.network)
        if config.start is not None:
            started = ImageTokenizer.from_pretrained(Path(config.start))
            if started.config != config.network:
                raise ValueError(f"{config.start} is of another network: give `network` the values of its config.json")
            self.tokenizer.load_state_dict(started.state_dict())
        self.fixed = (self.tokenizer.encoder, self.tokenizer.quantizer) if config.trained == "decoder" else ()
        for part in self.fixed:
            part.requires_grad_(False)
        self.discriminator = PatchDiscriminator() if config.loss.adversarial_weight else None
        path = config.loss.perceptual_weights
        self.perceptual = PerceptualDistance(Path(path)) if config.loss.perceptual_weight and path else None
        self.train()

    def train(self, mode: bool = True) -> "Reconstructor":
        """As every module's, but what is fixed stays as in evaluation: codebooks may learn without gradients."""
        super().train(mode)
        for part in self.fixed:
            part.eval()
        return self

    def forward(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training and self.config.hue_jitter:
            images = turn_hue(images, (torch.rand(len(images)) * 2 - 1) * self.config.hue_jitter)
        result = self.tokenizer(images)
        reconstruction = result.images.float()
        pixel = pixel_loss(reconstruction, images, self.config.absolute_weight)
        figures = {"pixel": pixel, "quantizer": result.quantizer_loss, "psnr": psnr(reconstruction, images).mean()}
        loss = pixel
        if self.config.alone_weight:
            some = slice(None, None, 4)  # of all pictures it would double a step's time
            alone = self.tokenizer.decode_alone(result.values[some]).float()
            figures["alone"] = pixel_loss(alone, images[some], self.config.absolute_weight)
            loss = loss + self.config.alone_weight * figures["alone"]
        if self.perceptual is not None:
            figures["perceptual"] = self.perceptual(reconstruction, images)
            loss = loss + self.config.perceptual_weight * figures["perceptual"]
        if self.discriminator is not None and 2 * step >= self.config.adversarial_start:
            real, fake = self.discriminator(images), self.discriminator(reconstruction.detach())
            figures["discriminator"] = hinge_loss(real, fake)
            frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
            opinion = -torch.func.functional_call(self.discriminator, frozen, (reconstruction,)).mean()
            if self.training and step >= self.config.adversarial_start:
                loss = loss + self.config.adversarial_weight * self._balance(loss, opinion) * opinion
            loss = loss + figures["discriminator"]
        # Stacked, since FSQ's loss is a constant zero: a compiler drops such a term of a plain sum, then takes the loss
        # and its detached figure for one tensor, and the gradient is lost.
        total = torch.stack([loss, result.quantizer_loss]).sum()
        return total, {name: value.detach() for name, value in figures.items()}

    def _balance(self, loss: Tensor, opinion: Tensor) -> Tensor:
        """The factor that makes both gradients equally long at the decoder's last layer.

        Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis", equation 7.
        """
        weight = self.tokenizer.decoder.last_weight
        (ours,) = torch.autograd.grad(loss, weight, retain_graph=True)
        (theirs,) = torch.autograd.grad(opinion, weight, retain_graph=True)
        return (ours.norm() / (theirs.norm() + 1e-4)).clamp(0, 1e4).detach()


class ReconstructionObjective:
    """See runtime.loop.Objective."""

    def __init__(self, config: TokenizerTraining) -> None:
        self.config = config
        self.source, self.validation = open_source(config.data), open_source(config.validation)
        self.model = Reconstructor(config)
        height, width = self.source[0].image.shape[:2]
        self.model.tokenizer.check_size(height, width)

    def outer_parameters(self) -> list[Tensor]:
        """The first and last convolutions of encoder and decoder, and all of the discriminator."""
        tokenizer, discriminator = self.model.tokenizer, self.model.discriminator
        outer: list[Any] = list(discriminator.parameters()) if discriminator is not None else []
        for half in (tokenizer.encoder, tokenizer.decoder):
            convolutions = [module for module in half.modules() if isinstance(module, nn.Conv2d)]
            outer += [convolutions[0].weight, convolutions[-1].weight]
        return outer + list(tokenizer.quantizer.parameters())

    def dataset(self) -> "Pictures":
        return Pictures(self.source)

    def length(self, item: np.ndarray) -> int:
        return item.shape[0]

    def collate(self, items: list[np.ndarray]) -> dict[str, Tensor]:
        if len(sizes := {f"{item.shape[0]}x{item.shape[1]}" for item in items}) > 1:
            raise ValueError(
                f"a batch has pictures of {', '.join(sorted(sizes))} pixels: train an image tokenizer on one size, "
                "it then serves every multiple of its stride"
            )
        return {"images": to_images(np.stack(items))}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """PSNR, SSIM, use of the codebook and, where the source can tell, the share of pictures that say the same."""
        assert isinstance(model, Reconstructor)
        tokenizer = model.tokenizer
        device = next(tokenizer.parameters()).device
        counts = torch.zeros(tokenizer.codebook_size, dtype=torch.long)
        noise, likeness, kept = [], [], []
        for start in range(0, len(self.validation), 64):
            indices = range(start, min(start + 64, len(self.validation)))
            pixels = [self.validation[index].image for index in indices]
            decoded = [np.empty(0)] * len(pixels)
            for places in by_shape(pixels):
                images = to_images(np.stack([pixels[place] for place in places])).to(device)
                codes = tokenizer.encode(images)
                reconstruction = tokenizer.decode(codes)
                counts += torch.bincount(codes.flatten().cpu(), minlength=tokenizer.codebook_size)
                noise += psnr(reconstruction, images).tolist()
                likeness += ssim(reconstruction, images).tolist()
                for place, image in zip(places, to_pixels(reconstruction), strict=True):
                    decoded[place] = image
            if (same := getattr(self.validation, "shows", None)) is not None:
                kept += [same(index, image) for index, image in zip(indices, decoded, strict=True)]
            if not start:
                folder.mkdir(parents=True, exist_ok=True)
                pairs = [picture for pair in zip(pixels[:32], decoded[:32], strict=True) for picture in pair]
                grid(pairs, columns=8).save(folder / "originals and reconstructions.png")
        usage, perplexity = codebook_use(counts)
        figures = {
            "psnr": np.mean(noise),
            "ssim": np.mean(likeness),
            "code_usage": usage,
            "code_perplexity": perplexity,
        }
        if kept:
            figures["same_scene"] = np.mean(kept)
        return {name: float(value) for name, value in figures.items()}

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, Reconstructor)
        model.tokenizer.save_pretrained(folder)


class Pictures(torch.utils.data.Dataset[Any]):
    """The pixels of a source's examples; every epoch sees the same ones."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
        return self.source[key[1]].image
