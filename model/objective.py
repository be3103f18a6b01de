"""Training the autoregressive model: predict the next id of captions and pictures in one stream."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.codes import Encoded, encode_source, grids_of
from data.example import Source
from data.pictures import by_shape, grid, to_images
from data.sources import SourceConfig, open_source
from model import draft
from model.plantain import Plantain
from model.pretrained import TEXT_FILE
from model.sampling import SamplingConfig
from model.transformer import ModelConfig, Transformer
from runtime.checkpoint import write_atomic
from runtime.config import to_dict
from runtime.loop import LoopConfig
from tasks.conversation import DESCRIBE
from tasks.mixture import TASKS, Mixture, Telling, check, tell
from tokenizer.image import ImageTokenizer
from tokenizer.sequence import Packed, pack
from tokenizer.text import TextTokenizer
from tokenizer.vocabulary import PAD, TEXT_START, Vocabulary


@dataclass(frozen=True)
class ModelTraining:
    """A run that trains the autoregressive model on an image tokenizer's codes."""

    loop: LoopConfig
    data: SourceConfig
    validation: SourceConfig
    # checkpoint folder of the image tokenizer
    tokenizer: str
    network: ModelConfig = field(default_factory=ModelConfig)
    # how the trained model is to be sampled; stored with it
    recipe: SamplingConfig = field(default_factory=SamplingConfig)
    # the same of edits; by default as elsewhere
    editing: SamplingConfig | None = None
    # checkpoint folder of a model of the same shape whose weights to begin with; by default they are random
    start: str | None = None
    # codes: only their rows of the tables learn, so that those of another image tokenizer come to mean what the former
    # ones meant, to all that stands still
    trained: Literal["all", "codes"] = "all"
    # which abilities are learnt, in which shares
    mixture: Mixture = field(default_factory=Mixture)
    # ids of text, 256 bytes included
    num_text: int = 512
    # what predicting an id of text that a user says counts, beside one for each code
    text_weight: float = 0.1
    # what predicting an id of text that the model says counts
    answer_weight: float = 1.0
    # share of pictures to draw without their caption: guidance needs to know the unconditional picture
    caption_dropout: float = 0.1
    # weight of the squared log of the softmax's denominator, which keeps logits from drifting
    z_loss: float = 1e-5
    # prompts of the validation set that are drawn and, where the source can, checked at each evaluation
    num_samples: int = 64

    def __post_init__(self) -> None:
        if self.trained == "codes" and self.start is None:
            raise ValueError("trained is codes, but start names no model that could stand still")
        if self.trained == "codes" and self.loop.optimizer.weight_decay:
            raise ValueError("trained is codes, but loop.optimizer.weight_decay would move all else: set it to 0")

    def build(self, device: torch.device) -> "NextIdObjective":
        return NextIdObjective(self, device)


