"""Splits a data set into training and validation images without leaks, by fraction, fold or lists."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainers.config import DataConfig, Fold
from trainers.data import checks
from trainers.data.dataset import DataSet, Split
from trainers.data.quality.duplicates import group_images
from trainers.errors import DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class SplitData:
    """A data set with its split and the classes that are not scored.

    scored_fingerprint: hash of the validation images, their order and labels, the classes and the ignored ones.
    """

    data: DataSet
    split: Split
    ignore_classes: tuple[int, ...]
    scored_fingerprint: str

    @property
    def scored_classes(self) -> list[int]:
        """The classes that are not ignored."""
        return [number for number in range(self.data.num_classes) if number not in self.ignore_classes]


@dataclass(frozen=True)
class _Groups:
    """Groups of images that stay together, in the order in which they are assigned.

    members: image indices of each group; sizes: (G,) number of images; strata: (G,) numbered from 0.
    """

    members: list[Indices]
    sizes: Indices
    strata: Indices


def split_dataset(data: DataSet, config: DataConfig, fold: Fold | None) -> SplitData:
    """Split the data and compute the fingerprint of what is scored.

    Raises:
        DataError: as ``make_split``.
    """
    split = make_split(data, config, fold)
    ignored = config.ignore_classes
    return SplitData(data, split, ignored, fingerprint_scored(data, split.val, ignored))


def make_split(data: DataSet, config: DataConfig, fold: Fold | None) -> Split:
    """Choose training and validation images.

    Depends on the data, the scored classes, ``val_fraction`` or ``fold``, and ``split_seed``; not on a trial's seed. Identical
    and nearly identical images stay together. Each side gets its share of the images with the rarest scored class, then of
    the next. The folds validate every image once. Split lists override ``val_fraction``. ``limit`` then keeps the first
    training images.

    Raises:
        DataError: a side is empty, a scored class is missing from the training images before ``limit``, an ignored class does
            not exist, or there are both split lists and folds.
    """
    checks.check_ignored(config.ignore_classes, data.class_names)
    counts = checks.count_labels(data.masks, data.num_classes)
    if data.split is not None and fold is not None:
        raise DataError(f"{data.source}: data.split_lists fix one split, so all folds would be equal. Remove one of the two.")
    if data.split is not None:
        split = data.split
        _check_leak(data, split)
    else:
        is_ignored = np.isin(np.arange(data.num_classes), config.ignore_classes)
        groups = _order_groups(data, np.where(is_ignored, 0, counts), config.split_seed)
        chosen = _fold_part(data, groups, fold) if fold else _fraction_part(data, groups, config.val_fraction)
        val = np.sort(np.concatenate([np.empty(0, np.int64), *(groups.members[index] for index in chosen)]))
        split = Split(np.setdiff1d(np.arange(len(data.images)), val), val)
    _check_sides(data, split, counts, config)
    return replace(split, train=split.train[: config.limit])


def fingerprint_scored(data: DataSet, val_indices: Indices, ignore_classes: Iterable[int]) -> str:
    """Hash the validation images, their order and labels, the classes and the ignored ones: 16 hexadecimal digits."""
    rule = {"shape": data.images.shape[1:], "classes": data.num_classes, "ignored": sorted(set(ignore_classes))}
    digest = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    for index in val_indices:
        digest.update(np.ascontiguousarray(data.images[index]).data)
        digest.update(np.ascontiguousarray(data.masks[index]).data)
    return digest.hexdigest()[:16]


def _order_groups(data: DataSet, counts: Indices, seed: int) -> _Groups:
    """Order groups so that every stretch of them holds about the same share of each stratum.

    A stratum is the groups with the same rarest scored class. Its groups are shuffled and spread evenly over the order; a
    stratum's only group comes last and so is trained on.
    """
    ids = data.groups if data.groups is not None else group_images(data.images)
    by_group = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[by_group], prepend=-1))
    members = np.split(by_group, starts[1:])
    sizes = np.array([len(group) for group in members], np.int64)
    rarest = _find_rarest(np.add.reduceat(counts[by_group], starts, axis=0))
    strata = np.unique(rarest, return_inverse=True)[1]
    rng = np.random.default_rng([int(seed < 0), abs(seed)])
    place = np.empty(len(members))
    for stratum in range(strata.max() + 1):
        chosen = rng.permutation(np.flatnonzero(strata == stratum))
        end = np.cumsum(sizes[chosen])
        place[chosen] = (end - sizes[chosen] / 2) / end[-1] if len(chosen) > 1 else 1.0
    order = np.argsort(place, kind="stable")
    return _Groups([members[index] for index in order], sizes[order], strata[order])


def _find_rarest(counts: Indices) -> Indices:
    """Return for each row of (G, C) the rarest class that it holds, by number of rows; -1 if it holds none."""
    by_rarity = np.argsort((counts > 0).sum(axis=0), kind="stable")
    present = counts[:, by_rarity] > 0
    return np.where(present.any(axis=1), by_rarity[present.argmax(axis=1)], -1)


def _fraction_part(data: DataSet, groups: _Groups, fraction: float) -> Indices:
    """Take groups, in order, while they fit into the share; a last one may overshoot if that comes closer."""
    wanted = max(1, round(len(data.images) * fraction))
    taken = np.zeros(len(groups.members), bool)
    missing = wanted
    for index, size in enumerate(groups.sizes):
        if size <= missing:
            taken[index] = True
            missing -= int(size)
    left = np.flatnonzero(~taken)
    if missing and len(left) > 1:
        smallest = left[np.argmin(groups.sizes[left])]
        taken[smallest] = not taken.any() or groups.sizes[smallest] - missing < missing
    return np.flatnonzero(taken)


def _fold_part(data: DataSet, groups: _Groups, fold: Fold) -> Indices:
    """Assign each group, in order, to the fold with fewest images of its stratum, then of all; return one fold's groups."""
    if fold.count > len(groups.members):
        raise DataError(
            f"{data.source}: {fold.count} folds of {len(groups.members)} groups of images ({len(data.images)} images; nearly "
            f"identical ones stay together). Allowed: at most {len(groups.members)} folds."
        )
    filled = np.zeros((groups.strata.max() + 1, fold.count), np.int64)
    owner = np.empty(len(groups.members), np.int64)
    for index, (size, stratum) in enumerate(zip(groups.sizes, groups.strata, strict=True)):
        owner[index] = np.lexsort((filled.sum(axis=0), filled[stratum]))[0]
        filled[stratum, owner[index]] += size
    return np.flatnonzero(owner == fold.index)


