"""confusions.npz: the confusion matrix of each validation image; of ensembles, those of images that belong together added up."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_confusions(path: Path, confusions: NDArray[np.integer], *, ignore_classes: tuple[int, ...]) -> None:
    """Write the file atomically; its folder must exist.

    confusions: (V, C, C) counts below 2**31, rows true, columns predicted. ignore_classes: those that are not scored.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with open(scratch, "wb") as file:
        np.savez_compressed(file, confusions=confusions.astype(np.int32), ignore_classes=np.array(ignore_classes, np.int32))
    os.replace(scratch, path)


def read_confusions(path: Path) -> tuple[NDArray[np.integer], tuple[int, ...]]:
    """The matrices (V, C, C), and the classes that are not scored.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: the file is not there, or damaged.
    """
    with np.load(path, allow_pickle=False) as file:
        return file["confusions"], tuple(int(c) for c in file["ignore_classes"])
