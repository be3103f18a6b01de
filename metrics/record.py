"""Measured figures on disk, with all that is needed to measure them again."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from runtime.checkpoint import write_atomic

RESULTS = Path("docs/results")


def record(path: Path, figures: dict[str, Any], seed: int, config: dict[str, Any], seconds: float) -> None:
    """Writes figures as JSON beside the command, seed, config, commit and machine that gave them.

    Args:
        path: The file, by custom in `docs/results/`.
        figures: What was measured.
        seed: Start of all randomness.
        config: Settings and data that the figures depend on.
        seconds: What the measurement took.
    """
    arguments = " ".join(shlex.quote(argument) for argument in sys.argv[1:])
    content = {
        "figures": figures,
        "command": f"python -m {_module()} {arguments}".strip(),
        "seed": seed,
        "config": config,
        "commit": commit(),
        "machine": machine(),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomic(path, lambda beside: beside.write_text(json.dumps(content, indent=2) + "\n"))


def machine() -> dict[str, Any]:
    """What it ran on: processor, cores, accelerator and the versions that matter."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).stem


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit that is checked out; `+` says that files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
