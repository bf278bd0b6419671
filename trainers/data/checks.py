"""Checks options against what a source holds, and chooses the classes; used by loading.py and split.py."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.config import VOID, DataConfig, suggest
from trainers.data.dataset import Split
from trainers.data.sources.base import NamedSplit
from trainers.errors import DataError


def check_options(config: DataConfig) -> None:
    """Check ``data.id_map`` before anything is read.

    Raises:
        DataError: a target of the map is not at a class, or all targets are void.
    """
    limit = VOID if config.num_classes is None else config.num_classes
    wrong = {key: value for key, value in (config.id_map or {}).items() if not (0 <= value < limit or value == VOID)}
    if wrong:
        raise DataError(f"data.id_map: {wrong} maps to no class. Allowed: 0 to {limit - 1}, or {VOID} for void.")
    if config.id_map is not None and all(value == VOID for value in config.id_map.values()):
        raise DataError(f"data.id_map: {dict(config.id_map)} leaves no class. Map at least one id to a class from 0 on.")


def count_labels(masks: Iterable[NDArray[np.uint8]], num_classes: int) -> NDArray[np.int64]:
    """Count pixels per image and class: N masks (H, W) -> (N, num_classes); void is not counted."""
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
        DataError: there are more or fewer names than classes, or a name occurs twice.
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


def check_ignored(ignored: tuple[int, ...], class_names: Sequence[str]) -> None:
    """Check that the ignored classes exist and leave something to score.

    Raises:
        DataError: one does not exist, or none is left.
    """
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(class_names))
    wrong = [number for number in ignored if not 0 <= number < len(class_names)]
    if wrong:
        raise DataError(f"data.ignore_classes: {', '.join(map(str, wrong))} is not a class. Known: {listed}.")
    if len(set(ignored)) == len(class_names):
        raise DataError(f"data.ignore_classes: ignores all of {listed}. Leave at least one class to train on.")


def resolve_split(named: NamedSplit, names: Sequence[str], kept: NDArray[np.int64]) -> Split:
    """Return the lists' split as indices into ``kept``, the ascending positions in ``names`` that cleaning left.

    Raises:
        DataError: a listed name does not exist, or is listed twice.
    """
    position = {name: index for index, name in enumerate(names)}
    listed = named.train + named.val
    unknown = [name for name in listed if name not in position]
    if unknown:
        hint = suggest(unknown[0], names)
        raise DataError(f"{named.place}: {len(unknown)} of {len(listed)} stems have no image: {list_some(unknown)}.{hint}")
    twice = sorted(name for name, number in Counter(listed).items() if number > 1)
    if twice:
        raise DataError(
            f"{named.place}: {len(twice)} stem(s) listed twice: {list_some(twice)}. List each image once, on one side."
        )
    train, val = (np.flatnonzero(np.isin(kept, [position[name] for name in side])) for side in (named.train, named.val))
    return Split(train, val)


def check_exists(source: str) -> Path:
    """Return the source's path.

    Raises:
        DataError: it does not exist; the message suggests a similar name.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not path.parent.is_dir():
        raise DataError(f"{path}: not found, nor is the folder {path.parent}. Allowed: synthetic, a .npz file, or a folder.")
    hint = suggest(path.name, ["synthetic", *(entry.name for entry in path.parent.iterdir())])
    raise DataError(f"{path}: not found. Allowed: synthetic, a .npz file, or a folder with images/ and masks/.{hint}")


def list_some(items: Sequence[object]) -> str:
    """Write the first five items, and how many there are."""
    return ", ".join(map(str, items[:5])) + (f", ... ({len(items)} in all)" if len(items) > 5 else "")
