"""Cells: pieces of work that leave one file each, written whole or not at all, in a folder that remembers them.

A file's first line says what it is of; the others are what was found, one picture, setting or timing a line. Processes
that share a folder share the cells: each is claimed by a lock, which the system gives back when its holder dies.
"""

import fcntl
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.checkpoint import write_atomic
from runtime.config import load_config, save_config
from runtime.provenance import commit, machine
from study.plan import digest

Lines = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """A piece of work."""

    # of its file in the folder `cells`
    name: str
    # cells that have to be done before
    after: tuple[str, ...]
    # does it, and gives the lines of its file
    run: Callable[[], Lines]


class Cells(ABC):
    """The cells of a plan, and the folder that it names as `out`.

    Args:
        plan: What is to be done.
        tokenizer: Digest of the image tokenizer that it is done with.

    Raises:
        ValueError: The folder holds another plan's cells.
    """

    def __init__(self, plan: Any, tokenizer: str) -> None:
        self.folder, self.digest = Path(plan.out), digest(plan, tokenizer)
        held = self.folder / "plan.yaml"
        if not held.exists():
            save_config(plan, held)
        elif digest(load_config(type(plan), held), tokenizer) != self.digest:
            raise ValueError(f"{self.folder} holds cells of another plan: give this one another folder as `out`")

    @property
    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """All of them, in an order in which they can be done."""

    def path(self, name: str) -> Path:
        return self.folder / "cells" / f"{name}.jsonl"

    def done(self, name: str) -> bool:
        return self.path(name).exists()

    def read(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What a cell's file says it is of, and what was found.

        Raises:
            ValueError: It is of another plan.
        """
        first, *lines = (json.loads(line) for line in self.path(name).read_text().splitlines())
        if first["plan"] != self.digest:
            raise ValueError(f"{self.path(name)} is of another plan: remove it")
        return first, lines

    def run(self) -> None:
        """Does all cells that are not done, those that other processes do excepted, and waits for these."""
        cells = self.cells
        while missing := [cell for cell in cells if not self.done(cell.name)]:
            moved = False
            for cell in missing:
                if not all(map(self.done, cell.after)):
                    continue
                with self._claim(cell.name) as mine:
                    if mine and not self.done(cell.name):
                        self._do(cell)
                        moved = True
            if not moved:
                time.sleep(1)

    def _do(self, cell: Cell) -> None:
        started, made_by = time.perf_counter(), commit()
        print(f"{cell.name} ...", flush=True)
        lines = list(cell.run())
        seconds = round(time.perf_counter() - started, 1)
        first = {"cell": cell.name, "plan": self.digest, "commit": made_by, "machine": machine(), "seconds": seconds}
        text = "".join(json.dumps(line) + "\n" for line in (first, *lines))
        write_atomic(self.path(cell.name), lambda beside: beside.write_text(text))
        print(f"{cell.name}: {seconds} s", flush=True)

    @contextmanager
    def _claim(self, name: str) -> Iterator[bool]:
        """Whether nobody else is at a cell."""
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
