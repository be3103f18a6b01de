"""Models of either kind, to be judged alike, by one process or several."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def open_model(name: str | Path, device: str = "auto") -> Any:
    """A Plantain or its diffusion twin, whichever a checkpoint folder holds; a hub id is a Plantain's.

    Raises:
        FileNotFoundError: There is no such folder or hub id, or a file is missing.
        ValueError: The folder holds something else.
    """
    from diffusion.twin import MODEL_TYPE, Twin
    from model import Plantain

    config = Path(name) / "config.json"
    if config.is_file() and json.loads(config.read_text()).get("model_type") == MODEL_TYPE:
        return Twin.from_pretrained(name, device)
    return Plantain.from_pretrained(name, device)


def drawn(model: Any, prompts: Sequence[str], seed: int, size: tuple[int, int]) -> np.ndarray | None:
    """A picture of each prompt, uint8 (n, H, W, 3), each with noise of its own.

    Processes that `accelerate launch` has started share the work, and the first gets all the pictures; the others None.
    They are the same however many there are, since a picture does not depend on its company.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=model.device.type == "cpu")
    mine = range(state.process_index, len(prompts), state.num_processes)
    texts = [prompts[place] for place in mine]
    pixels = list(map(np.asarray, model.generate(texts, seed=seed, first=mine, size=size).images)) if texts else []
    if state.num_processes == 1:
        return np.stack(pixels)
    parts: list[Any] = gather_object([pixels])
    if not state.is_main_process:
        return None
    return np.stack([parts[place % state.num_processes][place // state.num_processes] for place in range(len(prompts))])
