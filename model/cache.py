"""The keys and values of what has been read: allocated once, written in place."""

from copy import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LayerCache:
    """One layer's keys and values, `num_kv_heads` of them (not `num_heads`: queries share)."""

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._rows = torch.arange(shape[0], device=device)[:, None]

    def update(
        self, keys: Float[Tensor, "b t k e"], values: Float[Tensor, "b t k e"], slots: Int[Tensor, "b t"], limit: int
    ) -> tuple[Tensor, Tensor]:
        """Writes keys and values at each row's own slots; returns all up to slot `limit`, heads first."""
        self.keys[self._rows, :, slots] = keys
        self.values[self._rows, :, slots] = values
        return self.keys[:, :, :limit], self.values[:, :, :limit]

    def first(self, batch_size: int) -> "LayerCache":
        """The same memory of the first sequences only."""
        part = copy(self)
        part.keys, part.values, part._rows = self.keys[:batch_size], self.values[:batch_size], self._rows[:batch_size]
        return part


class Cache:
    """One cache for each layer of a transformer.

    Rows of a batch are independent: each writes at slots of its own, so prompts of different lengths need no padding on
    the left, and a slot that a row has not reached yet is hidden by the mask.

    Args:
        num_layers, batch_size, num_kv_heads, max_length, head_dim: The sizes; a slot is an index into the sequence.
        device, dtype: Where and in which precision.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch_size, num_kv_heads, max_length, head_dim)
        self.layers = [LayerCache(shape, device, dtype) for _ in range(num_layers)]
        self.max_length = max_length

    def first(self, batch_size: int) -> "Cache":
        """The same memory of the first sequences only."""
        part = copy(self)
        part.layers = [layer.first(batch_size) for layer in self.layers]
        return part

    def spread(self, other: "Cache", rows: Int[Tensor, " b"]) -> None:
        """Begins each sequence as one of another cache's, which `rows` names."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.keys[:, :, : other.max_length] = theirs.keys[rows]
            mine.values[:, :, : other.max_length] = theirs.values[rows]


class Memory:
    """What has been read of one growing sequence, kept from one turn of a conversation to the next.

    Args:
        cache: For one sequence, as long as the model allows.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        # whose keys and values the cache holds, from slot 0 on
        self.ids: Int[Tensor, " n"] = torch.zeros(0, dtype=torch.long)

    def known(self, ids: Int[Tensor, " t"]) -> int:
        """How many of a sequence's first ids need not be read again; the last of all always is, for what follows it."""
        count = min(len(self.ids), len(ids) - 1)
        different = (self.ids[:count] != ids[:count].cpu()).nonzero()
        return int(different[0]) if len(different) else count

    def recall(self, cache: Cache, length: int) -> None:
        """Puts the first slots into another cache's first sequence."""
        for mine, other in zip(self.cache.layers, cache.layers, strict=True):
            other.keys[0, :, :length] = mine.keys[0, :, :length]
            other.values[0, :, :length] = mine.values[0, :, :length]

    def keep(self, cache: Cache, ids: Int[Tensor, " t"]) -> None:
        """Keeps what a cache holds of its first sequence, which begins with these ids."""
        for mine, other in zip(self.cache.layers, cache.layers, strict=True):
            mine.keys[0, :, : len(ids)] = other.keys[0, :, : len(ids)]
            mine.values[0, :, : len(ids)] = other.values[0, :, : len(ids)]
        self.ids = ids.cpu().clone()
