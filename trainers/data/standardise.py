"""Brings each image and mask of a source to one form: ids mapped to classes, one size, one number of channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainers.config import VOID, DataConfig
from trainers.data.checks import list_some
from trainers.data.images import resize_image, resize_mask, set_channels
from trainers.data.sources.base import LabelledImage
from trainers.errors import DataError


def standardise(pair: LabelledImage, config: DataConfig, num_channels: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the image (H, W, num_channels) and the mask (H, W), both uint8, as the configuration asks.

    Raises:
        DataError: an id has no class, or the image does not fit ``data.size``.
    """
    image, mask = _fit(pair, _map_ids(pair, config), config)
    return set_channels(image, num_channels), mask


def _map_ids(pair: LabelledImage, config: DataConfig) -> NDArray[np.uint8]:
    """Return labels (H, W): classes below the declared number, or void."""
    is_uint8 = pair.mask.dtype == np.uint8  # counting is quicker than sorting
    ids = np.flatnonzero(np.bincount(pair.mask.ravel(), minlength=256)) if is_uint8 else np.unique(pair.mask)
    if config.id_map is None:
        limit = VOID if config.num_classes is None else config.num_classes
        if unknown := [number for number in ids.tolist() if not (0 <= number < limit or number == VOID)]:
            raise DataError(
                f"{pair.place}: unknown label ids {list_some(unknown)}. Allowed: 0 to {limit - 1} and {VOID} (void). "
                "Raise data.num_classes, or map the ids to classes with data.id_map."
            )
        return pair.mask.astype(np.uint8)
    if unknown := [number for number in ids.tolist() if number not in config.id_map]:
        raise DataError(
            f"{pair.place}: ids {list_some(unknown)} are not in data.id_map. Known: {list_some(sorted(config.id_map))}. "
            f"Map them to a class, or to {VOID} for void."
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
