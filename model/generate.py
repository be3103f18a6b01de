"""Drawing images: read the prompts at once, then draw codes in order, one or several at each forward pass.

    prompts --prefill--> cache
    ids of a window --read--> hidden --choose--> the ids after them --settle--> a window further on, until all is final

What is drawn for a place is a function of the ids before it: weights and settings are fixed, and so is the noise (see
model.sampling). Sequential decoding has a window of one id. Jacobi decoding has a window of which only the first id is
known and the others are guessed (see model.draft): what is drawn where all before it was guessed right is what
sequential decoding would have drawn, so it stays. Both give the same picture.

Rows of a batch are independent: each has its own prompt, grid, settings, seed and sample number, and comes out as it
would alone.
"""

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model import draft
from model.cache import Cache, Memory
from model.request import ImageRequest, with_guides
from model.sampling import Settings, draw, stack
from model.streams import Streams, open_streams
from model.transformer import ModelConfig, Transformer
from runtime.device import free_memory
from tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from model.engine import Engine


def prefill(transformer: Transformer, streams: Streams, cache: Cache, known: int = 0) -> None:
    """Reads all prefixes in one pass, each once, and what codes are given before the first that is drawn; but for the
    last id of each, with which drawing begins, and for the `known` first ids of the first.

    After a shorter prefix it reads guesses too; they are read again before anything attends to them.
    """
    start, last = torch.zeros_like(streams.last), streams.last + streams.first
    start[0] = known
    limit = int(last.max())
    slots = start[:, None] + torch.arange(int((last - start).max()), device=start.device)
    slots = slots.clamp(max=streams.ids.shape[1] - 1)
    leaders, follows = streams.leader.unique(return_inverse=True)
    if known or len(leaders) == len(follows):
        read(transformer, streams, slots, cache, limit)
        return
    some = streams._replace(ids=streams.ids[leaders], positions=streams.positions[leaders])
    shared = transformer.new_cache(len(leaders), limit)
    read(transformer, some, slots[leaders], shared, limit)
    cache.spread(shared, follows)


def read(
    transformer: Transformer, streams: Streams, slots: Int[Tensor, "s w"], cache: Cache, limit: int
) -> Float[Tensor, "s w d"]:
    """Reads the ids at these slots, all below `limit`; returns the hidden states that predict those after them."""
    ids = streams.ids.gather(1, slots)
    positions = streams.positions.gather(1, slots[:, :, None].expand(-1, -1, 2))
    return transformer(ids, positions, cache, slots, limit)


class Choice(NamedTuple):
    """How the rows of a batch choose their ids."""

    settings: Settings
    seeds: Int[Tensor, " b"]
    samples: Int[Tensor, " b"]
    # the rows that have a first guide, those that have a second one, ..., each in the order of these streams
    guided: tuple[Int[Tensor, " _"], ...]
    # the weights of these streams
    weights: tuple[Float[Tensor, " _"], ...]
    # index into a row's own sequence of its first id that is not guided
    until: Int[Tensor, " b"]
    # what may be drawn: a block of the vocabulary
    ids: Int[Tensor, " v"]


def choice_of(requests: Sequence[ImageRequest], streams: Streams, block: slice) -> Choice:
    """What the requests say, on the streams' device."""
    device = streams.ids.device
    names = ("seed", "sample", "num_guided")
    seeds, samples, until = (torch.tensor([getattr(row, name) for row in requests], device=device) for name in names)
    guided = with_guides(requests)
    weights = [[requests[row].guiding[rank].weight for row in rows] for rank, rows in enumerate(guided)]
    return Choice(
        stack([request.sampling for request in requests], device),
        seeds,
        samples,
        tuple(torch.tensor(rows, dtype=torch.long, device=device) for rows in guided),
        tuple(torch.tensor(column, dtype=torch.float32, device=device) for column in weights),
        streams.last[: len(requests)] + 1 + until,
        torch.arange(block.start, block.stop, device=device),
    )


