"""DataSet, what loading makes of a source, and Split, its training and validation images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Indices of the training and the validation images, int64 and ascending."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]


@dataclass(frozen=True)
class DataSet:
    """Checked images and masks of one size; the arrays may be memory-mapped and must not be written to.

    images: (N, H, W, C) uint8, C 1 or 3; masks: (N, H, W) uint8, below num_classes or VOID; fingerprint: of the source's content,
    16 hexadecimal digits; source: its name in messages; split: fixed by lists, else None; groups: (N,) int64, equal for images
    that must stay together, None if they were not computed; removed: ascending positions in the source that cleaning removed.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    names: tuple[str, ...]
    num_classes: int
    class_names: tuple[str, ...]
    fingerprint: str
    source: str
    split: Split | None = None
    groups: NDArray[np.int64] | None = None
    removed: tuple[int, ...] = ()

    @property
    def positions(self) -> NDArray[np.int64]:
        """Position of each image in the source: (N,), ascending."""
        return np.delete(np.arange(len(self.names) + len(self.removed)), self.removed)
