"""The transformer computes what its formulas say, with and without a cache, and sees what it should."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.cache import Cache
from model.generate import prefill, read
from model.request import ImageRequest
from model.sampling import SamplingConfig
from model.streams import open_streams
from model.transformer import ModelConfig, Transformer, rotate, rotation
from tokenizer.sequence import ImageSegment, TextSegment, pack
from tokenizer.vocabulary import TEXT_START, Vocabulary

VOCABULARY = Vocabulary(num_text=256, codebook_size=10)
GRID = (2, 3)


def random_text(length: int, seed: int = 0) -> TextSegment:
    rng = np.random.default_rng((seed, length))
    return TextSegment((TEXT_START + rng.integers(256, size=length)).tolist())


def tensors(packed) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(packed.ids)[None], torch.from_numpy(packed.positions)[None]


def whole(seed: int, length: int, positions) -> tuple[torch.Tensor, torch.Tensor]:
    codes = np.random.default_rng(seed).integers(10, size=GRID)
    return tensors(pack([random_text(length, seed), ImageSegment(codes)], VOCABULARY, positions))


@pytest.mark.parametrize("positions", ["grid", "line"])
@torch.no_grad()
def test_cached_logits_equal_uncached_ones_in_rows_of_different_lengths(tiny_transformer: Callable, positions):
    transformer: Transformer = tiny_transformer(VOCABULARY.size, positions=positions)
    texts = [random_text(length) for length in (1, 9, 4)] + [TextSegment([])]
    codes = torch.from_numpy(np.random.default_rng(1).integers(10, size=(4, 6)))
    requests = [ImageRequest([text], GRID, SamplingConfig(), 0, 0) for text in texts]
    streams = open_streams(requests, VOCABULARY, positions, torch.device("cpu"), padding=0)
    lengths = streams.last + 1
    streams.ids.scatter_(1, lengths[:, None] + torch.arange(6), codes + VOCABULARY.image_start)
    cache = transformer.new_cache(*streams.ids.shape)
    prefill(transformer, streams, cache)
    slots = [(streams.last + step)[:, None] for step in range(6)]
    hidden = [read(transformer, streams, slot, cache, int(slot.max()) + 1)[:, 0] for slot in slots]
    cached = transformer.logits(torch.stack(hidden, dim=1))
    for row, text in enumerate(texts):
        picture = ImageSegment(codes[row].view(GRID).numpy())
        packed = pack([text, picture], VOCABULARY, positions)
        uncached = transformer.logits(transformer(*tensors(packed)))[0]
        start = int(lengths[row]) - 1
        torch.testing.assert_close(cached[row], uncached[start : start + 6], atol=1e-5, rtol=1e-5)
    assert cached.std() > 0.5  # else everything would be equal anyway


@torch.no_grad()
def test_what_unreached_cache_slots_hold_does_not_matter(tiny_transformer: Callable):
    transformer: Transformer = tiny_transformer(VOCABULARY.size)
    ids, positions = whole(0, 5, "grid")
    results = []
    for garbage in (0.0, 1e4):
        cache = transformer.new_cache(1, 40)
        for layer in cache.layers:
            layer.keys.fill_(garbage)
            layer.values.fill_(-garbage)
        slots = torch.arange(ids.shape[1])[None]
        first = transformer(ids[:, :7], positions[:, :7], cache, slots[:, :7])
        rest = transformer(ids[:, 7:], positions[:, 7:], cache, slots[:, 7:])
        results.append(torch.cat([first, rest], dim=1))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(results[0], transformer(ids, positions), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_changing_an_id_changes_logits_from_there_on_and_none_before(tiny_transformer: Callable):
    transformer: Transformer = tiny_transformer(VOCABULARY.size)
    ids, positions = whole(0, 5, "grid")
    before = transformer.logits(transformer(ids, positions))
    for index in range(ids.shape[1]):
        other = ids.clone()
        other[0, index] = TEXT_START + 200 if index != 3 else TEXT_START + 201
        assert other[0, index] != ids[0, index]
        after = transformer.logits(transformer(other, positions))
        assert torch.equal(after[:, :index], before[:, :index])
        changed = (after[:, index:] - before[:, index:]).abs().amax(-1)
        assert (changed > 1e-4).all()  # every later place sees it, not only its own


def test_line_positions_are_one_dimensional_rotary_embedding():
    """Against RoFormer's equation 34 with complex numbers: pair i of place p turns by p * theta^(-2i / head_dim)."""
    config = ModelConfig(head_dim=16, rope_theta=100.0)
    x = torch.randn(2, 3, 7, 16, generator=torch.Generator().manual_seed(0))
    line = torch.arange(7)[None, :, None].expand(2, 7, 2)
    pairs = torch.complex(x[..., :8].double(), x[..., 8:].double())
    for place in range(7):
        for pair in range(8):
            pairs[:, :, place, pair] *= torch.exp(torch.tensor(1j * place * 100.0 ** (-2 * pair / 16)))
    torch.testing.assert_close(rotate(x, rotation(line, config)), torch.cat([pairs.real, pairs.imag], -1).float())


