"""The one type that every source of data returns, and what a source is."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Example:
    """A picture, one or more captions of it and whatever else its source knows."""

    image: UInt8[np.ndarray, "height width 3"]
    captions: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    # each question about the picture with its answer; many sources know none
    questions: tuple[tuple[str, str], ...] = ()
    edit: "Edit | None" = None

    @property
    def text(self) -> str:
        """The first caption."""
        return self.captions[0]


@dataclass(frozen=True)
class Edit:
    """An instruction to change a picture, and the example that following it gives."""

    instruction: str
    result: Example


@runtime_checkable
class Source(Protocol):
    """Examples by index: reading one twice gives the same one, whatever was read before."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever any example changes: the key of everything cached about this source."""
        ...
