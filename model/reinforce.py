"""Training the autoregressive model on its own pictures: what shows all that was asked for becomes likelier.

    example --requests--> several pictures --verdict--> right or wrong --beside one another--> loss

Nothing but verdicts is learnt from, so this needs a source that judges exactly, and a model that is right now and then:
where it always is, or never, there is nothing to learn. Few steps do much, since they teach no new pictures: what is
right of some pictures of a prompt becomes right of most.

Of codes that look alike a verdict says nothing of which, so what is made likelier may be the look of a code, whichever
code has it: what chance decides between look-alikes then moves no weights.

What no verdict tells of may be forgotten, so other abilities can be learnt beside, from true examples.

Sources: Kool, van Hoof and Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019, equation 8. Casella and
Robert, "Rao-Blackwellisation of sampling schemes", 1996, for looks. Ouyang et al., "Training language models to follow
instructions with human feedback", 2022, equation 2, for what is learnt beside.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from vector_quantize_pytorch.vector_quantize_pytorch import kmeans

from data.codes import encode_examples
from data.pictures import to_images
from data.shapes.source import Shapes, ShapesConfig
from model.drawing import draw
from model.generate import choice_of, guided
from model.objective import LanguageModel, ModelTraining, batch_of, sample_prompts
from model.plantain import Plantain
from model.request import ImageRequest
from model.streams import open_streams
from model.transformer import Transformer
from runtime.config import to_dict
from runtime.loop import LoopConfig
from tasks.mixture import Mixture, Telling, check, hole, tell
from tokenizer.image import ImageTokenizer
from tokenizer.sequence import pack
from tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class Beside:
    """What is learnt from the true examples of which pictures are drawn, so that it is not forgotten meanwhile."""

    # which abilities, in which shares
    mixture: Mixture
    # what the mean loss of an id counts, beside one for the log probability of a picture
    weight: float = 1.0
    # see model.objective.ModelTraining
    text_weight: float = 0.1
    answer_weight: float = 1.0


@dataclass(frozen=True)
class Reinforcement:
    """A run that goes on with a trained model: it draws, what it draws is judged, and that is what it learns from."""

    # a step's batch are examples, of each of which several pictures are drawn
    loop: LoopConfig
    # what is asked for, judged exactly
    data: ShapesConfig
    validation: ShapesConfig
    # checkpoint folder of the model to go on with; drawn from as its recipe for several pictures says
    start: str
    # pictures of each example, at least 2, that are judged beside one another
    num_drawn: int = 8
    # share of the examples of whose true picture a part is given
    inpaint: float = 0.0
    # tokens of the shortest prompt that is asked for: what is short is mostly right, which teaches nothing
    shortest: int = 0
    # regular expression that each prompt has to match somewhere, to ask for what mostly comes out wrong
    stating: str = ""
    # by default nothing
    beside: Beside | None = None
    # looks that the codes are sorted into, 0 for as many as codes: of which code has a look verdicts then say nothing
    num_looks: int = 0
    # pictures that are drawn at once; half as many, with their guides, are read at once
    at_once: int = 64
    # prompts of the validation set that are drawn and checked at each evaluation
    num_samples: int = 64

    def __post_init__(self) -> None:
        if self.num_drawn < 2:
            raise ValueError(f"num_drawn is {self.num_drawn}, but must be at least 2: alone, a picture tells nothing")
        if not 0 <= self.inpaint <= 1:
            raise ValueError(f"inpaint is {self.inpaint}, but must lie between 0 and 1")
        if self.num_looks < 0:
            raise ValueError(f"num_looks is {self.num_looks}, but must be 0 or more")
        try:
            re.compile(self.stating)
        except re.error as error:
            raise ValueError(f"stating is {self.stating!r}, which is no regular expression: {error}") from error
        if self.loop.compile:
            raise ValueError("loop.compile is set, but what draws between passes is not to be compiled: leave it out")

    def build(self, device: torch.device) -> "ReinforcedObjective":
        return ReinforcedObjective(self, device)


class Attempt(NamedTuple):
    """Pictures that were drawn of some examples: all of the first, then all of the second, ..."""

    requests: list[ImageRequest]
    codes: list[Int[np.ndarray, "_ _"]]
    # 1 where all that was asked for is shown
    right: Float[Tensor, "examples pictures"]


class Policy(nn.Module):
    """The transformer and its loss: what it draws of examples, weighed by how it compares with its other pictures.

    `attempt` draws with the same transformer; `beside` is another loss of it. They are functions and no methods, since
    the average of the weights is made from a copy of all that this holds.
    """

    def __init__(
        self,
        transformer: Transformer,
        vocabulary: Vocabulary,
        attempt: Callable[[list[int], int], Attempt],
        at_once: int,
        looks: Int[Tensor, " codes"] | None,
        beside: Callable[[Transformer, list[int], int], Tensor] | None,
    ) -> None:
        super().__init__()
        self.transformer, self.vocabulary, self.attempt, self.at_once = transformer, vocabulary, attempt, at_once
        self.looks, self.beside = looks, beside

    def forward(self, examples: Int[Tensor, " n"], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        requests, codes, right = self.attempt(examples.tolist(), step)
        count = right.shape[1]
        # how much better than the mean of the others of its example
        better = ((right - right.mean(1, keepdim=True)) * count / (count - 1)).flatten()
        telling = better.nonzero()[:, 0].tolist()  # the others have no gradient
        telling = telling or [0]  # a loss there has to be, also where there is nothing to tell
        loss = torch.zeros((), device=right.device)
        for some in _alike(requests, telling, max(self.at_once // 2, 1)):
            asked, drawn = zip(*((requests[each], codes[each]) for each in some), strict=True)
            read = (self.transformer, self.vocabulary, asked, drawn, self.looks)
            # read again where it is learnt from: all that tells at once would outgrow memory
            likely = checkpoint(log_probabilities, *read, use_reentrant=False)
            loss = loss - (better[some] * likely).sum()
        loss, figures = loss / len(requests), {"right": right.mean(), "telling": (better != 0).float().mean()}
        if self.beside is not None:
            learnt = self.beside(self.transformer, examples.tolist(), step)
            loss, figures = loss + learnt, figures | {"beside": learnt.detach()}
        return loss, figures


def log_probabilities(
    transformer: Transformer,
    vocabulary: Vocabulary,
    requests: Sequence[ImageRequest],
    codes: Sequence[Int[np.ndarray, "_ _"]],
    looks: Int[Tensor, " codes"] | None = None,
) -> Float[Tensor, " n"]:
    """Log probability, in nats, with which each request draws such a picture: guidance and temperature included.

    Codes that a request gives do not count. With `looks`, a number for each code, it is that of drawing what looks so:
    at each place some code of the same look.

    Raises:
        ValueError: A request has temperature 0, or filters, which leave no gradient where they cut.
    """
    for request in requests:
        sampling = request.sampling
        if sampling.temperature == 0 or (sampling.top_k, sampling.top_p, sampling.min_p) != (0, 1.0, 0.0):
            raise ValueError(f"{sampling} draws by more than a temperature above 0: leave out top_k, top_p and min_p")
    block, device = vocabulary.image_block, transformer.head.weight.device
    streams = open_streams(requests, vocabulary, transformer.config.positions, device, padding=0)
    choice = choice_of(requests, streams, block)
    longest = int(streams.num_codes.max())
    targets, counted = torch.zeros(len(codes), longest, dtype=torch.long), torch.zeros(len(codes), longest)
    for row, (request, grid) in enumerate(zip(requests, codes, strict=True)):
        targets[row, : grid.size] = torch.from_numpy(grid.reshape(-1))
        drawn = np.ones(grid.shape, bool) if request.known is None else request.known < 0
        counted[row, : grid.size] = torch.from_numpy(drawn.reshape(-1))
    targets, counted = targets.to(device), counted.to(device)
    places = streams.last[:, None] + 1 + torch.arange(longest, device=device)
    ids = streams.ids.scatter(1, places, targets[streams.owner] + block.start)
    hidden = transformer(ids, streams.positions)
    hidden = hidden.gather(1, (places - 1)[:, :, None].expand(-1, -1, hidden.shape[-1]))
    logits = transformer.logits(guided(choice, hidden, places[: len(requests)]), block).float()
    likely = (logits / choice.settings.temperature[:, :, None]).log_softmax(-1)
    if looks is None:
        likely = likely.gather(-1, targets[:, :, None])[..., 0]
    else:
        likely = likely.masked_fill(looks[targets][:, :, None] != looks, -torch.inf).logsumexp(-1)
    return (likely * counted).sum(1)


def looks_of(tokenizer: ImageTokenizer, count: int) -> Int[Tensor, " codes"]:
    """Sorts codes by what they look like: numbers below `count`, the same for codes whose squares look alike.

    A code's square is what is decoded where all around there is the same code.

    Raises:
        ValueError: There are more looks than codes.
    """
    if count > tokenizer.codebook_size:
        raise ValueError(f"num_looks is {count}, but there are {tokenizer.codebook_size} codes: give as many at most")
    device, side = next(tokenizer.parameters()).device, tokenizer.stride
    codes = torch.arange(tokenizer.codebook_size, device=device)[:, None, None].expand(-1, 3, 3)
    squares = torch.cat([tokenizer.decode(some)[..., side:-side, side:-side].flatten(1) for some in codes.split(256)])
    with torch.random.fork_rng():  # the same looks in every process, and after a restart
        torch.manual_seed(0)
        means, _ = kmeans(squares[None], count, num_iters=30)
    return torch.cdist(squares, means[0]).argmin(1)


class Numbers(torch.utils.data.Dataset[int]):
    """The examples' numbers: what is asked for is made where it is drawn."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: tuple[int, int]) -> int:
        return self.numbers[key[1]]


