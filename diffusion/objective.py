"""Training the twin: foretell the velocity of noisy latents, in the loop that trains the autoregressive model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.codes import Encoded, encode_source
from data.example import Source
from data.pictures import grid, to_images
from data.sources import SourceConfig, open_source
from diffusion.flow import FlowSampling, draw_times, mix
from diffusion.network import FlowTransformer
from diffusion.twin import SPACES, TEXT_FILE, PixelSpace, Twin, collate
from model.transformer import ModelConfig
from runtime.checkpoint import write_atomic
from runtime.config import to_dict
from runtime.loop import LoopConfig
from tasks.text_to_image import text_to_image
from tokenizer.image import ImageTokenizer
from tokenizer.sequence import Packed, pack
from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class TwinTraining:
    """A run that trains the twin on an image tokenizer's latents; what it shares with ModelTraining means the same."""

    loop: LoopConfig
    data: SourceConfig
    validation: SourceConfig
    # checkpoint folder of the image tokenizer
    tokenizer: str
    # what flows: the image tokenizer's features, or pixels
    space: Literal["latents", "pixels"] = "latents"
    # what the network gives: velocities; or the data, easier where a place has many channels, as in pixels
    foretells: Literal["velocity", "data"] = "velocity"
    # shape of the autoregressive model whose twin this is
    network: ModelConfig = field(default_factory=ModelConfig)
    # how the trained model is to be sampled; stored with it
    recipe: FlowSampling = field(default_factory=FlowSampling)
    # ids of text, 256 bytes included
    num_text: int = 512
    # share of pictures to draw without their caption
    caption_dropout: float = 0.1
    # prompts of the validation set that are drawn and, where the source can, checked at each evaluation
    num_samples: int = 64

    def build(self, device: torch.device) -> "FlowObjective":
        return FlowObjective(self, device)


