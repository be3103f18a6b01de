"""Models of either kind, to be judged alike."""

import json
from pathlib import Path
from typing import Any


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
