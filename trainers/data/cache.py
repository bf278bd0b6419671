"""Prepares a data set once, as a folder of arrays in a cache that every trial memory-maps."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import ValidationError

from trainers.config import Config, DataConfig
from trainers.data import checks
from trainers.data.dataset import DataSet, Split
from trainers.data.loading import Reading, list_outliers, open_source, read_source
from trainers.data.quality.cleaning import read_positions
from trainers.data.quality.outliers import DETECTOR_VERSION
from trainers.data.sources.base import Source
from trainers.errors import DataError

_SCHEMA_VERSION: Literal[2] = 2
_CARD = "dataset.json"


class _Card(Config):
    """dataset.json of a prepared folder: everything but the arrays."""

    schema_version: Literal[2] = _SCHEMA_VERSION
    names: tuple[str, ...]
    num_classes: int
    class_names: tuple[str, ...]
    fingerprint: str
    source: str
    train: tuple[int, ...] | None
    val: tuple[int, ...] | None
    removed: tuple[int, ...]


def prepare_dataset(config: DataConfig, cache: Path) -> Path:
    """Read the source once and keep its arrays under ``cache``; return the folder that ``open_dataset`` reads.

    Content and options give the folder its name. It appears whole or not at all; several processes may ask for it at once.
    A source whose files have not changed is not read again.

    Raises:
        DataError: the source cannot be used.
    """
    source = open_source(config)
    cache.mkdir(parents=True, exist_ok=True)
    fingerprint = _recall_fingerprint(source, cache)
    listed = None if config.clean == "auto" else read_positions(config.clean, fingerprint)
    folder = cache / f"{fingerprint}-{_hash_options(config, listed)}"
    if not (folder / _CARD).exists():
        with FileLock(cache / f".{folder.name}.lock"):
            if not (folder / _CARD).exists():
                removed = listed
                if removed is None:
                    uncleaned = prepare_dataset(config.model_copy(update={"clean": None}), cache)
                    removed = list_outliers(open_dataset(uncleaned))
                _write(Reading(source, fingerprint, config, removed), folder)
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


def _write(reading: Reading, folder: Path) -> None:
    """Write the prepared folder beside its place and move it there whole. The caller holds the folder's lock."""
    scratch = folder.with_name(f".{folder.name}.partial")
    for leftover in (scratch, folder):  # of a preparation that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir()

    def allocate(name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        return np.lib.format.open_memmap(scratch / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)

    try:
        data = read_source(reading, allocate=allocate)
        np.save(scratch / "groups.npy", np.asarray(data.groups), allow_pickle=False)
        card = _Card(
            names=data.names,
            num_classes=data.num_classes,
            class_names=data.class_names,
            fingerprint=data.fingerprint,
            source=data.source,
            train=tuple(data.split.train.tolist()) if data.split else None,
            val=tuple(data.split.val.tolist()) if data.split else None,
            removed=data.removed,
        )
        (scratch / _CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _recall_fingerprint(source: Source, cache: Path) -> str:
    """Return the source's fingerprint, from the cache's index if no file has changed since."""
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
    """Hash what changes the prepared folder besides the source's content; removed None: what this version's detector finds."""
    options = config.model_dump(
        mode="json", include={"num_classes", "class_names", "id_map", "size", "fit", "color", "split_lists"}
    )
    options["removed"] = {"detector": DETECTOR_VERSION} if removed is None else removed
    canonical = json.dumps([_SCHEMA_VERSION, options], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]