def guided(choice: Choice, hidden: Float[Tensor, "s w d"], places: Int[Tensor, "b w"]) -> Float[Tensor, "b w d"]:
    """The hidden states that rows draw from: their own, pushed where their guides say.

    The head is linear without bias: to combine hidden states is to combine logits, at half the head's work. Places are
    indices into a row's own sequence.
    """
    batch = len(places)
    states, others = hidden[:batch].float(), hidden[batch:]
    for rows, weights in zip(choice.guided, choice.weights, strict=True):
        count = len(rows)
        if not count:
            continue
        every = count == batch  # then rows are simply in order, which is sooner done
        own, at, until = (part if every else part[rows] for part in (hidden[:batch], places, choice.until))
        push = (others[:count].float() - own.float()) * (weights[:, None] * (at < until[:, None]))[:, :, None]
        states = states + push if every else states.index_add(0, rows, push)
        others = others[count:]
    return states.type_as(hidden)


def choose(
    transformer: Transformer,
    block: slice,
    choice: Choice,
    hidden: Float[Tensor, "s w d"],
    places: Int[Tensor, "b w"],
) -> tuple[Int[Tensor, "b w"], Bool[Tensor, "b w"]]:
    """An id of the block for each place, from the hidden state before it, and whether its logits are finite."""
    batch, width = places.shape
    logits = transformer.logits(guided(choice, hidden, places), block)
    seeds, samples = (numbers.repeat_interleave(width) for numbers in (choice.seeds, choice.samples))
    settings = choice.settings.repeat(width)
    ids = draw(logits.flatten(0, 1), settings, seeds, samples, places.flatten(), choice.ids)
    return ids.view(batch, width), logits.isfinite().all(-1)


class Session(NamedTuple):
    """All that a pass reads and writes, but for the weights."""

    streams: Streams
    choice: Choice
    cache: Cache
    # codes of each picture that are final
    counts: Int[Tensor, " b"]
    # each row's first place whose logits were not finite
    broken: Int[Tensor, " b"]

    def without_guidance(self) -> "Session":
        """The rest of the way for rows whose guidance is over: the same memory, but for the second streams."""
        batch, choice = len(self.counts), self.choice
        parts = {name: part[:batch] for name, part in self.streams._asdict().items() if part is not None}
        streams = self.streams._replace(**parts)
        return self._replace(
            streams=streams, choice=choice._replace(guided=(), weights=()), cache=self.cache.first(batch)
        )


def settle(
    session: Session, places: Int[Tensor, "s w"], drawn: Int[Tensor, "b w"], table: Int[Tensor, " size"] | None
) -> None:
    """Writes what was drawn, guesses what the next window adds, and counts the codes that are final now.

    The first drawn id is final, and each after it if all ids before it had been guessed right.
    """
    streams, (batch, width) = session.streams, drawn.shape
    own, before = places[:batch], streams.ids[:batch]
    right = (drawn == before.gather(1, own)).cumprod(1).sum(1)
    if width > 1:
        places, drawn = torch.cat([places, places + width], 1), _guess(session, own, drawn, table)
    streams.ids.scatter_(1, places, _keep_known(streams.known, places, drawn[streams.owner]))
    counts = torch.minimum(session.counts + (right + 1).clamp(max=width), streams.num_codes[:batch])
    session.counts.copy_(counts)


def _keep_known(
    known: Int[Tensor, "s t"] | None, places: Int[Tensor, "b w"], drawn: Int[Tensor, "b w"]
) -> Int[Tensor, "b w"]:
    """What was drawn for some places of the first sequences, or what is given there."""
    if known is None:
        return drawn
    given = known[: len(places)].gather(1, places)
    return torch.where(given < 0, drawn, given)


