"""Drawing images token by token: read the prompts at once, then one code after another for the whole batch.

    prompts --prefill--> hidden --draw--> code --decode_one--> hidden --draw--> code ...

Rows of a batch are independent: each has its own prompt length, seed and sample number, and comes out as it would
alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.cache import Cache
from model.sampling import SamplingConfig, draw, guide
from model.transformer import Transformer
from tokenizer.sequence import ImageSegment, Packed, Positions, Segment, pack
from tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One picture to draw: what comes before it, and which noise it gets."""

    # the condition, in reading order; empty for an unconditional picture
    segments: Sequence[Segment]
    # chosen by the user
    seed: int
    # number of this picture under the seed
    sample: int


def open_image(
    segments: Sequence[Segment], grid: tuple[int, int], vocabulary: Vocabulary, positions: Positions
) -> tuple[Packed, Int[np.ndarray, "n 2"]]:
    """The sequence up to the first code of an image of `grid` (rows, columns), and the positions of its codes.

    The image is packed with codes of zero and cut off before them, so that there is one layout only.
    """
    blank = ImageSegment(np.zeros(grid, dtype=np.int64))
    packed = pack([*segments, blank], vocabulary, positions, end=False)
    start = len(packed.ids) - blank.codes.size - 1
    return Packed(*(part[:start] for part in packed)), packed.positions[start:-1]


def prefill(transformer: Transformer, prefixes: Sequence[Packed], cache: Cache) -> Float[Tensor, "b d"]:
    """Reads all prompts in one forward pass, padded on the right; returns each one's last hidden state."""
    device = transformer.head.weight.device
    longest = max(len(prefix.ids) for prefix in prefixes)
    ids = torch.zeros(len(prefixes), longest, dtype=torch.long)
    positions = torch.zeros(len(prefixes), longest, 2, dtype=torch.long)
    for row, prefix in enumerate(prefixes):
        ids[row, : len(prefix.ids)] = torch.from_numpy(prefix.ids)
        positions[row, : len(prefix.ids)] = torch.from_numpy(prefix.positions)
    slots = torch.arange(longest).expand(len(prefixes), -1)
    hidden = transformer(ids.to(device), positions.to(device), cache, slots.to(device), limit=longest)
    last = torch.tensor([len(prefix.ids) - 1 for prefix in prefixes], device=device)
    return hidden[torch.arange(len(prefixes), device=device), last]


def decode_one(
    transformer: Transformer,
    ids: Int[Tensor, " b"],
    positions: Int[Tensor, "b 2"],
    slots: Int[Tensor, " b"],
    cache: Cache,
    limit: int,
) -> Float[Tensor, "b d"]:
    """Reads one more id of every row; returns the hidden states that predict the next."""
    return transformer(ids[:, None], positions[:, None], cache, slots[:, None], limit)[:, 0]


@torch.inference_mode()
def draw_images(
    transformer: Transformer,
    vocabulary: Vocabulary,
    requests: Sequence[ImageRequest],
    grid: tuple[int, int],
    sampling: SamplingConfig,
) -> Iterator[Int[Tensor, " b"]]:
    """Draws one image for every request, sequentially.

    With guidance, the batch also holds each request without its condition; both halves read the same codes.

    Args:
        transformer: In eval mode.
        vocabulary: Its id table.
        requests: The rows of the batch.
        grid: (rows, columns) of codes.
        sampling: How ids are chosen.

    Yields:
        The next code of every image, row by row of the grid: rows x columns times.

    Raises:
        ValueError: A prompt leaves no room for the image, or the model's logits are not finite.
    """
    config, device = transformer.config, transformer.head.weight.device
    guided = sampling.guidance != 1
    sequences = [request.segments for request in requests] + [()] * (len(requests) if guided else 0)
    distinct = {id(segments): segments for segments in sequences}
    layouts = {key: open_image(segments, grid, vocabulary, config.positions) for key, segments in distinct.items()}
    opened = [layouts[id(segments)] for segments in sequences]
    prefixes = [prefix for prefix, _ in opened]
    num_codes = grid[0] * grid[1]
    longest = max(len(prefix.ids) for prefix in prefixes)
    if longest + num_codes > config.max_length:
        raise ValueError(
            f"a prompt of {longest} ids and an image of {num_codes} codes exceed the model's {config.max_length} ids: "
            "shorten the prompt"
        )
    lengths = torch.tensor([len(prefix.ids) for prefix in prefixes], device=device)
    places = torch.from_numpy(np.stack([places for _, places in opened])).to(device)
    seeds = torch.tensor([request.seed for request in requests], device=device)
    samples = torch.tensor([request.sample for request in requests], device=device)
    cache = transformer.new_cache(len(prefixes), longest + num_codes)
    hidden = prefill(transformer, prefixes, cache)

    for step in range(num_codes):
        if guided:
            hidden = guide(*hidden.chunk(2), sampling.guidance).type_as(hidden)
        logits = transformer.logits(hidden, vocabulary.image_block)
        if not bool(logits.isfinite().all()):
            raise ValueError(f"the model's logits for code {step} are not finite: its weights are damaged")
        drawn = draw(logits, sampling, seeds, samples, lengths[: len(requests)] + step, vocabulary.image_start)
        yield drawn - vocabulary.image_start
        if step < num_codes - 1:
            ids = drawn.repeat(2) if guided else drawn
            hidden = decode_one(transformer, ids, places[:, step], lengths + step, cache, longest + step + 1)
