"""Compiled passes, for who draws many pictures: the first of each kind waits for the compiler.

Everything that a pass touches keeps its shape, or it would be compiled again: sequences are as long as the model
allows, windows always whole, and batches padded to the next power of two.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.generate import Session, step
from model.request import ImageRequest

Run = Callable[[Session, int, int], None]


class Engine:
    """Runs the passes of one model compiled; on CUDA a pass is one graph that the host launches at once.

    A CUDA graph works on tensors of its own, so a session is copied into those of a kept one, which is lent to one
    drawing at a time.
    """

    KEPT = 4  # sessions kept while nobody uses them

    def __init__(self) -> None:
        self._steps: dict[Any, Callable[..., None]] = {}
        self._idle: list[_Kept] = []

    def pad(self, requests: Sequence[ImageRequest]) -> list[ImageRequest]:
        """The requests, with copies of the last up to a power of two."""
        missing = (1 << (len(requests) - 1).bit_length()) - len(requests)
        return [*requests, *[requests[-1]] * missing]

    @contextmanager
    def take(self, fresh: Session, run: Any, window: int) -> Iterator[tuple[Session, Run]]:
        """Lends a session that starts as `fresh`, and what makes a pass of it, with guidance or without.

        Args:
            fresh: Where drawing starts.
            run: `step` with its first arguments, always of the same model.
            window: Of every pass.
        """
        shapes = [tuple(tensor.shape) for tensor in _tensors(fresh)]
        key = (window, *shapes, *(part for part in fresh.choice.settings if not isinstance(part, Tensor)))

        def compiled(session: Session, width: int, limit: int) -> None:
            kind = len(session.streams.ids), key
            if kind not in self._steps:
                self._steps[kind] = _compile()
            self._steps[kind](*run.args, session, width, limit)

        if not fresh.counts.is_cuda:
            yield fresh, compiled
            return
        found = next((kept for kept in self._idle if kept.key == key), None)
        if found is None:
            found = _Kept(key, fresh, {})
        else:
            self._idle.remove(found)
            for kept, given in zip(_tensors(found.session), _tensors(fresh), strict=True):
                kept.copy_(given)

        def replay(session: Session, width: int, limit: int) -> None:
            streams = len(session.streams.ids)
            if streams not in found.graphs:
                found.graphs[streams] = _capture(session, compiled, window)
            found.graphs[streams].replay()

        try:
            yield found.session, replay
        finally:
            self._idle = [*self._idle, found][-self.KEPT :]


class _Kept(NamedTuple):
    """A session whose memory graphs work on; one graph for each number of streams that it has on its way."""

    key: Any
    session: Session
    graphs: dict[int, torch.cuda.CUDAGraph]


def _compile() -> Callable[..., None]:
    """`step`, compiled for the one kind of call that the caller makes of it.

    torch.compile keeps what it compiled with a function's code, looks through all of it at each call, and checks for
    each what it depends on, weights included: half a millisecond. Here every kind of call has code of its own, and
    nothing is checked.
    """
    own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__)
    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def _capture(session: Session, run: Run, window: int) -> torch.cuda.CUDAGraph:
    """A graph of one pass; what the tensors held that it works on is restored."""
    held = [tensor.clone() for tensor in _tensors(session)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, and allocates what is allocated once
            run(session, window, session.cache.max_length)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(session, window, session.cache.max_length)
    for tensor, content in zip(_tensors(session), held, strict=True):
        tensor.copy_(content)
    return graph


def _tensors(session: Session) -> list[Tensor]:
    """Everything that differs from one drawing to the next. The cache is not read before it is written."""
    choice = session.choice
    parts = (*session.streams, *choice.settings, *choice[1:], *choice.guided, *choice.weights)
    parts += session.counts, session.broken
    return [part for part in parts if isinstance(part, Tensor)]
