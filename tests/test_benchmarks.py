"""What the benchmarks compare with is what they say it is."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.decode import bytes_a_pass, exported, load


def test_an_exported_transformer_is_the_same_function(tiny_transformer: Callable):
    pytest.importorskip("transformers")
    ours = tiny_transformer(400, positions="line", rope_theta=500.0)
    ids = torch.randint(0, 400, (2, 12), generator=torch.Generator().manual_seed(0))
    line = torch.arange(12)[None, :, None].expand(2, -1, 2)
    with torch.no_grad():
        expected = ours.logits(ours(ids, line))
        torch.testing.assert_close(exported(ours)(ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_pass_of_random_weights_reads_them_in_two_bytes_and_the_cache_in_four():
    plantain = load("111M", "2x2", "cpu")
    matrices = 12 * (4 * 768 * 768 + 3 * 768 * 2048) + 15_360 * 768
    cache = 3 * 12 * 2 * 12 * 68 * 64 * 4  # streams, layers, keys and values, heads, slots, channels, bytes
    norms = 12 * (2 * 768 + 2 * 64) * 2
    assert bytes_a_pass(plantain, 3) == 2 * matrices + norms + cache