class LanguageModel(nn.Module):
    """The transformer and its loss: each id is predicted among those that the sampler would allow in its place."""

    def __init__(self, transformer: Transformer, vocabulary: Vocabulary, z_loss: float) -> None:
        super().__init__()
        self.transformer, self.vocabulary, self.z_loss = transformer, vocabulary, z_loss

    def forward(
        self,
        ids: Int[Tensor, "b t"],
        positions: Int[Tensor, "b t 2"],
        weights: Float[Tensor, "b t"],
        codes: Int[Tensor, " n"],
        text: Int[Tensor, " m"],
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts; see `batch_of`."""
        hidden = self.transformer(ids[:, :-1], positions[:, :-1]).flatten(0, 1)
        # From here on everything belongs to the id that is predicted: labels, weights and z-loss shift together.
        targets, weights = ids[:, 1:].flatten(), weights[:, 1:]
        counts, total = weights.flatten(), hidden.new_zeros(len(ids), dtype=torch.float32)
        figures = {}
        for name, places, block in (
            ("image", codes, self.vocabulary.image_block),
            ("text", text, self.vocabulary.text_block),
        ):
            logits, weight = self.transformer.logits(hidden[places], block), counts[places]
            losses = F.cross_entropy(logits, targets[places] - block.start, reduction="none")
            figures[f"{name}_loss"] = (losses.detach() * weight).sum() / weight.sum().clamp_min(1e-6)
            losses = losses + self.z_loss * logits.logsumexp(-1) ** 2
            total = total.index_add(0, places // weights.shape[1], losses * weight)
        # A mean over examples of means over their ids: the same however a batch is divided.
        return (total / weights.sum(1).clamp_min(1e-6)).mean(), figures


def batch_of(items: Sequence[Packed]) -> dict[str, Tensor]:
    """Sequences as one batch, padded on the right; weights of zero keep the padding out of the loss.

    Returns:
        ids, positions, weights: (b, t), (b, t, 2) and (b, t).
        codes, text: which of `ids[:, 1:]`, flattened, are codes and text to predict. To find them takes a look at the
            batch, for which a GPU would have to wait and a compiled forward pass to break off.
    """
    longest = max(len(item.ids) for item in items)
    batch = {
        "ids": torch.full((len(items), longest), PAD),
        "positions": torch.zeros(len(items), longest, 2, dtype=torch.long),
        "weights": torch.zeros(len(items), longest),
        "is_image": torch.zeros(len(items), longest, dtype=torch.bool),
    }
    for row, item in enumerate(items):
        for name, tensor in batch.items():
            tensor[row, : len(item.ids)] = torch.from_numpy(getattr(item, name))
    is_image, predicted = batch.pop("is_image")[:, 1:], batch["weights"][:, 1:] > 0
    places = {"codes": predicted & is_image, "text": predicted & ~is_image}
    return batch | {name: chosen.flatten().nonzero()[:, 0] for name, chosen in places.items()}


def _texts(examples: Iterable[Encoded]) -> Iterator[str]:
    """All that is said of examples."""
    for example in examples:
        yield from example.captions
        for question, answer in example.questions:
            yield from (question, answer)
        if example.edit is not None:
            instruction, result = example.edit
            yield from (DESCRIBE, instruction, *_texts([result]))


class Sequences(torch.utils.data.Dataset[Packed]):
    """Packed sequences of examples; what is told of them, and how, depends on seed, epoch and index alone."""

    def __init__(self, codes: Any, text: TextTokenizer, vocabulary: Vocabulary, config: ModelTraining, dropout: float):
        self.codes, self.text, self.vocabulary, self.config, self.dropout = codes, text, vocabulary, config, dropout
        self.telling = Telling(text.encode, said=config.text_weight, written=config.answer_weight)
        check(config.mixture, Encoded.of(codes[0]))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, key: tuple[int, int]) -> Packed:
        epoch, index = key
        place = (self.config.loop.seed, epoch, index)
        rng, chooser = np.random.default_rng(place), np.random.default_rng((*place, 1))
        segments = tell(Encoded.of(self.codes[index]), self.config.mixture, self.telling, self.dropout, chooser, rng)
        packed = pack(segments, self.vocabulary, self.config.network.positions)
        if len(packed.ids) > self.config.network.max_length:
            raise ValueError(
                f"example {index} is {len(packed.ids)} ids long, but network.max_length is "
                f"{self.config.network.max_length}: raise it"
            )
        return packed


class NextIdObjective:
    """See runtime.loop.Objective."""

    def __init__(self, config: ModelTraining, device: torch.device) -> None:
        self.config = config
        self.image_tokenizer = ImageTokenizer.from_pretrained(Path(config.tokenizer)).to(device)
        self.source, self.validation = open_source(config.data), open_source(config.validation)
        self.codes, self.validation_codes = (
            encode_source(source, self.image_tokenizer, device, num_workers=config.loop.num_workers)
            for source in (self.source, self.validation)
        )
        self.text_tokenizer = self._text_tokenizer()
        self.vocabulary = Vocabulary(self.text_tokenizer.num_text, self.image_tokenizer.codebook_size)
        self.model = LanguageModel(Transformer(config.network, self.vocabulary.size), self.vocabulary, config.z_loss)
        if config.start is not None:
            self._begin_as(Plantain.from_pretrained(config.start, "cpu", "fp32"))
        if config.trained == "codes":
            self.model.requires_grad_(False)
            for table in self.outer_parameters():
                table.requires_grad_(True).register_hook(self._of_codes)
        self.grids = grids_of(self.codes)
        if unknown := set(grids_of(self.validation_codes)) - set(self.grids):
            raise ValueError(
                f"validation has pictures of {_listed(sorted(unknown))} codes, but data only of {_listed(self.grids)}: "
                "give both the same sizes"
            )
        some = [np.array(codes) for codes in self.codes.select(range(min(len(self.codes), 100_000)))["codes"]]
        self.draft = draft.learn(*(np.stack([some[place] for place in places]) for places in by_shape(some)))

    def _text_tokenizer(self) -> TextTokenizer:
        """Trained once; a resumed run reads what it wrote."""
        path = Path(self.config.loop.out) / TEXT_FILE
        if not path.exists():
            rows: Any = self.codes.select(range(min(len(self.codes), 50_000)))
            some = (Encoded.of(row) for row in rows)
            text = TextTokenizer.train(_texts(some), self.config.num_text).to_json()
            write_atomic(path, lambda beside: beside.write_text(text))
        return TextTokenizer.from_json(path.read_text())

    @torch.no_grad()
    def _begin_as(self, other: Plantain) -> None:
        """Takes over another model's weights; pieces of text that it did not know keep their random ones.

        Codes of another image tokenizer begin as the mean of the codes that stand in their places.
        """
        ours, theirs = self.model.transformer, other.transformer
        if replace(theirs.config, max_length=ours.config.max_length) != ours.config:
            raise ValueError(f"{self.config.start} has the network {theirs.config}, but the config {ours.config}")
        if other.image_tokenizer.stride != self.image_tokenizer.stride:
            raise ValueError(
                f"{self.config.start} learned codes of {other.image_tokenizer.stride} pixels a side, but those of "
                f"{self.config.tokenizer} have {self.image_tokenizer.stride}: take another tokenizer, or no start"
            )
        ours.blocks.load_state_dict(theirs.blocks.state_dict())
        ours.norm.load_state_dict(theirs.norm.state_dict())
        known = other.text_tokenizer.vocabulary()
        pairs = [(id, known[piece]) for piece, id in self.text_tokenizer.vocabulary().items() if piece in known]
        pairs += [(id, id) for id in range(TEXT_START)]
        new, old = (torch.tensor(ids) for ids in zip(*pairs, strict=True))
        shares = self._shares_of(other.image_tokenizer)
        met = shares.any(1)
        for mine, its in ((ours.embedding, theirs.embedding), (ours.head, theirs.head)):
            mine.weight[new] = its.weight[old]
            mine.weight[self.vocabulary.image_block][met] = shares[met] @ its.weight[other.vocabulary.image_block]

    def _shares_of(self, other: ImageTokenizer, count: int = 4_000) -> Float[Tensor, "ours theirs"]:
        """Of each code, how often another tokenizer has each of its own in the same place; 0 where it is unmet."""
        if other.digest == self.image_tokenizer.digest:
            return torch.eye(other.codebook_size)
        device = next(self.image_tokenizer.parameters()).device
        counts = torch.zeros(self.image_tokenizer.codebook_size, other.codebook_size)
        for index in range(min(count, len(self.source))):
            images = to_images(self.source[index].image[None])
            places = self.image_tokenizer.encode(images.to(device)).cpu(), other.encode(images)
            counts.index_put_(tuple(codes.flatten() for codes in places), torch.ones(()), accumulate=True)
        return counts / counts.sum(1, keepdim=True).clamp_min(1)

    def _of_codes(self, gradient: Tensor) -> Tensor:
        """A table's gradient without that of its text."""
        return gradient.index_fill(0, torch.arange(self.vocabulary.image_start, device=gradient.device), 0.0)

    def outer_parameters(self) -> list[Tensor]:
        """Tables and not maps: a row of the embedding or of the head belongs to one id."""
        return [self.model.transformer.embedding.weight, self.model.transformer.head.weight]

    def dataset(self) -> Sequences:
        return Sequences(self.codes, self.text_tokenizer, self.vocabulary, self.config, self.config.caption_dropout)

    def length(self, item: Packed) -> int:
        return len(item.ids)

    def collate(self, items: list[Packed]) -> dict[str, Tensor]:
        return batch_of(items)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Losses on the validation set, and pictures of its first prompts, checked where the source can."""
        assert isinstance(model, LanguageModel)
        sequences = Sequences(self.validation_codes, self.text_tokenizer, self.vocabulary, self.config, dropout=0.0)
        device = model.transformer.head.weight.device
        sums: dict[str, float] = {}
        for start in range(0, len(sequences), 64):
            batch = self.collate([sequences[0, index] for index in range(start, min(start + 64, len(sequences)))])
            _, figures = model(**{name: tensor.to(device) for name, tensor in batch.items()}, step=0)
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch["ids"])
        figures = {name: value / len(sequences) for name, value in sums.items()}
        return figures | sample_prompts(
            self.plantain(model.transformer), self.validation, self.config.num_samples, folder
        )

    def plantain(self, transformer: Transformer) -> Plantain:
        card, guesses = {"config": to_dict(self.config)}, self.draft.to(transformer.head.weight.device)
        parts = transformer, self.image_tokenizer, self.text_tokenizer, self.config.recipe, self.grids, card, guesses
        abilities = [name for name in TASKS if getattr(self.config.mixture, name)]
        omissions = getattr(self.source, "omissions", ())
        return Plantain(*parts, abilities, self.config.editing, omissions=omissions)

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, LanguageModel)
        self.plantain(model.transformer).save_pretrained(folder)


def sample_prompts(plantain: Plantain, source: Source, count: int, folder: Path) -> dict[str, float]:
    """Draws a source's first prompts into a folder, each picture as large as the example's own.

    Returns:
        prompt_adherence: share of the pictures with every stated fact right, where the source can tell.
    """
    examples = [source[index] for index in range(min(count, len(source)))]
    if not examples:
        return {}
    pixels: dict[int, np.ndarray] = {}
    for places in by_shape([example.image for example in examples]):
        height, width, _ = examples[places[0]].image.shape
        drawn = plantain.generate([examples[place].text for place in places], first=places, size=(height, width))
        pixels.update(zip(places, map(np.asarray, drawn.images), strict=True))
    drawn = [pixels[place] for place in range(len(examples))]
    folder.mkdir(parents=True, exist_ok=True)
    grid(drawn).save(folder / "samples.png")
    (folder / "prompts.txt").write_text("\n".join(example.text for example in examples) + "\n")
    if (verdict := getattr(source, "verdict", None)) is None:
        return {}
    return {"prompt_adherence": float(np.mean([verdict(i, image).ok for i, image in enumerate(drawn)]))}


def _listed(grids: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{rows}x{columns}" for rows, columns in grids)
