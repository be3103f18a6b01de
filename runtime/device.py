"""Where to compute."""

import torch


def resolve_device(device: str | torch.device) -> torch.device:
    """`auto` becomes the first of CUDA, MPS and CPU that is there; any other name is taken at its word.

    Raises:
        ValueError: No such device here.
    """
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        torch.zeros(0, device=(resolved := torch.device(device)))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} can't be used here ({error}): try auto or cpu") from error
    return resolved
