"""Images without masks, to predict on: from a .npz or a folder, read in parts with the model's number of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.data.images import set_channels
from trainers.data.sources.folder import IMAGE_SUFFIXES, find_files, open_image, read_image
from trainers.data.sources.npz import KEY, read_array, to_uint8
from trainers.errors import DataError

TEST_KEY = "test_set"
_ALLOWED = (
    f"Allowed: {TEST_KEY!r} or the only array, shape (N, H, W) or (N, H, W, 1 or 3), or {KEY!r}, (N, 2, H, W), whose [:, 0] "
    "are the images; whole numbers from 0 to 255"
)

Size = tuple[int, int]
"""(height, width)."""


class UnlabelledImages(Protocol):
    """Images in a fixed order.

    names: of the mask files to write, without suffix; ids: the images' names in tables; sizes: of each image.
    """

    place: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    sizes: tuple[Size, ...]

    def read(self, positions: Sequence[int], num_channels: int) -> NDArray[np.uint8]:
        """Images of equal size, (B, H, W, num_channels) uint8.

        Raises:
            DataError: an image cannot be read.
        """


class NpzImages:
    """The images of one array of a .npz file, read at once; ids are positions."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        self._images = _read_images(path)
        self.ids = tuple(map(str, range(len(self._images))))
        self.names = tuple(f"{index:05d}" for index in range(len(self._images)))
        height, width = self._images.shape[1:3]
        self.sizes: tuple[Size, ...] = ((height, width),) * len(self._images)

    def read(self, positions: Sequence[int], num_channels: int) -> NDArray[np.uint8]:
        images: NDArray[np.uint8] = self._images[np.asarray(positions)]
        if images.shape[3] == num_channels:
            return images
        return np.stack([set_channels(image[..., 0] if image.shape[2] == 1 else image, num_channels) for image in images])


class FolderImages:
    """Images of a folder, or of its ``images/``, sorted by stem. The constructor reads the sizes, ``read`` the images."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        inner = path / "images"
        files = find_files(inner if inner.is_dir() else path, IMAGE_SUFFIXES)
        self.names = self.ids = tuple(sorted(files))
        self._files = [files[name] for name in self.names]
        self.sizes = tuple(self._read_size(file) for file in self._files)

    @staticmethod
    def _read_size(file: Path) -> Size:
        with open_image(file) as image:
            return image.height, image.width

    def read(self, positions: Sequence[int], num_channels: int) -> NDArray[np.uint8]:
        return np.stack([set_channels(read_image(self._files[i]), num_channels) for i in positions])


def open_unlabelled(source: Path) -> UnlabelledImages:
    """Open a .npz file or a folder of PNG, JPEG, TIFF or BMP.

    Raises:
        DataError: there are no images; the message says what was found and what is allowed.
    """
    if source.is_dir():
        return FolderImages(source)
    if not source.exists():
        beside = ", ".join(sorted(entry.name for entry in source.parent.iterdir())[:8]) if source.parent.is_dir() else ""
        raise DataError(f"{source}: not found; {source.parent} holds {beside or 'nothing'}. Allowed: a .npz file, or a folder.")
    if source.suffix.lower() != ".npz":
        raise DataError(f"{source}: is a file of type {source.suffix or 'none'!r}. Allowed: a .npz file, or a folder of images.")
    return NpzImages(source)


def split_by_size(sizes: Sequence[Size], batch_size: Callable[[Size], int]) -> Iterator[list[int]]:
    """Cut positions into batches of equal size, at most ``batch_size(size)`` long; images of one size keep their order."""
    by_size: dict[Size, list[int]] = {}
    for position, size in enumerate(sizes):
        by_size.setdefault(size, []).append(position)
    for size, positions in by_size.items():
        step = batch_size(size)
        yield from (positions[start : start + step] for start in range(0, len(positions), step))


def _read_images(path: Path) -> NDArray[np.uint8]:
    """(N, H, W, C), C 1 or 3."""

    def choose_key(keys: Sequence[str]) -> str:
        known = [key for key in (TEST_KEY, KEY) if key in keys]
        if not known and len(keys) != 1:
            raise DataError(f"{path}: holds {', '.join(map(repr, keys)) or 'nothing'}. {_ALLOWED}.")
        return (known or keys)[0]

    name, array = read_array(path, choose_key, _ALLOWED)
    found = f"{path}: {name!r} has shape {array.shape} and type {array.dtype}"
    if name == KEY and array.ndim == 4 and array.shape[1] == 2:
        array = array[:, 0]
    images = array[..., np.newaxis] if array.ndim == 3 else array
    if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3):
        raise DataError(f"{found}. {_ALLOWED}.")
    return to_uint8(images, found)
