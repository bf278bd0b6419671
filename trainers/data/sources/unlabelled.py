"""Images without masks, to predict on: from a .npz or a folder, read in parts with the model's number of channels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.data.images import set_channels
from trainers.data.sources.folder import IMAGE_SUFFIXES, find_files, open_image, read_image
from trainers.data.sources.npz import KEY, open_archive, to_uint8
from trainers.errors import DataError

TEST_KEY = "test_set"
_ALLOWED = (
    f"Allowed: {TEST_KEY!r} or the only array, shape (N, H, W) or (N, H, W, 1 or 3), or {KEY!r}, (N, 2, H, W), whose [:, 0] "
    "are the images; whole numbers from 0 to 255"
)

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class UnlabelledImages:
    """Images in a fixed order.

    names: of the mask files to write, without suffix; ids: the images' names in tables; sizes: of each image; load: position ->
    image, (H, W) or (H, W, 3) uint8.
    """

    place: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    sizes: tuple[Size, ...]
    load: Callable[[int], NDArray[np.uint8]]

    def read(self, positions: Sequence[int], num_channels: int) -> NDArray[np.uint8]:
        """Images of equal size, (B, H, W, num_channels) uint8.

        Raises:
            DataError: an image cannot be read.
        """
        return np.stack([set_channels(self.load(position), num_channels) for position in positions])


def open_unlabelled(source: Path) -> UnlabelledImages:
    """Open a .npz file or a folder of PNG, JPEG, TIFF or BMP.

    Raises:
        DataError: there are no images; the message says what was found and what is allowed.
    """
    if source.is_dir():
        return _open_folder(source)
    if not source.exists():
        beside = ", ".join(sorted(entry.name for entry in source.parent.iterdir())[:8]) if source.parent.is_dir() else ""
        raise DataError(f"{source}: not found; {source.parent} holds {beside or 'nothing'}. Allowed: a .npz file, or a folder.")
    if source.suffix.lower() != ".npz":
        raise DataError(f"{source}: is a file of type {source.suffix or 'none'!r}. Allowed: a .npz file, or a folder of images.")
    images = _read_images(source)
    numbers = range(len(images))
    names = tuple(f"{number:05d}" for number in numbers)
    size = (images.shape[1], images.shape[2])
    return UnlabelledImages(str(source), names, tuple(map(str, numbers)), (size,) * len(images), images.__getitem__)


def split_by_size(sizes: Sequence[Size], batch_size: Callable[[Size], int]) -> Iterator[list[int]]:
    """Cut positions into batches of equal size, at most ``batch_size(size)`` long; images of one size keep their order."""
    by_size: dict[Size, list[int]] = {}
    for position, size in enumerate(sizes):
        by_size.setdefault(size, []).append(position)
    for size, positions in by_size.items():
        step = batch_size(size)
        yield from (positions[start : start + step] for start in range(0, len(positions), step))


def _open_folder(path: Path) -> UnlabelledImages:
    """Images of a folder, or of its ``images/``, sorted by stem; only their sizes are read now."""
    inner = path / "images"
    found = find_files(inner if inner.is_dir() else path, IMAGE_SUFFIXES)
    names = tuple(sorted(found))
    files = [found[name] for name in names]
    sizes = []
    for file in files:
        with open_image(file) as image:
            sizes.append((image.height, image.width))
    return UnlabelledImages(str(path), names, names, tuple(sizes), lambda position: read_image(files[position]))


def _read_images(path: Path) -> NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, 3)."""
    with open_archive(path, _ALLOWED) as archive:
        known = [key for key in (TEST_KEY, KEY) if key in archive]
        if not known and len(archive) != 1:
            raise DataError(f"{path}: holds {', '.join(map(repr, archive)) or 'nothing'}. {_ALLOWED}.")
        name = (known or list(archive))[0]
        array = archive[name]
    found = f"{path}: {name!r} has shape {array.shape} and type {array.dtype}"
    if name == KEY and array.ndim == 4 and array.shape[1] == 2:
        array = array[:, 0]
    elif array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or 0 in array.shape or array.shape[3:] not in ((), (3,)):
        raise DataError(f"{found}. {_ALLOWED}.")
    return to_uint8(array, found)
