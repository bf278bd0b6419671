"""Source, the protocol of everything that images are read from, and LabelledImage, what it yields."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelledImage:
    """An image and its mask as the source holds them.

    place: its name in messages (a file, or a source and a number); image: (H, W) or (H, W, 3) uint8;
    mask: (H, W) of any integer type, holding the ids of the source.
    """

    place: str
    image: NDArray[np.uint8]
    mask: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class NamedSplit:
    """A split fixed by lists: the names of the images of each side, and the name of the lists in messages."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    place: str


class Source(Protocol):
    """Where images come from. The same content at another place gives the same fingerprint and the same images."""

    place: str
    """Its name in messages."""
    class_names: tuple[str, ...]
    """Empty if the source does not know them."""

    def signature(self) -> str | None:
        """Cheap text that changes with any file of the source; None if the fingerprint itself is cheap."""

    def fingerprint(self) -> str:
        """Hash of the content: 16 hexadecimal digits."""

    def names(self) -> tuple[str, ...]:
        """Names of the images, in order; never empty."""

    def num_channels(self) -> int:
        """3 if any image has colour, otherwise 1."""

    def read(self) -> Iterator[LabelledImage]:
        """Yield the images with their masks in the order of ``names``."""
