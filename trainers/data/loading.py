"""Reads a configured source into a DataSet: cleaned, checked and in one form, before grouping and splitting."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.config import VOID, DataConfig
from trainers.data import checks
from trainers.data.dataset import DataSet
from trainers.data.images import resize_image, resize_mask, set_channels
from trainers.data.quality import cleaning
from trainers.data.quality.duplicates import group_images
from trainers.data.quality.outliers import find_outliers
from trainers.data.sources.base import LabelledImage, Source
from trainers.data.sources.folder import FolderSource, read_split
from trainers.data.sources.npz import NpzSource
from trainers.data.sources.synthetic import SyntheticSource
from trainers.errors import DataError

Allocate = Callable[[str, tuple[int, ...]], NDArray[np.uint8]]
"""Name and shape -> an array to fill."""


@dataclass(frozen=True)
class Reading:
    """What to read and how: the source, its fingerprint, the options, and the positions to leave out, ascending."""

    source: Source
    fingerprint: str
    config: DataConfig
    removed: tuple[int, ...]


def load_dataset(config: DataConfig) -> DataSet:
    """Read the source into memory, without a cache.

    Raises:
        DataError: the source cannot be used; the message names the file, what was found and what is allowed.
    """
    source = open_source(config)
    fingerprint = source.fingerprint()
    if config.clean == "auto":
        removed = list_outliers(load_dataset(config.model_copy(update={"clean": None})))
    else:
        removed = cleaning.read_positions(config.clean, fingerprint)
    data = read_source(Reading(source, fingerprint, config, removed), allocate=lambda _, shape: np.empty(shape, np.uint8))
    checks.check_ignored(config.ignore_classes, data.class_names)
    return data


def open_source(config: DataConfig) -> Source:
    """Return the source that ``data.source`` names, without reading its images.

    Raises:
        DataError: there is none, or the options do not fit it.
    """
    checks.check_options(config)
    if config.split_lists and (config.source == "synthetic" or config.source.lower().endswith(".npz")):
        raise DataError(
            f"{config.source}: data.split_lists names stems of files. Allowed: only with a folder of images/ and masks/."
        )
    if config.source == "synthetic":
        return SyntheticSource(config.synthetic)
    path = checks.check_exists(config.source)
    if path.is_dir():
        return FolderSource(path, config.split_lists)
    if path.suffix.lower() == ".npz":
        return NpzSource(path)
    raise DataError(f"{path}: is a file of type {path.suffix or 'none'!r}. Allowed: synthetic, a .npz file, or a folder.")


def list_outliers(data: DataSet) -> tuple[int, ...]:
    """Indices of the outliers in a data set whose groups are known."""
    assert data.groups is not None
    return tuple(outlier.index for outlier in find_outliers(data.images, data.masks, data.groups))


def read_source(reading: Reading, *, allocate: Allocate) -> DataSet:
    """Read and check every image that is kept, into arrays from ``allocate``.

    Raises:
        DataError: an image cannot be read or does not fit, or the options contradict what was read.
    """
    source, config = reading.source, reading.config
    names = source.names()
    cleaning.check_positions(reading.removed, len(names), source.place)
    kept = np.delete(np.arange(len(names)), reading.removed)
    images, masks, largest_label = _read_arrays(reading, len(kept), allocate)
    num_classes = checks.choose_num_classes(config, source.place, largest_label=largest_label, known=source.class_names)
    split = None
    if config.split_lists is not None:
        split = checks.resolve_split(read_split(Path(source.place), config.split_lists), names, kept)
    return DataSet(
        images,
        masks,
        tuple(names[position] for position in kept),
        num_classes,
        checks.choose_class_names(config, num_classes, source.class_names),
        reading.fingerprint,
        source.place,
        split=split,
        groups=group_images(images),
        removed=reading.removed,
    )


def _read_arrays(reading: Reading, num_kept: int, allocate: Allocate) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """Return images, masks and the largest label, -1 if no pixel has one."""
    source, config, removed = reading.source, reading.config, set(reading.removed)
    num_channels = {"auto": 0, "gray": 1, "rgb": 3}[config.color] or source.num_channels()
    images = masks = None
    largest, first_place = -1, ""
    kept = (pair for position, pair in enumerate(source.read()) if position not in removed)
    for index, pair in enumerate(kept):
        image, mask = _fit(pair, _map_ids(pair, config), config)
        image = set_channels(image, num_channels)
        if images is None or masks is None:
            images, masks = allocate("images", (num_kept, *image.shape)), allocate("masks", (num_kept, *mask.shape))
            first_place = pair.place
        elif mask.shape != masks.shape[1:]:
            raise DataError(
                f"{pair.place}: {mask.shape[0]}x{mask.shape[1]} (height x width), but {first_place} is "
                f"{masks.shape[1]}x{masks.shape[2]}. Where sizes differ, set data.size: [height, width]."
            )
        images[index], masks[index] = image, mask
        labels = mask[mask != VOID]
        largest = max(largest, int(labels.max())) if labels.size else largest
    assert images is not None
    assert masks is not None  # neither a source nor what cleaning leaves is ever empty
    return images, masks, largest


def _map_ids(pair: LabelledImage, config: DataConfig) -> NDArray[np.uint8]:
    """Return labels (H, W): classes below the declared number, or void."""
    is_uint8 = pair.mask.dtype == np.uint8  # counting is quicker than sorting
    ids = np.flatnonzero(np.bincount(pair.mask.ravel(), minlength=256)) if is_uint8 else np.unique(pair.mask)
    if config.id_map is None:
        limit = VOID if config.num_classes is None else config.num_classes
        if unknown := [number for number in ids.tolist() if not (0 <= number < limit or number == VOID)]:
            raise DataError(
                f"{pair.place}: unknown label ids {checks.list_some(unknown)}. Allowed: 0 to {limit - 1} and {VOID} (void). "
                "Raise data.num_classes, or map the ids to classes with data.id_map."
            )
        return pair.mask.astype(np.uint8)
    if unknown := [number for number in ids.tolist() if number not in config.id_map]:
        raise DataError(
            f"{pair.place}: ids {checks.list_some(unknown)} are not in data.id_map. "
            f"Known: {checks.list_some(sorted(config.id_map))}. Map them to a class, or to {VOID} for void."
        )
    targets = np.array([config.id_map[number] for number in ids.tolist()], np.uint8)
    return targets[np.searchsorted(ids, pair.mask)]


def _fit(pair: LabelledImage, mask: NDArray[np.uint8], config: DataConfig) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Bring image and mask to the configured size, if there is one."""
    image, found = pair.image, mask.shape
    if config.size is None or found == config.size:
        return image, mask
    height, width = config.size
    if config.fit == "resize":
        return resize_image(image, config.size), resize_mask(mask, config.size)
    below, right = height - found[0], width - found[1]
    if below < 0 or right < 0:
        raise DataError(
            f"{pair.place}: {found[0]}x{found[1]} (height x width) is larger than data.size {height}x{width}. "
            "Allowed with fit: pad: images up to that size. Raise data.size or use fit: resize."
        )
    rim = ((0, below), (0, right))
    return np.pad(image, (*rim, *((0, 0),) * (image.ndim - 2))), np.pad(mask, rim, constant_values=VOID)