class ReinforcedObjective:
    """See runtime.loop.Objective."""

    def __init__(self, config: Reinforcement, device: torch.device) -> None:
        self.config = config
        self.source, self.validation = Shapes(config.data), Shapes(config.validation)
        self.plantain = Plantain.from_pretrained(config.start, device, "fp32")
        self.plantain.must_know("text_to_image")
        if config.inpaint:
            self.plantain.must_know("inpaint")
        self.plantain.card = {"config": to_dict(config)}
        transformer, workers = self.plantain.transformer.requires_grad_(True), config.loop.num_workers
        # Judging takes a core longer than drawing takes a GPU.
        self.judges = ProcessPoolExecutor(workers, get_context("forkserver")) if workers else None

        def attempt(numbers: list[int], step: int) -> Attempt:
            return self.attempt(numbers, step)

        looks = looks_of(self.plantain.image_tokenizer, config.num_looks) if config.num_looks else None
        beside = None if config.beside is None else _beside(config, self.source, self.plantain)
        self.model = Policy(transformer, self.plantain.vocabulary, attempt, config.at_once, looks, beside)

    def requests(self, number: int, step: int) -> list[ImageRequest]:
        """What is asked for of an example at a step: pictures of its caption, of which a part may be given."""
        plantain, count, example = self.plantain, self.config.num_drawn, self.source[number]
        sampling = plantain.sampling(best_of=count)
        rng = np.random.default_rng((self.config.loop.seed, step, number))
        if rng.random() < self.config.inpaint:
            images = to_images(example.image[None]).to(plantain.device)
            codes = plantain.image_tokenizer.encode(images)[0].cpu().numpy()
            hidden = hole(codes.shape, rng)
            while hidden.mean() < 0.2:  # of so few codes hardly any come out wrong
                hidden = hole(codes.shape, rng)
            made = plantain.fillings([codes], [hidden], [example.text], count, 0, sampling)
        else:
            made = plantain.requests([example.text], count, sampling=sampling, size=example.image.shape[:2])
        first = (step * len(self.source) + number) * count  # no two pictures of a run share their noise
        return [replace(each, seed=self.config.loop.seed, sample=first + place) for place, each in enumerate(made)]

    @torch.no_grad()
    def attempt(self, numbers: list[int], step: int) -> Attempt:
        """Draws and judges several pictures of each example."""
        requests = [request for number in numbers for request in self.requests(number, step)]
        asked = [number for number in numbers for _ in range(self.config.num_drawn)]
        device, at_once, judge = self.plantain.device, self.config.at_once, self.judges.map if self.judges else map
        judged = []
        for some in _alike(requests, range(len(requests)), at_once):
            with torch.autocast(device.type, enabled=False):  # its memory of keys and values has the weights' precision
                drawn = draw(self.plantain, [requests[each] for each in some], [None] * len(some), at_once)
            # verdicts come while the next batch is drawn
            verdicts = judge(self.source.verdict, [asked[each] for each in some], map(np.asarray, drawn.images))
            judged.append(zip(some, drawn.codes, verdicts, strict=True))
        found = {each: (codes, float(verdict.ok)) for each, codes, verdict in chain.from_iterable(judged)}
        codes, right = zip(*(found[each] for each in range(len(requests))), strict=True)
        return Attempt(requests, list(codes), torch.tensor(right, device=device).view(len(numbers), -1))

    def outer_parameters(self) -> list[Tensor]:
        """As where the model was trained first."""
        return [self.model.transformer.embedding.weight, self.model.transformer.head.weight]

    def dataset(self) -> Numbers:
        """The examples that are asked for. Raises ValueError unless some prompt is as the config says."""
        shortest, stating = self.config.shortest, self.config.stating
        numbers: Sequence[int] = range(len(self.source))
        if shortest or stating:
            encode, texts = self.plantain.text_tokenizer.encode, (self.source.caption(number)[0] for number in numbers)
            numbers = [n for n, text in enumerate(texts) if len(encode(text)) >= shortest and re.search(stating, text)]
        if not numbers:
            raise ValueError(
                f"shortest is {shortest} and stating {stating!r}, but no prompt has as many tokens and matches: "
                "lower the one or widen the other"
            )
        return Numbers(numbers)

    def length(self, item: int) -> int:
        return 1

    def collate(self, items: list[int]) -> dict[str, Tensor]:
        return {"examples": torch.tensor(items)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Pictures of the validation set's first prompts, and the share of them that is right."""
        return sample_prompts(self._with(model), self.validation, self.config.num_samples, folder)

    def export(self, model: nn.Module, folder: Path) -> None:
        self._with(model).save_pretrained(folder)

    def _with(self, model: nn.Module) -> Plantain:
        """The model that it began with, but for the weights."""
        assert isinstance(model, Policy)
        plantain = copy(self.plantain)
        plantain.transformer = model.transformer
        return plantain


def _beside(
    config: Reinforcement, source: Shapes, plantain: Plantain
) -> Callable[[Transformer, list[int], int], Tensor]:
    """The loss of predicting what is told of true examples.

    Raises:
        ValueError: The examples have nothing of which an ability could be learnt.
    """
    learnt, vocabulary, tokenizer = config.beside, plantain.vocabulary, plantain.image_tokenizer
    assert learnt is not None
    telling = Telling(plantain.text_tokenizer.encode, said=learnt.text_weight, written=learnt.answer_weight)
    check(learnt.mixture, encode_examples([source[0]], tokenizer, plantain.device)[0])

    def loss(transformer: Transformer, numbers: list[int], step: int) -> Tensor:
        examples = encode_examples([source[number] for number in numbers], tokenizer, plantain.device)
        sequences = []
        for number, example in zip(numbers, examples, strict=True):
            place = (config.loop.seed, step, number)
            rngs = np.random.default_rng((*place, 1)), np.random.default_rng((*place, 2))
            segments = tell(example, learnt.mixture, telling, ModelTraining.caption_dropout, *rngs)
            sequences.append(pack(segments, vocabulary, transformer.config.positions))
        batch = {name: part.to(plantain.device) for name, part in batch_of(sequences).items()}
        return learnt.weight * LanguageModel(transformer, vocabulary, z_loss=0.0)(**batch, step=step)[0]

    return loss


def _alike(requests: Sequence[ImageRequest], places: Sequence[int], at_once: int) -> list[list[int]]:
    """Batches of these places, each of pictures that are alike in length, since all are as long as the longest."""
    groups: dict[tuple[bool, int], list[int]] = {}
    for place in places:
        rows, columns = requests[place].grid
        groups.setdefault((requests[place].known is not None, rows * columns), []).append(place)
    return [group[start : start + at_once] for group in groups.values() for start in range(0, len(group), at_once)]
