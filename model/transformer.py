"""The decoder-only transformer: Qwen3's block, with rotary positions of two axes.

    ids -> embedding -> depth x [ norm, attention, norm, MLP ] -> norm -> hidden -> head -> logits

The head is a method of its own: who needs only the image rows of the vocabulary pays only for them.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from model.cache import Cache, LayerCache
from tokenizer.sequence import Positions

# cosines and sines of a batch's positions, each (b, 1, t, head_dim / 2)
Rotation = tuple[Float[Tensor, "b 1 t f"], Float[Tensor, "b 1 t f"]]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the transformer."""

    # width of the residual stream
    dim: int = 256
    # number of blocks
    depth: int = 6
    # query heads
    num_heads: int = 4
    # key and value heads; each serves num_heads / num_kv_heads query heads
    num_kv_heads: int = 2
    # channels of a head, a multiple of 4
    head_dim: int = 64
    # inner width of the MLP
    mlp_dim: int = 704
    # longest sequence, in ids
    max_length: int = 256
    # grid: rows and columns of images are two axes; line: ordinary rotary, which other engines read
    positions: Positions = "grid"
    # slowest rotary wavelength is about 2 pi times this, in positions
    rope_theta: float = 10_000.0
    # added to mean squares under the root
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 4:
            raise ValueError(f"head_dim {self.head_dim} is no multiple of 4: two axes of pairs share it")
        for name in ("dim", "depth", "num_kv_heads", "head_dim", "mlp_dim", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")


def rotation(positions: Int[Tensor, "b t 2"], config: ModelConfig) -> Rotation:
    """Cosines and sines for (row, column) positions.

    Frequencies alternate between row and column, so where both are equal, as in text or with `positions: line`, this
    is the one-dimensional rotary embedding.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", section 3.2.
    """
    half = config.head_dim // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / half
    axis = torch.arange(half, device=positions.device) % 2  # pair 0 turns with the row, pair 1 with the column, ...
    angles = positions[..., axis].float() * config.rope_theta**-exponents
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotate(x: Float[Tensor, "b n t e"], turn: Rotation) -> Float[Tensor, "b n t e"]:
    """Turns pairs of channels (i, i + head_dim / 2)."""
    cos, sin = turn
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).type_as(x)


class Linear(nn.Linear):
    """A linear map without bias, whose weights may be kept in fewer bits once they are trained."""

    scale: Tensor | None
    narrow: Tensor | None

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out, bias=False)
        self.register_buffer("scale", None)
        self.register_buffer("narrow", None, persistent=False)

    def forward(self, input: Float[Tensor, "*n i"], block: slice = slice(None)) -> Float[Tensor, "*n o"]:
        """input @ weight.T, or a block of its columns."""
        if _sums_pay(input):
            product = _multiply_by_sums(input, (self.weight if self.narrow is None else self.narrow)[block])
        else:
            product = F.linear(input, self.weight[block].to(input.dtype))
        return product if self.scale is None else (product * self.scale[block]).type_as(input)

    @torch.no_grad()
    def keep_narrow(self) -> None:
        """Keeps the weights in bf16 too, half as many bytes to read for few rows, unless that would round them."""
        narrow = self.weight.bfloat16()
        if self.weight.dtype == torch.float32 and torch.equal(narrow.float(), self.weight):
            self.narrow = narrow

    @torch.no_grad()
    def quantize(self) -> None:
        """Rounds each row of the weights to multiples of a 127th of its largest."""
        scale = self.weight.float().abs().amax(1).clamp_min(1e-30) / 127
        rounded = (self.weight.float() / scale[:, None]).round().to(torch.int8)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.scale = scale


# Bytes of weights that a CPU's caches may hold from one pass to the next; conversion then costs more than it saves.
_FITS_CACHES = 2**25


