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

    @property
    def text(self) -> str:
        """The first caption."""
        return self.captions[0]


@runtime_checkable
class Source(Protocol):
    """Examples by index: reading one twice gives the same one, whatever was read before."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever any example changes: the key of everything cached about this source."""
        ...
