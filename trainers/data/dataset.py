"""From a configured source to checked tiles: in memory, or prepared once in a cache and memory-mapped by every trial.

What `data.clean` removes is gone before anything is grouped or split; positions are always those in the source.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from trainers.config import VOID, DataConfig
from trainers.data import checks, cleaning
from trainers.data.duplicates import group_pictures
from trainers.data.folder import FolderSource
from trainers.data.npz import NpzSource
from trainers.data.outliers import DETECTOR_VERSION, find_outliers
from trainers.data.picture import Source
from trainers.data.synthetic import SyntheticSource
from trainers.errors import DataError

_SCHEMA_VERSION: Literal[2] = 2
_CARD = "dataset.json"

Allocate = Callable[[str, tuple[int, ...]], NDArray[np.uint8]]
"""Name and shape -> an array to fill."""


@dataclass(frozen=True)
class Split:
    """Indices of both sides, int64 and ascending."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]


@dataclass(frozen=True)
class DataSet:
    """Checked tiles of one size; arrays may be memory-mapped and must not be written to.

    images: (N, H, W, C) uint8, C 1 or 3; masks: (N, H, W) uint8, below num_classes or VOID; fingerprint: of the source's content,
    16 hexadecimal digits; source: for messages; split: where lists fix it; groups: (N,) int64, equal for pictures that must not
    be parted, None where nobody has looked; removed: ascending positions in the source of the pictures that were cleaned away.
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
        """Where in the source each picture stands: (N,), ascending."""
        return np.delete(np.arange(len(self.names) + len(self.removed)), self.removed)


class _Card(BaseModel):
    """dataset.json of a prepared folder: everything but the arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[2] = _SCHEMA_VERSION
    names: tuple[str, ...]
    num_classes: int
    class_names: tuple[str, ...]
    fingerprint: str
    source: str
    train: tuple[int, ...] | None
    val: tuple[int, ...] | None
    removed: tuple[int, ...]


def load_dataset(config: DataConfig) -> DataSet:
    """Read the source into memory, without a cache.

    Raises:
        DataError: the source cannot be used; the message names the file, what was found and what is allowed.
    """
    source = _open_source(config)
    fingerprint = source.fingerprint()
    if config.clean == "auto":
        removed = _find_outliers(load_dataset(config.model_copy(update={"clean": None})))
    else:
        removed = cleaning.read_positions(config.clean, fingerprint)
    data = _assemble(source, config, fingerprint, removed=removed, allocate=lambda _, shape: np.empty(shape, np.uint8))
    checks.check_ignored(config.ignore_classes, data.class_names)
    return data


def prepare_dataset(config: DataConfig, cache: Path) -> Path:
    """Read the source once and keep its tiles under ``cache``; return the folder that open_dataset reads.

    The folder is named by content and options, appears whole or not at all, and may be asked for by several processes at once.
    A source whose files have not changed is not read again.

    Raises:
        DataError: the source cannot be used.
    """
    source = _open_source(config)
    cache.mkdir(parents=True, exist_ok=True)
    fingerprint = _recall_fingerprint(source, cache)
    listed = None if config.clean == "auto" else cleaning.read_positions(config.clean, fingerprint)
    folder = cache / f"{fingerprint}-{_hash_options(config, listed)}"
    if not (folder / _CARD).exists():
        with FileLock(cache / f".{folder.name}.lock"):
            if not (folder / _CARD).exists():
                removed = _prepare_outliers(config, cache) if listed is None else listed
                _write(source, config, fingerprint, removed=removed, folder=folder)
    checks.check_ignored(config.ignore_classes, open_dataset(folder).class_names)
    return folder


def open_dataset(folder: Path) -> DataSet:
    """Memory-map a prepared data set.

    Raises:
        DataError: the folder is damaged or was prepared by another version.
    """
    try:
        card = _Card.model_validate_json((folder / _CARD).read_bytes())
        images, masks, groups = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("images", "masks", "groups")
        )
    except (OSError, ValidationError, ValueError, EOFError) as error:
        raise DataError(
            f"{folder}: is no prepared data set, or is damaged: {error}. Remove the folder; it is made again."
        ) from error
    if not len(images) == len(masks) == len(groups) == len(card.names):
        raise DataError(
            f"{folder}: the arrays differ in length from the {len(card.names)} names. Remove the folder; it is made again."
        )
    split = None
    if card.train is not None and card.val is not None:
        split = Split(np.array(card.train, np.int64), np.array(card.val, np.int64))
    return DataSet(
        images,
        masks,
        card.names,
        card.num_classes,
        card.class_names,
        card.fingerprint,
        card.source,
        split=split,
        groups=groups,
        removed=card.removed,
    )


def _open_source(config: DataConfig) -> Source:
    """Return the source that the configuration names, as far as that can be said without reading it."""
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


def _prepare_outliers(config: DataConfig, cache: Path) -> tuple[int, ...]:
    """Positions of the outliers, found in the uncleaned set, which is prepared for that."""
    return _find_outliers(open_dataset(prepare_dataset(config.model_copy(update={"clean": None}), cache)))