def _multiply_by_sums(x: Float[Tensor, "*n i"], weight: Real[Tensor, "o i"]) -> Float[Tensor, "*n o"]:
    rows = x.flatten(0, -2)
    # Where weights come from memory, two sums at once: one alone would wait for each of its additions.
    halves = weight.chunk(2 if len(rows) <= 2 and weight.numel() > _FITS_CACHES // 64 else 1)
    sums = [torch.cat([(half.float() * row).sum(-1) for half in halves]) for row in rows]
    return torch.stack(sums).reshape(*x.shape[:-1], -1)


def _sums_pay(x: Float[Tensor, "*n i"]) -> bool:
    """Whether products of these rows are better written as sums, which a compiler makes into loops over what is summed.

    Libraries are made for many rows: for two, products take three times as long as a CPU needs to read the weights.
    """
    compiled = torch.compiler.is_compiling() and not torch.is_grad_enabled()
    return compiled and x.device.type == "cpu" and x.numel() <= 8 * x.shape[-1]


class Attention(nn.Module):
    """Causal attention with grouped queries; each head's queries and keys are normalised before they are turned."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.query = Linear(config.dim, config.num_heads * config.head_dim)
        self.key = Linear(config.dim, config.num_kv_heads * config.head_dim)
        self.value = Linear(config.dim, config.num_kv_heads * config.head_dim)
        self.output = Linear(config.num_heads * config.head_dim, config.dim)
        self.query_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps)
        self.key_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        turn: Rotation,
        cache: LayerCache | None,
        slots: Int[Tensor, "b t"] | None,
        mask: Bool[Tensor, "b 1 t s"] | None,
    ) -> Float[Tensor, "b t d"]:
        b, t, _ = x.shape
        query = self.query_norm(self.query(x).view(b, t, self.num_heads, self.head_dim)).transpose(1, 2)
        key = self.key_norm(self.key(x).view(b, t, self.num_kv_heads, self.head_dim)).transpose(1, 2)
        value = self.value(x).view(b, t, self.num_kv_heads, self.head_dim)
        query, key = rotate(query, turn), rotate(key, turn)
        if cache is None:
            value = value.transpose(1, 2)
        else:
            assert slots is not None and mask is not None
            key, value = cache.update(key.transpose(1, 2), value, slots, mask.shape[-1])
        if mask is not None and _sums_pay(x):
            mixed = self._attend(query, key, value, mask)
        elif cache is None and _products_pay(x):
            mixed = self._attend_whole(query, key, value, mask)
        else:
            grouped = self.num_heads != self.num_kv_heads
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
            )
        return self.output(mixed.transpose(1, 2).reshape(b, t, -1))

    def _attend(
        self,
        query: Float[Tensor, "b n t e"],
        key: Float[Tensor, "b k s e"],
        value: Float[Tensor, "b k s e"],
        mask: Bool[Tensor, "b 1 t s"],
    ) -> Float[Tensor, "b n t e"]:
        """Scaled dot-product attention, written as sums."""
        query = query.unflatten(1, (self.num_kv_heads, -1))
        scores = (query.unsqueeze(-2) * key[:, :, None, None]).sum(-1) / math.sqrt(self.head_dim)
        shares = scores.masked_fill(~mask.unsqueeze(1), -math.inf).softmax(-1)
        return (shares.unsqueeze(-1) * value[:, :, None, None]).sum(-2).flatten(1, 2)

    def _attend_whole(
        self,
        query: Float[Tensor, "b n t e"],
        key: Float[Tensor, "b k t e"],
        value: Float[Tensor, "b k t e"],
        mask: Bool[Tensor, "b 1 t t"] | None,
    ) -> Float[Tensor, "b n t e"]:
        """Attention of whole sequences, causal without a mask, as two matrix products for each key head."""
        b, n, t, e = query.shape
        rows = query.reshape(b * self.num_kv_heads, -1, e)  # a key head's queries, one below another
        scores = torch.bmm(rows, key.flatten(0, 1).mT).view(b, n, t, t) / math.sqrt(e)
        if mask is None:
            mask = torch.ones(t, t, dtype=torch.bool, device=scores.device).tril()
        shares = scores.masked_fill(~mask, -math.inf).softmax(-1).view(len(rows), -1, t)
        return torch.bmm(shares, value.flatten(0, 1)).view(b, n, t, e)


def _products_pay(x: Tensor) -> bool:
    """Whether attention is sooner as products that keep all scores: the fused kernel has no bf16 products on a CPU."""
    bf16 = x.dtype == torch.bfloat16 or torch.is_autocast_enabled(x.device.type)
    return x.device.type == "cpu" and bf16 and torch.is_grad_enabled()


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer, "GLU Variants Improve Transformer"."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.dim, config.mlp_dim)
        self.up = Linear(config.dim, config.mlp_dim)
        self.down = Linear(config.mlp_dim, config.dim)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        turn: Rotation,
        cache: LayerCache | None,
        slots: Int[Tensor, "b t"] | None,
        mask: Bool[Tensor, "b 1 t s"] | None,
    ) -> Float[Tensor, "b t d"]:
        x = x + self.attention(self.attention_norm(x), turn, cache, slots, mask)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """ids with positions -> hidden states, normalised and ready for the head.

    Args:
        config: The shape.
        vocabulary_size: Number of ids, text and image together.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.head = Linear(config.dim, vocabulary_size)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # What adds to the residual stream starts small: 2 x depth such additions then keep its size.
                last = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.depth) if last else 0.02)

    def forward(
        self,
        ids: Int[Tensor, "b t"],
        positions: Int[Tensor, "b t 2"],
        cache: Cache | None = None,
        slots: Int[Tensor, "b t"] | None = None,
        limit: int | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Hidden states of a batch.

        Args:
            ids: Without a cache, whole sequences from their beginning, padded on the right.
            positions: Row and column of each id.
            cache: Where to keep keys and values; ids then continue what it holds.
            slots: With a cache: the index into its own sequence of each id.
            limit: With a cache: no slot at or past it is written or read in this call; the cache's length by default.
        """
        mask = None
        if cache is not None:
            assert slots is not None
            limit = cache.max_length if limit is None else limit
            mask = (torch.arange(limit, device=ids.device) <= slots[:, :, None]).unsqueeze(1)
        turn = rotation(positions, self.config)
        x = self.embedding(ids)
        for index, block in enumerate(self.blocks):
            x = block(x, turn, None if cache is None else cache.layers[index], slots, mask)
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "*n d"], block: slice = slice(None)) -> Float[Tensor, "*n v"]:
        """Logits of a block of ids, in fp32."""
        return self.head(hidden, block).float()

    def quantize(self) -> None:
        """Rounds all matrices but the embedding to 8 bits, for sampling where reading them is what takes the time."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.quantize()

    def keep_narrow(self) -> None:
        """Keeps a second copy of all matrices in bf16, where that is exact and reading them is what takes the time."""
        matrices = [module for module in self.modules() if isinstance(module, Linear)]
        if sum(module.weight.nbytes for module in matrices) > _FITS_CACHES:
            for module in matrices:
                module.keep_narrow()

    def new_cache(self, batch_size: int, max_length: int) -> Cache:
        """An empty cache for `batch_size` sequences of up to `max_length` ids."""
        config, weight = self.config, self.embedding.weight  # the head's may be rounded
        return Cache(
            config.depth, batch_size, config.num_kv_heads, max_length, config.head_dim, weight.device, weight.dtype
        )