class FlowModel(nn.Module):
    """The network and its loss."""

    def __init__(self, network: FlowTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        ids: Int[Tensor, "b t"],
        positions: Int[Tensor, "b t 2"],
        places: Int[Tensor, " n"],
        latents: Float[Tensor, "n c"],
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        times, noise = draw_times(len(ids), latents.device), torch.randn_like(latents)
        errors = self.errors(ids, positions, places, latents, times, noise)
        return errors.mean(), {}

    def errors(
        self, ids: Tensor, positions: Tensor, places: Tensor, latents: Tensor, times: Tensor, noise: Tensor
    ) -> Float[Tensor, " b"]:
        """Mean squared error of each picture's velocity."""
        each = places // ids.shape[1]
        found = self.network(ids, positions, places, mix(latents, noise, times[each]), times)
        squares = ((found - (latents - noise)) ** 2).mean(1)
        sums, counts = (
            torch.zeros_like(times).index_add(0, each, values) for values in (squares, torch.ones_like(squares))
        )
        return sums / counts


class FlowObjective:
    """See runtime.loop.Objective."""

    def __init__(self, config: TwinTraining, device: torch.device) -> None:
        self.config = config
        tokenizer = ImageTokenizer.from_pretrained(Path(config.tokenizer)).requires_grad_(False).to(device)
        self.source, self.validation = open_source(config.data), open_source(config.validation)
        read = partial(Channels, tokenizer=tokenizer, device=device, config=config)
        self.channels, self.validation_channels = read(self.source), read(self.validation)
        some = [self.channels[index] for index in range(min(len(self.source), 512))]
        self.space = SPACES[config.space].of(tokenizer, torch.from_numpy(np.concatenate([one.values for one in some])))
        self.grids = list(dict.fromkeys(one.grid for one in some))
        self.text_tokenizer = self._text_tokenizer()
        vocabulary = Vocabulary(self.text_tokenizer.num_text, tokenizer.codebook_size)
        encode, (rows, columns) = self.text_tokenizer.encode, self.grids[0]
        blank = np.zeros((rows, columns), np.int64)
        told = (text_to_image(encode(one.captions[0]), blank) for one in some)
        lengths = [len(pack(segments, vocabulary, "grid").ids) for segments in told]
        share = rows * columns / float(np.mean(lengths))
        num_channels = len(self.space.mean)
        self.model = FlowModel(FlowTransformer(config.network, vocabulary, num_channels, share, config.foretells))

    def _text_tokenizer(self) -> TextTokenizer:
        """Trained once; a resumed run reads what it wrote."""
        path = Path(self.config.loop.out) / TEXT_FILE
        if not path.exists():
            some = (self.channels[index] for index in range(min(len(self.source), 50_000)))
            captions = (caption for one in some for caption in one.captions)
            text = TextTokenizer.train(captions, self.config.num_text).to_json()
            write_atomic(path, lambda beside: beside.write_text(text))
        return TextTokenizer.from_json(path.read_text())

    def outer_parameters(self) -> list[Tensor]:
        """All that is no map between the blocks' widths."""
        network = self.model.network
        return [network.embedding.weight, network.offsets, network.project.weight, network.head.weight]

    def dataset(self) -> "Pictures":
        return Pictures(self.channels, self.twin(self.model.network), self.config, self.config.caption_dropout)

    def length(self, item: tuple[Packed, np.ndarray]) -> int:
        return len(item[0].ids)

    def collate(self, items: list[tuple[Packed, np.ndarray]]) -> dict[str, Tensor]:
        """Sequences, and the latents of their pictures."""
        channels = torch.from_numpy(np.concatenate([values for _, values in items]))
        return {**collate([packed for packed, _ in items]), "latents": self.space.standardise(channels)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Losses on the validation set, also by tenth of the time, and pictures of its first prompts."""
        assert isinstance(model, FlowModel)
        twin, generator = self.twin(model.network), torch.Generator().manual_seed(0)
        pictures = Pictures(self.validation_channels, twin, self.config, dropout=0.0)
        bins: list[list[float]] = [[] for _ in range(10)]
        for start in range(0, len(pictures), 64):
            batch = self.collate([pictures[0, index] for index in range(start, min(start + 64, len(pictures)))])
            noise = torch.randn(batch["latents"].shape, generator=generator).to(twin.device)
            batch = {name: tensor.to(twin.device) for name, tensor in batch.items()}
            for tenth, found in enumerate(bins):
                times = torch.full((len(batch["ids"]),), (tenth + 0.5) / 10, device=twin.device)
                found += model.errors(**batch, times=times, noise=noise).tolist()
        figures = {f"loss_at_{tenth / 10 + 0.05:.2f}": float(np.mean(found)) for tenth, found in enumerate(bins)}
        figures["flow_loss"] = float(np.mean(bins))
        if count := min(self.config.num_samples, len(self.validation)):
            prompts = [self.validation[index].text for index in range(count)]
            pixels = [np.asarray(image) for image in twin.generate(prompts, first=range(count)).images]
            folder.mkdir(parents=True, exist_ok=True)
            grid(pixels).save(folder / "samples.png")
            (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
            if (verdict := getattr(self.validation, "verdict", None)) is not None:
                figures["prompt_adherence"] = float(np.mean([verdict(i, image).ok for i, image in enumerate(pixels)]))
        return figures

    def twin(self, network: FlowTransformer) -> Twin:
        device, space = network.head.weight.device, self.space
        space = type(space)(space.tokenizer, space.mean.to(device), space.deviation.to(device))
        card = {"config": to_dict(self.config)}
        return Twin(network, space, self.text_tokenizer, self.config.recipe, self.grids, card)

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, FlowModel)
        self.twin(model.network).save_pretrained(folder)


class Told(NamedTuple):
    """A picture as what flows in it, with its captions."""

    captions: Sequence[str]
    # (rows, columns) of places
    grid: tuple[int, int]
    # channels of each place, as they are
    values: Float[np.ndarray, "n c"]


class Channels:
    """What flows in each of a source's pictures. The image tokenizer is asked once for each, pixels need none."""

    def __init__(self, source: Source, tokenizer: ImageTokenizer, device: torch.device, config: TwinTraining) -> None:
        self.source, self.tokenizer = source, tokenizer
        self.rows = None
        if config.space == "latents":
            self.rows = encode_source(source, tokenizer, device, num_workers=config.loop.num_workers, features=True)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Told:
        if self.rows is not None:
            row = Encoded.of(self.rows[index])
            assert row.features is not None
            return Told(row.captions, (row.codes.shape[0], row.codes.shape[1]), row.features)
        example, side = self.source[index], self.tokenizer.stride
        height, width, _ = example.image.shape
        values = PixelSpace.raw(self.tokenizer, to_images(example.image[None]))
        return Told(example.captions, (height // side, width // side), values.numpy())


class Pictures(torch.utils.data.Dataset[tuple[Packed, np.ndarray]]):
    """Examples as sequences with what flows; which caption is told, if any, depends on seed, epoch and index alone."""

    def __init__(self, channels: Channels, twin: Twin, config: TwinTraining, dropout: float) -> None:
        self.channels, self.twin, self.seed, self.dropout = channels, twin, config.loop.seed, dropout

    def __len__(self) -> int:
        return len(self.channels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Packed, np.ndarray]:
        epoch, index = key
        rng, (captions, grid, values) = np.random.default_rng((self.seed, epoch, index)), self.channels[index]
        caption = None if rng.random() < self.dropout else captions[int(rng.integers(len(captions)))]
        return self.twin.sequence(caption, grid), values
