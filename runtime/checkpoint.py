"""Folders of weights: `config.json` beside `model.safetensors`, written whole or not at all, never unpickled.

Large weights may be divided into files that an index lists, as everywhere on the Hugging Face hub.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file or folder beside `path`, then renames it to `path`; on any failure `path` stays as it
    was.

    Raises:
        OSError: The disk is full, or the place can't be written; the message says which file is still good.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        if beside.is_dir() and path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            try:
                beside.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            beside.replace(path)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True) if beside.is_dir() else beside.unlink(missing_ok=True)
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC or "No space left" in str(error)
        if full:
            kept = "what was there before is untouched" if path.exists() else "nothing was written"
            raise OSError(
                errno.ENOSPC, f"no space left while saving {path}: {kept}; free some space and try again"
            ) from error
        raise


def save_folder(
    folder: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    texts: Mapping[str, str] | None = None,
    max_shard_size: int | None = None,
) -> None:
    """Writes a checkpoint folder.

    Args:
        folder: Its place; replaced whole if it exists.
        config: Goes to `config.json`.
        weights: Go to `model.safetensors`.
        texts: Further files by name.
        max_shard_size: Bytes of weights in one file, if they are to be divided into several.
    """
    from huggingface_hub import save_torch_state_dict

    def write(beside: Path) -> None:
        beside.mkdir()
        (beside / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        for name, text in (texts or {}).items():
            (beside / name).write_text(text)
        own = {name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}
        save_torch_state_dict(own, beside, max_shard_size=max_shard_size or sys.maxsize)
        for path in beside.glob("*.safetensors"):
            path.chmod((beside / CONFIG).stat().st_mode)  # safetensors ignores the umask

    write_atomic(Path(folder), write)


def load_folder(folder: Path, files: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a checkpoint folder.

    Args:
        folder: Its place.
        files: Names of further files that must be there.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A file is truncated or no checkpoint.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder at {folder}: check the path, or train one with train.py")
    try:
        shards = [WEIGHTS]
        if (folder / INDEX).is_file():
            shards = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        for name in (CONFIG, *shards, *files):
            if not (folder / name).is_file():
                found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
                raise FileNotFoundError(f"{folder} is no complete checkpoint: {name} is missing (found {found})")
        weights = {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()}
        return json.loads((folder / CONFIG).read_text()), weights
    except FileNotFoundError:
        raise
    except Exception as error:  # json and safetensors have exceptions of their own
        raise ValueError(
            f"{folder} holds a truncated or foreign checkpoint ({error}): copy or train it again"
        ) from error


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], folder: Path, prefix: str = "") -> None:
    """Gives a module its weights, those whose names begin with `prefix`.

    Raises:
        ValueError: One is missing, of another shape or not the module's.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"{folder}: weights and config.json do not belong together ({error})") from error


def digest(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """A name for exactly these weights under this config: the first 16 hexadecimal digits of their SHA-256."""
    sha = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].detach().cpu().contiguous().float().numpy().tobytes())
    return sha.hexdigest()[:16]