def _find_outliers(data: DataSet) -> tuple[int, ...]:
    assert data.groups is not None
    return tuple(outlier.index for outlier in find_outliers(data.images, data.masks, data.groups))


def _assemble(source: Source, config: DataConfig, fingerprint: str, *, removed: tuple[int, ...], allocate: Allocate) -> DataSet:
    """Read every picture but those to be removed, check it and bring it to one form."""
    names = source.names()
    cleaning.check_positions(removed, len(names), source.place)
    kept = np.delete(np.arange(len(names)), removed)
    num_channels = {"auto": 0, "gray": 1, "rgb": 3}[config.color] or source.num_channels()
    images = masks = None
    largest, first_place = -1, ""
    dropped = set(removed)
    pictures = (picture for position, picture in enumerate(source.pictures()) if position not in dropped)
    for index, picture in enumerate(pictures):
        image, mask = checks.standardise(picture, config, num_channels)
        if images is None or masks is None:
            images, masks = allocate("images", (len(kept), *image.shape)), allocate("masks", (len(kept), *mask.shape))
            first_place = picture.place
        elif mask.shape != masks.shape[1:]:
            raise DataError(
                f"{picture.place}: {mask.shape[0]}x{mask.shape[1]} (height x width), but {first_place} is "
                f"{masks.shape[1]}x{masks.shape[2]}. Where sizes differ, set data.size: [height, width]."
            )
        images[index], masks[index] = image, mask
        largest = max(largest, int(np.max(mask, where=mask != VOID, initial=0)) if (mask != VOID).any() else -1)
    assert images is not None
    assert masks is not None  # a source is never empty, nor is what cleaning leaves
    num_classes = checks.choose_num_classes(config, source.place, largest_label=largest, known=source.class_names)
    class_names = checks.choose_class_names(config, num_classes, source.class_names)
    return DataSet(
        images,
        masks,
        tuple(names[position] for position in kept),
        num_classes,
        class_names,
        fingerprint,
        source.place,
        split=_keep_split(source, names, kept),
        groups=group_pictures(images),
        removed=removed,
    )


def _keep_split(source: Source, names: tuple[str, ...], kept: NDArray[np.int64]) -> Split | None:
    """The split of the source's lists, as indices into what is kept."""
    named = source.split()
    if named is None:
        return None
    sides = checks.resolve_split(named, names)
    train, val = (np.searchsorted(kept, np.intersect1d(side, kept)) for side in sides)
    return Split(train, val)


def _write(source: Source, config: DataConfig, fingerprint: str, *, removed: tuple[int, ...], folder: Path) -> None:
    """Write the prepared folder beside its place and move it there whole. The caller holds the folder's lock."""
    scratch = folder.with_name(f".{folder.name}.partial")
    for remains in (scratch, folder):  # of a preparation that was killed
        shutil.rmtree(remains, ignore_errors=True)
    scratch.mkdir()
    try:
        _fill(source, config, fingerprint, removed=removed, scratch=scratch)
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(source: Source, config: DataConfig, fingerprint: str, *, removed: tuple[int, ...], scratch: Path) -> None:
    def allocate(name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return np.lib.format.open_memmap(scratch / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)

    data = _assemble(source, config, fingerprint, removed=removed, allocate=allocate)
    np.save(scratch / "groups.npy", np.asarray(data.groups), allow_pickle=False)
    card = _Card(
        names=data.names,
        num_classes=data.num_classes,
        class_names=data.class_names,
        fingerprint=fingerprint,
        source=data.source,
        train=tuple(data.split.train.tolist()) if data.split else None,
        val=tuple(data.split.val.tolist()) if data.split else None,
        removed=data.removed,
    )
    (scratch / _CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")


def _recall_fingerprint(source: Source, cache: Path) -> str:
    """Return the source's fingerprint, read from the cache's index if no file has changed since."""
    signature = source.signature()
    if signature is None:
        return source.fingerprint()
    entry = cache / "index" / hashlib.sha256(signature.encode()).hexdigest()[:32]
    if entry.exists():
        return entry.read_text(encoding="ascii")
    fingerprint = source.fingerprint()
    entry.parent.mkdir(exist_ok=True)
    scratch = entry.with_name(f".{entry.name}.{os.getpid()}")
    scratch.write_text(fingerprint, encoding="ascii")
    os.replace(scratch, entry)
    return fingerprint


def _hash_options(config: DataConfig, removed: tuple[int, ...] | None) -> str:
    """Hash what changes the prepared folder beside the content of the source: 8 hexadecimal digits.

    removed: positions; None: those that this version's detector finds.
    """
    options = config.model_dump(
        mode="json", include={"num_classes", "class_names", "id_map", "size", "fit", "color", "split_lists"}
    )
    options["removed"] = {"detector": DETECTOR_VERSION} if removed is None else removed
    canonical = json.dumps([_SCHEMA_VERSION, options], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