def _guess(
    session: Session, places: Int[Tensor, "b w"], drawn: Int[Tensor, "b w"], table: Int[Tensor, " size"] | None
) -> Int[Tensor, "b v"]:
    """What was drawn for the window, where that may well last, and guesses for the rest of it and for the next one."""
    streams, (batch, width) = session.streams, drawn.shape
    first, columns, before = streams.last[:batch] + 1, streams.columns[:batch], streams.ids[:batch]
    # A new place is guessed to hold what the one above it holds; in the first row, what was drawn last.
    new = places + width
    above = new - columns[:, None]
    ids = before.scatter(1, places, drawn)
    ids = ids.scatter(1, new, ids.gather(1, torch.where(above >= first[:, None], above, places[:, -1:])))
    reach = torch.cat([places, new], 1)
    if table is not None:
        base = session.choice.ids[0]
        ids = draft.guess(table, ids - base, before - base, reach, width, first, columns) + base
    return ids.gather(1, reach)


def step(
    transformer: Transformer,
    block: slice,
    table: Int[Tensor, " size"] | None,
    session: Session,
    width: int,
    limit: int,
) -> None:
    """One pass: reads a window of every stream, draws what follows and settles it.

    Nothing in it waits for a device, so that it can be compiled whole.
    """
    streams, counts = session.streams, session.counts
    slots = streams.last[:, None] + counts[streams.owner, None] + torch.arange(width, device=counts.device)
    hidden = read(transformer, streams, slots, session.cache, limit)
    places = slots[: len(counts)] + 1
    drawn, finite = choose(transformer, block, session.choice, hidden, places)
    drawn = _keep_known(streams.known, places, drawn)
    session.broken.copy_(torch.minimum(session.broken, places.masked_fill(finite, _NOWHERE).amin(1)))
    settle(session, slots + 1, drawn, table)


class Drawn(NamedTuple):
    """Pictures as far as they have come."""

    # in raster order; row i is final up to counts[i], then it is guesses, and padding after its last code
    codes: Int[Tensor, "b n"]
    # how many codes of each picture are final
    counts: Int[Tensor, " b"]


@torch.inference_mode()
def draw_images(
    transformer: Transformer,
    vocabulary: Vocabulary,
    requests: Sequence[ImageRequest],
    window: int = 1,
    table: Int[Tensor, " size"] | None = None,
    engine: "Engine | None" = None,
    memory: Memory | None = None,
) -> Generator[Drawn, None, None]:
    """Draws one image for every request.

    Args:
        transformer: In eval mode.
        vocabulary: Its id table.
        requests: The rows of the batch.
        window: Codes of each picture that a forward pass draws: 1 is sequential decoding, more is Jacobi decoding. The
            pictures are the same; the passes are fewer, and each costs more.
        table: What Jacobi decoding guesses from, see model.draft.
        engine: Runs compiled passes; by default they run as they are.
        memory: Of the first request's sequence; what it holds is not read again, and at the end it holds the image too.

    Yields:
        The codes after every pass.

    Raises:
        ValueError: The window is below one, a prompt leaves no room for the image, or logits are not finite.
        MemoryError: The batch does not fit into memory.

    Source: Wiggers and Hoogeboom, "Predictive Sampling with Forecasting Autoregressive Models", section 3.
    """
    if window < 1:
        raise ValueError(f"window is {window}, but must be at least 1, which is sequential decoding")
    config, device, batch = transformer.config, transformer.head.weight.device, len(requests)
    rows, length = (requests, 0) if engine is None else (engine.pad(requests), config.max_length)
    streams = open_streams(rows, vocabulary, config.positions, device, 2 * window, length)
    lengths, sizes = streams.last + 1, streams.num_codes
    if (excess := int((lengths + sizes).max()) - config.max_length) > 0:
        row = int((lengths + sizes).argmax())
        raise ValueError(
            f"a prompt of {lengths[row]} ids and an image of {sizes[row]} codes exceed the model's {config.max_length} "
            f"ids by {excess}: shorten the prompt"
        )
    _check_memory(transformer, streams, batch, window, vocabulary.codebook_size)
    session = Session(
        streams,
        choice_of(rows, streams, vocabulary.image_block),
        transformer.new_cache(*streams.ids.shape),
        streams.first[: len(rows)].clone(),
        torch.full((len(rows),), _NOWHERE, device=device),
    )
    first, end = streams.first[: len(rows)], streams.end[: len(rows)]
    longest, most = int((lengths + streams.first).max()), int((end - first).max())
    own = lengths[:batch, None] + torch.arange(int(sizes.max()), device=device)
    guided = session.choice.until - lengths[: len(rows)]  # codes of each row
    most_guided = int((guided - first).max())
    run = partial(step, transformer, vocabulary.image_block, table)
    with nullcontext((session, run)) if engine is None else engine.take(session, run, window) as (session, run):
        known = 0
        if memory is not None:
            known = memory.known(session.streams.ids[0, : int(lengths[0])])
            memory.recall(session.cache, known)
        prefill(transformer, session.streams, session.cache, known)
        left, passes = most, 0
        while left:
            width, limit = window, session.cache.max_length
            if engine is None:  # nothing needs to keep its shape
                width = min(window, left)
                limit = min(longest - 1 + passes * window + width, limit)
            run(session, width, limit)
            passes += 1
            if window == 1:
                left, left_guided = most - passes, most_guided - passes
            else:
                left, left_guided = (int((all_of - session.counts).max()) for all_of in (end, guided))
            if not left or device.type != "cuda":  # else looking would make the host wait
                _check(session.broken[:batch])
            codes = session.streams.ids[:batch].gather(1, own) - vocabulary.image_start
            yield Drawn(codes, torch.where(session.counts < end, session.counts, sizes[: len(rows)])[:batch])
            if left_guided <= 0 and session.choice.guided:
                session = session.without_guidance()
        if memory is not None:
            memory.keep(session.cache, session.streams.ids[0, : int(lengths[0] + end[0]) - 1])


