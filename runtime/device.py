"""Where to compute, and how much fits there."""

import os
from pathlib import Path

import torch


def resolve_device(device: str | torch.device) -> torch.device:
    """`auto` becomes the first of CUDA, MPS and CPU that is there, and of several GPUs the one that is this process's;
    any other name is taken at its word.

    Raises:
        ValueError: No such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            rank = os.environ.get("LOCAL_RANK")  # set by torchrun and accelerate
            return torch.device("cuda") if rank is None else torch.device("cuda", int(rank))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(0, device=(resolved := torch.device(device)))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} can't be used here ({error}): try auto or cpu") from error
    return resolved


def multiplies_in_bf16(device: torch.device) -> bool:
    """Whether torch has more than a plain loop there for products of bf16 matrices. On a CPU with AVX2 at best it has
    not, and a training step took 55 times as long as in fp32 (EPYC 7003, torch 2.13)."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2"


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where nobody can tell."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    info = Path("/proc/meminfo")
    if device.type == "cpu" and info.exists():
        sizes = dict(line.split(":", 1) for line in info.read_text().splitlines())
        return int(sizes["MemAvailable"].split()[0]) * 1024
    return None
