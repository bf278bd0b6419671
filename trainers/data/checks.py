"""The checks that every source shares: ids, labels, sizes and colours of each picture brought to one form for dataset.py."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trainers.config import VOID, DataConfig
from trainers.data.picture import NamedSplit, Picture
from trainers.errors import DataError


def check_options(config: DataConfig) -> None:
    """Check what can be checked before anything is read.

    Raises:
        DataError: the id map has targets that are no class, or the names do not match the number of classes.
    """
    limit = VOID if config.num_classes is None else config.num_classes
    wrong = {key: value for key, value in (config.id_map or {}).items() if not (0 <= value < limit or value == VOID)}
    if wrong:
        raise DataError(f"data.id_map: {wrong} maps to no class. Allowed: 0 to {limit - 1}, or {VOID} for void.")
    if config.id_map is not None and all(value == VOID for value in config.id_map.values()):
        raise DataError(f"data.id_map: {dict(config.id_map)} leaves no class. Map at least one id to a class from 0 on.")


def standardise(picture: Picture, config: DataConfig, num_channels: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return image (H, W, C) and mask (H, W), both uint8, mapped and fitted as the configuration says.

    Raises:
        DataError: an id without a class, or a picture that does not fit.
    """
    mask = _map_ids(picture, config)
    image, mask = _fit(picture, mask, config)
    return recolor(image, num_channels), mask


def count_labels(masks: Iterable[NDArray[np.uint8]], num_classes: int) -> NDArray[np.int64]:
    """Count pixels by image and class: N masks (H, W), taken one after another -> (N, num_classes); void is not counted."""
    counts = (np.bincount(mask.ravel(), minlength=256)[:num_classes] for mask in masks)
    return np.fromiter(counts, np.dtype((np.int64, num_classes)))


def choose_num_classes(config: DataConfig, place: str, *, largest_label: int, known: Sequence[str]) -> int:
    """Return the declared number of classes, the source's own, or one more than the largest label or target.

    largest_label: -1 where no pixel has a label.

    Raises:
        DataError: there are fewer than two classes.
    """
    if config.num_classes is not None:
        return config.num_classes
    if known and config.id_map is None:
        return len(known)
    targets = [value for value in (config.id_map or {}).values() if value != VOID]
    num_classes = 1 + max(targets, default=largest_label)
    if num_classes < 2:
        found = "no labelled pixel" if num_classes == 0 else "no label but 0"
        raise DataError(
            f"{place}: the masks hold {found} ({VOID} is void). A task needs two classes: declare data.num_classes, "
            f"or data.id_map if the ids mean something else, such as {{0: 0, {VOID}: 1}}."
        )
    return num_classes


def choose_class_names(config: DataConfig, num_classes: int, known: Sequence[str]) -> tuple[str, ...]:
    """Return the configured names, the source's own where they fit, or the numbers.

    Raises:
        DataError: there are more or fewer names than classes, or a name twice.
    """
    names = config.class_names
    if not names:
        fits = len(known) == num_classes and config.id_map is None
        return tuple(known) if fits else tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise DataError(
            f"data.class_names: {len(names)} names ({', '.join(names)}) for {num_classes} classes. Name each class once."
        )
    if len(set(names)) != len(names):
        raise DataError(f"data.class_names: {', '.join(names)} holds a name twice. Name each class once.")
    return names


def check_ignored(ignore_classes: Iterable[int], class_names: Sequence[str]) -> None:
    """Check that the ignored classes exist and leave something to score.

    Raises:
        DataError: one does not exist, or none is left.
    """
    ignored = tuple(ignore_classes)
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(class_names))
    wrong = [number for number in ignored if not 0 <= number < len(class_names)]
    if wrong:
        raise DataError(f"data.ignore_classes: {', '.join(map(str, wrong))} is no class. Known: {listed}.")
    if len(set(ignored)) == len(class_names):
        raise DataError(f"data.ignore_classes: ignores all of {listed}. Leave at least one class to train on.")


