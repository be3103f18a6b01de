"""Measured figures on disk, with all that is needed to measure them again."""

import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.checkpoint import write_atomic
from runtime.provenance import commit, machine

RESULTS = Path("docs/results")

# Taken at the start: a long measurement must not be credited to a commit that was made while it ran.
_COMMIT = commit()


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
        "commit": _COMMIT,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomic(path, lambda beside: beside.write_text(json.dumps(content, indent=2) + "\n"))


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).stem