def test_grid_positions_turn_even_pairs_by_the_row_and_odd_ones_by_the_column():
    config = ModelConfig(head_dim=16, rope_theta=100.0)
    x = torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(0))
    still, row, column = (
        rotate(x, rotation(torch.tensor([[place]]), config))[0, 0, 0].view(2, 8) for place in ((0, 0), (3, 0), (0, 3))
    )
    assert torch.equal(still.flatten(), x.flatten())
    assert torch.equal(row[:, 1::2], still[:, 1::2]) and torch.equal(column[:, ::2], still[:, ::2])
    assert (row[:, ::2] != still[:, ::2]).all() and (column[:, 1::2] != still[:, 1::2]).all()


@torch.no_grad()
def test_only_differences_of_positions_matter(tiny_transformer: Callable):
    transformer: Transformer = tiny_transformer(VOCABULARY.size)
    ids, positions = whole(0, 5, "grid")
    torch.testing.assert_close(transformer(ids, positions + 13), transformer(ids, positions), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["grid", "line"])
@torch.no_grad()
def test_the_picture_sees_the_order_of_the_text(tiny_transformer: Callable, positions):
    transformer: Transformer = tiny_transformer(VOCABULARY.size, positions=positions)
    text = list(random_text(6).ids)
    codes = ImageSegment(np.zeros(GRID, dtype=np.int64))
    logits = []
    for order in (text, text[::-1], [text[1], text[0], *text[2:]]):
        packed = pack([TextSegment(order), codes], VOCABULARY, positions)
        hidden = transformer(*tensors(packed))[0, packed.is_image]
        logits.append(transformer.logits(hidden, VOCABULARY.image_block))
    assert (logits[1] - logits[0]).abs().amax(-1).min() > 1e-3
    assert (logits[2] - logits[0]).abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_rows_and_columns_are_different_directions(tiny_transformer: Callable):
    transformer: Transformer = tiny_transformer(VOCABULARY.size)
    ids, positions = whole(0, 5, "grid")
    hidden, swapped = transformer(ids, positions), transformer(ids, positions.flip(-1))
    first = int((ids[0] >= VOCABULARY.image_start).nonzero()[0])
    assert torch.equal(swapped[:, : first + 1], hidden[:, : first + 1])  # both axes are equal up to here
    assert (swapped - hidden)[:, first + 1 :].abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_hidden_states_are_what_the_formulas_say(tiny_transformer: Callable):
    """A second implementation, head by head and place by place."""
    transformer: Transformer = tiny_transformer(VOCABULARY.size, positions="line")
    ids, positions = whole(3, 4, "line")

    def norm(x: torch.Tensor, layer: torch.nn.RMSNorm) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight

    def turned(x: torch.Tensor, place: int) -> torch.Tensor:
        angles = place * 100.0 ** (-torch.arange(4) / 4)
        a, b = x[:4], x[4:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()])

    x = transformer.embedding.weight[ids[0]]
    for block in transformer.blocks:
        attention, mlp = block.attention, block.mlp
        y = norm(x, block.attention_norm)
        mixed = torch.zeros(len(x), 4, 8)
        for head in range(4):
            shared = head // 2  # two query heads for each key head
            queries = norm(y @ attention.query.weight[8 * head : 8 * head + 8].T, attention.query_norm)
            keys = norm(y @ attention.key.weight[8 * shared : 8 * shared + 8].T, attention.key_norm)
            values = y @ attention.value.weight[8 * shared : 8 * shared + 8].T
            for i in range(len(x)):
                scores = torch.stack([turned(queries[i], i) @ turned(keys[j], j) for j in range(i + 1)]) / 8**0.5
                mixed[i, head] = scores.softmax(0) @ values[: i + 1]
        x = x + mixed.flatten(1) @ attention.output.weight.T
        y = norm(x, block.mlp_norm)
        x = x + (F.silu(y @ mlp.gate.weight.T) * (y @ mlp.up.weight.T)) @ mlp.down.weight.T
    torch.testing.assert_close(transformer(ids, positions)[0], norm(x, transformer.norm), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_image_head_is_the_slice_of_the_whole_head(tiny_transformer: Callable):
    transformer: Transformer = tiny_transformer(VOCABULARY.size)
    hidden = transformer(*whole(0, 5, "grid"))
    logits = transformer.logits(hidden)
    assert logits.shape[-1] == VOCABULARY.size and logits.dtype == torch.float32
    for block in (VOCABULARY.image_block, VOCABULARY.text_block):
        torch.testing.assert_close(transformer.logits(hidden, block), logits[..., block], atol=1e-5, rtol=1e-5)
    assert transformer.bfloat16().logits(hidden.bfloat16()).dtype == torch.float32


def test_the_cache_is_sized_by_key_heads(tiny_transformer: Callable):
    transformer: Transformer = tiny_transformer(VOCABULARY.size, num_kv_heads=1)
    cache: Cache = transformer.new_cache(3, 20)
    assert len(cache.layers) == 2
    for layer in cache.layers:
        assert layer.keys.shape == layer.values.shape == (3, 1, 20, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads 4 is no multiple of num_kv_heads 3"),
        ({"head_dim": 6}, "head_dim 6 is no multiple of 4"),
        ({"depth": 0}, "depth is 0"),
        ({"max_length": -1}, "max_length is -1"),
    ],
)
def test_a_shape_that_can_not_be_is_refused(changes: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes)