def resolve_split(named: NamedSplit, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ascending indices of the training and of the validation side.

    Raises:
        DataError: a listed name does not exist, or is listed twice.
    """
    position = {name: index for index, name in enumerate(names)}
    listed = named.train + named.val
    unknown = [name for name in listed if name not in position]
    if unknown:
        hint = _suggest(unknown[0], names)
        raise DataError(f"{named.place}: {len(unknown)} of {len(listed)} stems have no picture: {list_some(unknown)}.{hint}")
    twice = sorted(name for name, number in Counter(listed).items() if number > 1)
    if twice:
        raise DataError(
            f"{named.place}: {len(twice)} stem(s) listed twice: {list_some(twice)}. Each picture stands on one side, once."
        )
    train, val = (np.array(sorted(position[name] for name in side), np.int64) for side in (named.train, named.val))
    return train, val


def check_exists(source: str) -> Path:
    """Return the source's path.

    Raises:
        DataError: nothing is there; the message names what is there instead.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not path.parent.is_dir():
        raise DataError(f"{path}: not found, nor is the folder {path.parent}. Allowed: synthetic, a .npz file, or a folder.")
    hint = _suggest(path.name, ["synthetic", *(entry.name for entry in path.parent.iterdir())])
    raise DataError(f"{path}: not found. Allowed: synthetic, a .npz file, or a folder with images/ and masks/.{hint}")


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, C) uint8 -> the same of ``size`` (height, width): areas are averaged where it shrinks."""
    height, width = size
    method = cv2.INTER_AREA if height * width < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
    return resized.reshape(height, width, *image.shape[2:])  # OpenCV drops a single channel


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 -> the same of ``size`` (height, width): labels are picked, never mixed."""
    height, width = size
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _map_ids(picture: Picture, config: DataConfig) -> NDArray[np.uint8]:
    """Return labels (H, W): classes below the declared number, or void."""
    ids = (
        np.flatnonzero(np.bincount(picture.mask.ravel(), minlength=256))
        if picture.mask.dtype == np.uint8
        else np.unique(picture.mask)
    )
    if config.id_map is None:
        limit = VOID if config.num_classes is None else config.num_classes
        _check_ids(picture, [number for number in ids.tolist() if not (0 <= number < limit or number == VOID)], limit)
        return picture.mask.astype(np.uint8)
    unknown = [number for number in ids.tolist() if number not in config.id_map]
    if unknown:
        raise DataError(
            f"{picture.place}: ids {list_some(unknown)} are not in data.id_map. Known: {list_some(sorted(config.id_map))}. "
            f"Map them to a class, or to {VOID} for void."
        )
    return _look_up(picture.mask, ids, config.id_map)


def _check_ids(picture: Picture, wrong: Sequence[int], limit: int) -> None:
    if wrong:
        raise DataError(
            f"{picture.place}: unknown label ids {list_some(wrong)}. Allowed: 0 to {limit - 1} and {VOID} (void). "
            "Raise data.num_classes, or say with data.id_map what they mean."
        )


def _look_up(mask: NDArray[np.integer[Any]], ids: NDArray[np.integer[Any]], id_map: Mapping[int, int]) -> NDArray[np.uint8]:
    targets = np.array([id_map[number] for number in ids.tolist()], np.uint8)
    return targets[np.searchsorted(ids, mask)]


def _fit(picture: Picture, mask: NDArray[np.uint8], config: DataConfig) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Bring image and mask to the configured size, if there is one."""
    image, found = picture.image, mask.shape
    if config.size is None or found == config.size:
        return image, mask
    height, width = config.size
    if config.fit == "resize":
        return resize_image(image, config.size), resize_mask(mask, config.size)
    below, right = height - found[0], width - found[1]
    if below < 0 or right < 0:
        raise DataError(
            f"{picture.place}: {found[0]}x{found[1]} (height x width) is larger than data.size {height}x{width}. "
            "Allowed with fit: pad: pictures up to that size. Raise data.size or use fit: resize."
        )
    rim = ((0, below), (0, right))
    return np.pad(image, (*rim, *((0, 0),) * (image.ndim - 2))), np.pad(mask, rim, constant_values=VOID)


def recolor(image: NDArray[np.uint8], num_channels: int) -> NDArray[np.uint8]:
    """Return (H, W, num_channels)."""
    if num_channels == 1:
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return np.asarray(gray, np.uint8)[..., None]
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def list_some(items: Sequence[object]) -> str:
    """Write the first few items, and how many there are."""
    return ", ".join(map(str, items[:5])) + (f", ... ({len(items)} in all)" if len(items) > 5 else "")


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
