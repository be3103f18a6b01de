"""Writing text: read what came before, then draw one id after another, until the model ends its turn or opens an image.

Rows of a batch are independent, as in model.generate, and so is the noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from model.cache import Memory
from model.sampling import SamplingConfig, draw, stack
from model.transformer import Transformer
from tokenizer.sequence import HIDDEN, ImageSegment, Segment, pack
from tokenizer.vocabulary import END, IMAGE, PAD, TEXT_START, Vocabulary

_READ_AT_ONCE = 16  # sequences whose likelihood is computed together


@dataclass(frozen=True, eq=False)
class TextRequest:
    """A text to write: what comes before it, how its ids are chosen, and which noise it gets."""

    segments: Sequence[Segment]
    sampling: SamplingConfig
    seed: int
    sample: int


@torch.inference_mode()
def write_texts(
    transformer: Transformer,
    vocabulary: Vocabulary,
    requests: Sequence[TextRequest],
    stop: int,
    most: int,
    memory: Memory | None = None,
) -> list[list[int]]:
    """Continues each request's sequence with text.

    Args:
        transformer: In eval mode.
        vocabulary: Its id table.
        requests: The rows of the batch.
        stop: Id of text that ends a turn, such as that of a line break.
        most: Ids at most; the model's length may leave room for fewer.
        memory: Of the only request's sequence; what it holds is not read again, and at the end it holds the text too.

    Returns:
        The ids written. The last is `stop`, <end> or <image>, unless there was no more room.

    Raises:
        ValueError: A sequence leaves no room for a single id, or logits are not finite.
    """
    config, device = transformer.config, transformer.embedding.weight.device
    packed = [pack(request.segments, vocabulary, config.positions, end=False) for request in requests]
    lengths = torch.tensor([len(one.ids) for one in packed], device=device)
    if (longest := int(lengths.max())) >= config.max_length:
        raise ValueError(
            f"a conversation of {longest} ids leaves no room in the model's {config.max_length}: shorten it"
        )
    total = min(longest + most, config.max_length)
    ids = torch.full((len(packed), total), PAD)
    for row, one in enumerate(packed):
        ids[row, : len(one.ids)] = torch.from_numpy(one.ids)
    ids = ids.to(device)
    # A text advances row and column together, from where what came before it stopped.
    starts = torch.tensor([int(one.positions[-1, 0]) for one in packed], device=device)
    places = torch.zeros(len(packed), longest, 2, dtype=torch.long)
    for row, one in enumerate(packed):
        places[row, : len(one.ids)] = torch.from_numpy(one.positions)
    cache = transformer.new_cache(len(packed), total) if memory is None else memory.cache
    known = 0 if memory is None else memory.known(ids[0, :longest])
    slots = torch.arange(known, longest, device=device).expand(len(packed), -1)
    hidden = transformer(ids[:, known:longest], places[:, known:].to(device), cache, slots, longest)
    hidden = hidden.gather(1, (lengths - 1 - known)[:, None, None].expand(-1, 1, hidden.shape[-1]))

    settings = stack([request.sampling for request in requests], device)
    seeds, samples = (torch.tensor([getattr(r, name) for r in requests], device=device) for name in ("seed", "sample"))
    table = torch.arange(vocabulary.text_block.stop, device=device)
    closed = (table < TEXT_START) & (table != END) & (table != IMAGE)
    ended = torch.zeros(len(packed), dtype=torch.bool, device=device)
    counts = torch.zeros_like(lengths)
    for step in range(total - int(lengths.min())):
        logits = transformer.logits(hidden[:, 0], vocabulary.text_block)
        _check(logits, ended)
        slot = (lengths + step).clamp(max=total - 1)
        drawn = draw(logits.masked_fill(closed, -torch.inf), settings, seeds, samples, slot, table)
        ended |= lengths + step >= total
        counts += ~ended
        ids.scatter_(1, slot[:, None], torch.where(ended, ids.gather(1, slot[:, None])[:, 0], drawn)[:, None])
        ended |= (drawn == stop) | (drawn == END) | (drawn == IMAGE)
        if ended.all() or step + 1 == most:
            break
        position = (starts + 1 + step)[:, None, None].expand(-1, 1, 2)
        hidden = transformer(ids.gather(1, slot[:, None]), position, cache, slot[:, None], int(slot.max()) + 1)
    if memory is not None:
        memory.ids = ids[0, : longest + max(0, int(counts[0]) - 1)].cpu().clone()  # the last was never read
    return [row[start : start + count].tolist() for row, start, count in zip(ids, lengths, counts, strict=True)]


def _check(logits: Float[Tensor, "b v"], ended: Tensor) -> None:
    broken = ~logits.isfinite().all(-1) & ~ended
    if broken.any():
        raise ValueError(
            f"the model's logits for text {int(broken.int().argmax())} are not finite: its weights are damaged"
        )


@torch.inference_mode()
def log_likelihoods(
    transformer: Transformer, vocabulary: Vocabulary, conversations: Sequence[Sequence[Segment]]
) -> list[Float[Tensor, " segments"]]:
    """Log probability, in nats, of each segment of sequences given those before it.

    Each id is predicted among those of its kind, as in training: codes among codes, text among text. Of an image, the
    codes count, hidden ones aside; of a text, its ids.

    Raises:
        ValueError: A sequence is longer than the model's.
    """
    config, device = transformer.config, transformer.embedding.weight.device
    results = []
    for first in range(0, len(conversations), _READ_AT_ONCE):
        some = conversations[first : first + _READ_AT_ONCE]
        packed = [pack(segments, vocabulary, config.positions, end=False) for segments in some]
        longest = max(len(one.ids) for one in packed)
        if longest > config.max_length:
            raise ValueError(f"{longest} ids exceed the model's {config.max_length}: shorten the text")
        ids = torch.full((len(some), longest), PAD)
        places = torch.zeros(len(some), longest, 2, dtype=torch.long)
        for row, one in enumerate(packed):
            ids[row, : len(one.ids)], places[row, : len(one.ids)] = map(torch.from_numpy, one[:2])
        ids = ids.to(device)
        hidden = transformer(ids, places.to(device))
        for row, segments in enumerate(some):
            shares = []
            for number, segment in enumerate(segments):
                stop = len(pack(segments[: number + 1], vocabulary, config.positions, end=False).ids)
                if isinstance(segment, ImageSegment):
                    known, block = segment.codes.reshape(-1) != HIDDEN, vocabulary.image_block
                    at = torch.from_numpy(known.nonzero()[0]) + stop - 1 - known.size  # the last is </image>
                else:
                    at, block = torch.arange(stop - len(segment.ids), stop), vocabulary.text_block
                at = at.to(device)
                logits = transformer.logits(hidden[row, at - 1], block)
                targets = ids[row, at, None] - block.start
                shares.append(logits.log_softmax(-1).gather(1, targets).sum())
            results.append(torch.stack(shares))
    return results
