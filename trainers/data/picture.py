"""What a source of data hands over, picture by picture, before dataset.py checks it and brings it to one form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """One picture as it was found.

    place: what messages call it (a file, or a source and a number); image: (H, W) or (H, W, 3) uint8;
    mask: (H, W) of any integer type, holding the ids of the source.
    """

    place: str
    image: NDArray[np.uint8]
    mask: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class NamedSplit:
    """A split fixed by lists: names of the pictures of each side, and how messages call the lists."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    place: str


class Source(Protocol):
    """Where pictures come from. The same content at another place gives the same fingerprint and the same pictures."""

    @property
    def place(self) -> str:
        """What messages call the source."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty where the source does not know them."""

    def signature(self) -> str | None:
        """Cheap text that changes with any file of the source; None where the fingerprint itself is cheap."""

    def fingerprint(self) -> str:
        """Hash of the content: 16 hexadecimal digits."""

    def names(self) -> tuple[str, ...]:
        """Names of the pictures, in their order; never empty."""

    def num_channels(self) -> int:
        """3 where any picture has colour, otherwise 1."""

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures in the order of ``names``."""

    def split(self) -> NamedSplit | None:
        """Return the split that the source's lists fix."""
