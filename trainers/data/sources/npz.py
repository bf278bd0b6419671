"""Source: a .npz with ``training_set`` (N, 2, H, W), like the homework's file."""

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from trainers.data.sources.base import LabelledImage
from trainers.errors import DataError

KEY = "training_set"
_ALLOWED = f"Allowed: key {KEY!r}, shape (N, 2, H, W): [:, 0] gray images, [:, 1] label ids, whole numbers from 0 to 255"


class NpzSource:
    """Images of a .npz file, read when first needed. The fingerprint covers the decoded arrays, not the file's bytes."""

    class_names: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.place, self._path = str(path), path

    def signature(self) -> str:
        """Path, size and modification time."""
        status = self._path.stat()
        return f"{self._path.resolve()} {status.st_size} {status.st_mtime_ns}"

    def fingerprint(self) -> str:
        header = f"npz {self._tiles.shape}".encode()
        return hashlib.sha256(header + np.ascontiguousarray(self._tiles).data).hexdigest()[:16]

    def names(self) -> tuple[str, ...]:
        return tuple(f"{index:05d}" for index in range(len(self._tiles)))

    def num_channels(self) -> int:
        return 1

    def read(self) -> Iterator[LabelledImage]:
        for index, (image, mask) in enumerate(self._tiles):
            yield LabelledImage(f"{self._path}: {KEY}[{index}]", image, mask)

    @cached_property
    def _tiles(self) -> NDArray[np.uint8]:
        with open_archive(self._path, _ALLOWED) as archive:
            if KEY not in archive:
                hint = " The key 'test_set' holds images without masks: nothing to train on." if "test_set" in archive else ""
                found = ", ".join(map(repr, archive)) or "nothing"
                raise DataError(f"{self._path}: holds {found}, no {KEY!r}.{hint} {_ALLOWED}.")
            array = archive[KEY]
        found = f"{self._path}: {KEY!r} has shape {array.shape} and type {array.dtype}"
        if array.ndim != 4 or array.shape[1] != 2:
            raise DataError(f"{found}. {_ALLOWED}.")
        if 0 in array.shape:
            raise DataError(f"{found}: it holds no images. {_ALLOWED}, N, H and W at least 1.")
        return to_uint8(array, found)


@contextmanager
def open_archive(path: Path, allowed: str) -> Iterator[NpzFile]:
    """Open a .npz; never unpickles.

    Raises:
        DataError: it cannot be read, here or inside the block; ``allowed`` ends the message.
    """
    try:
        with open(path, "rb") as file:  # np.load leaves a file that it cannot read open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise DataError(f"{path}: is a single array, not a .npz archive. {allowed}.")
            with archive:
                yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise DataError(
            f"{path}: cannot be read as .npz, {path.stat().st_size} bytes: {error}. Is it cut off? Copy or download it again."
        ) from error
    except ValueError as error:
        pickled = "Object arrays" in str(error) or "pickle" in str(error)
        found = "holds Python objects (pickled), which are never loaded" if pickled else f"cannot be read as .npz: {error}"
        raise DataError(f"{path}: {found}. {allowed}.") from error


def to_uint8(array: NDArray[np.generic], found: str) -> NDArray[np.uint8]:
    """Return the array as uint8.

    Raises:
        DataError: that would change values.
    """
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{found}. {_ALLOWED}.")
    low, high = array.min(), array.max()
    in_range = bool(low >= 0 and high <= 255)  # False for NaN too
    if in_range and (array.dtype.kind != "f" or np.array_equal(array, np.floor(array))):
        return array.astype(np.uint8)
    what = "fractions" if in_range else "values outside 0 to 255"
    raise DataError(f"{found}, values from {low} to {high}: {what}. {_ALLOWED}. Scale the images and save them as uint8.")