@torch.no_grad()
def test_weights_in_8_bits_are_a_quarter_and_give_nearly_the_same_logits(tiny_transformer: Callable):
    whole, rounded = (tiny_transformer(400, seed=1) for _ in range(2))
    rounded.quantize()
    ids, places = torch.arange(20).view(2, 10), torch.zeros(2, 10, 2, dtype=torch.long)
    for block in (slice(None), slice(100, 200)):
        expected, found = (model.logits(model(ids, places), block) for model in (whole, rounded))
        error = float((found - expected).norm() / expected.norm())
        assert 1e-4 < error < 0.05
    sizes = [sum(part.nbytes for part in model.blocks.parameters() if part.ndim == 2) for model in (whole, rounded)]
    assert sizes[0] == 4 * sizes[1]


def test_attention_by_whole_products_is_the_same_attention(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(dim=64, depth=2, num_heads=6, num_kv_heads=2, head_dim=16, mlp_dim=64), 50)
    ids, positions = torch.randint(50, (3, 20)), torch.arange(20)[None, :, None].expand(3, 20, 2)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        hidden = model(ids, positions)
        hidden.float().pow(3).mean().backward()
        gradient = model.blocks[0].attention.query.weight.grad
        assert gradient is not None
        return hidden.detach().float(), gradient

    fused = both()
    monkeypatch.setattr("model.transformer._products_pay", lambda x: True)
    for whole, expected in zip(both(), fused, strict=True):
        torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)
    monkeypatch.undo()
    with torch.autocast("cpu", torch.bfloat16):  # where it is what training takes
        torch.testing.assert_close(both()[0], fused[0], atol=0.1, rtol=0.05)