_NOWHERE = 2**62


def _check(broken: Int[Tensor, " b"]) -> None:
    if (place := int(broken.min())) < _NOWHERE:
        raise ValueError(
            f"the model's logits for id {place} of picture {int(broken.argmin())}'s sequence are not finite: its "
            "weights are damaged"
        )


def num_bytes(config: ModelConfig, streams: int, length: int, longest: int, logits: int, width: int) -> int:
    """An estimate of what drawing takes beside the weights.

    Args:
        config: The transformer's shape.
        streams: Sequences that are read at once: one for each picture, and one more for each that is guided.
        length: Ids that the cache has room for.
        longest: Ids of the longest prompt.
        logits: Numbers of logits of a pass: pictures times window times image ids.
        width: Bytes of a number in the transformer.
    """
    kept = 2 * config.depth * config.num_kv_heads * config.head_dim * width  # of an id, in a cache
    prefixes = streams * longest * ((4 * config.dim + 3 * config.mlp_dim) * width + kept)  # with the cache of `prefill`
    # a logit's filters are in 4 bytes each and its noise in 8
    return streams * length * kept + max(prefixes, logits * 40)


def _check_memory(transformer: Transformer, streams: Streams, batch: int, window: int, num_codes: int) -> None:
    weight = transformer.embedding.weight
    count, length = streams.ids.shape
    longest = int((streams.last + streams.first).max()) + 1
    needed = num_bytes(transformer.config, count, length, longest, batch * window * num_codes, weight.element_size())
    free = free_memory(weight.device)
    if free is not None and needed > free:
        raise MemoryError(
            f"drawing {batch} pictures at once takes about {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} are free: "
            f"draw at most {max(1, int(batch * free / needed))} at once"
        )


def jacobi_window(device: torch.device, requests: Sequence[ImageRequest]) -> int:
    """A window that pays: as wide as the machine reads for little more than one id, shared by the batch's streams.

    On two CPU cores `benchmarks.decode` finds 16 best for one guided picture, 8 for eight, and 1 for 32.
    """
    spare = {"cuda": 512, "cpu": 96}.get(device.type, 96)
    streams = sum(2 if request.num_guided else 1 for request in requests)
    return max(1, min(16, spare // streams))