def _check_leak(data: DataSet, split: Split) -> None:
    """Check that split lists keep identical and nearly identical images on one side."""
    ids = data.groups if data.groups is not None else group_images(data.images)
    shared = np.intersect1d(ids[split.train], ids[split.val])
    if len(shared):
        pairs = [
            " and ".join(data.names[side[ids[side] == group][0]] for side in (split.train, split.val)) for group in shared[:3]
        ]
        raise DataError(
            f"{data.source}: data.split_lists put {len(shared)} groups of identical or nearly identical images on both sides, "
            f"such as {'; '.join(pairs)}. Validation would leak: move each group to one side."
        )


def _check_sides(data: DataSet, split: Split, counts: Indices, config: DataConfig) -> None:
    """Check that both sides have images and that the training images hold every scored class."""
    for name, side, other in (("training", split.train, split.val), ("validation", split.val, split.train)):
        if not len(side):
            raise DataError(
                f"{data.source}: the {name} side is empty, all {len(other)} images are on the other. Nearly identical images "
                "stay together: add images that differ, or change data.val_fraction."
            )
    scored = [number for number in range(data.num_classes) if number not in config.ignore_classes]
    absent = [number for number in scored if not counts[split.train, number].any()]
    if absent:
        where = "; ".join(_describe_class(data, counts, number, split) for number in absent)
        raise DataError(
            f"{data.source}: scored but absent from the {len(split.train)} training images: {where}. Add it to "
            "data.ignore_classes, use another data.split_seed or split, or lower data.num_classes if it does not exist."
        )


def _describe_class(data: DataSet, counts: Indices, number: int, split: Split) -> str:
    everywhere, val = (int((counts[side, number] > 0).sum()) for side in (np.arange(len(counts)), split.val))
    return f"class {number} ({data.class_names[number]}), found in {everywhere} of {len(counts)} images, {val} of them validation"
