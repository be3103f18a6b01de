"""What a picture costs: parameters, operations, forward passes, time and memory, of either contender.

Operations are multiplications and additions, each counted, as torch's own counter does; norms, rotations, activations
and the drawing of ids are left out. tests/test_cost.py compares them with that counter.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from diffusion.flow import FlowSampling, num_passes
from diffusion.network import flops
from model.request import ImageRequest
from model.sampling import SamplingConfig
from model.transformer import ModelConfig
from tokenizer.vocabulary import Vocabulary


def parameters(network: nn.Module) -> dict[str, int]:
    """Parameters of each of a network's parts, by the first word of their names."""
    counts: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    return counts


def num_guided(sampling: SamplingConfig, num_codes: int) -> int:
    """Codes of a picture that need the sequence without its prompt too."""
    return ImageRequest((), (1, num_codes), sampling, 0, 0).num_guided


def passes_of_codes(sampling: SamplingConfig, num_codes: int) -> int:
    """Forward passes of a picture drawn code by code, beside those that read the prompts."""
    return num_codes + num_guided(sampling, num_codes)


def flops_of_codes(
    config: ModelConfig, vocabulary: Vocabulary, prefix: int, free: int, num_codes: int, sampling: SamplingConfig
) -> int:
    """Operations of one picture drawn code by code with a cache.

    Args:
        config, vocabulary: Of the autoregressive model.
        prefix: Ids before the first code, with the prompt.
        free: The same without the prompt.
        num_codes: Of the picture.
        sampling: With guidance, what is guided is read twice; the head is asked once.
    """
    inner, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    matrices = config.dim * (2 * inner + 2 * kv + 3 * config.mlp_dim)

    def read(before: int, count: int) -> int:
        """All but the last id of the prefix at once, then one id at a time, each beside those that came before it."""
        seen = (before - 1) ** 2 + sum(range(before, before + count))
        return 2 * config.depth * ((before - 1 + count) * matrices + 2 * inner * seen)

    guided = num_guided(sampling, num_codes)
    head = 2 * num_codes * config.dim * vocabulary.codebook_size
    return read(prefix, num_codes) + (read(free, guided) if guided else 0) + head


def flops_of_flow(
    config: ModelConfig,
    mlp_dim: int,
    latent_dim: int,
    length: int,
    free: int,
    num_places: int,
    sampling: FlowSampling,
) -> int:
    """Operations of one picture drawn by following a flow.

    Args:
        config, mlp_dim, latent_dim: Of the twin.
        length, free: Ids of a whole sequence, with its prompt and without.
        num_places: Latents of the picture.
        sampling: Its passes are counted.
    """
    alone = num_passes(FlowSampling(1.0, num_steps=sampling.num_steps, solver=sampling.solver))
    if sampling.guidance == 0 and sampling.guidance_from == 0 and sampling.guidance_until == 1:
        return alone * flops(config, mlp_dim, free, num_places, 2 * latent_dim)
    told = alone * flops(config, mlp_dim, length, num_places, 2 * latent_dim)
    return told + (num_passes(sampling) - alone) * flops(config, mlp_dim, free, num_places, 2 * latent_dim)


def cache_bytes(config: ModelConfig, length: int, width: int) -> int:
    """Bytes of the keys and values of one sequence of `length` ids, of `width` bytes a number."""
    return 2 * config.depth * config.num_kv_heads * config.head_dim * length * width


def timings(
    ways: Mapping[str, Callable[[], Any]], num_timings: int, device: torch.device, seconds: float = np.inf
) -> dict[str, list[float]]:
    """Seconds of each way, taken in turns, so that what slows the machine for a while slows all of them.

    Args:
        ways: What is timed, by name; each runs once before that does not count.
        num_timings: How often each is timed, at most.
        device: What has to be waited for.
        seconds: No further round begins after so many; each way is timed twice at least.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    begun = time.perf_counter()
    for number in range(num_timings):
        if number >= 2 and time.perf_counter() - begun > seconds:
            break
        for name, run in ways.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            found[name].append(time.perf_counter() - started)
    return found


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """The most memory that a run held on a GPU; None elsewhere, where nobody counts it."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    _wait(device)
    return torch.cuda.max_memory_allocated(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
