"""Checks the data and the custom code of a sweep before anything runs: SweepSpec -> Facts, or one clear error.

Imports trainers' data, augmentation and imports only inside its functions.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.errors import DataError, SpecError
from orchestrator.planning.configuration import (
    DataFacts,
    Facts,
    SplitSizes,
    UncheckedConfiguration,
    each_augmentation,
    each_loss,
    import_paths,
    list_unchecked,
    source_part,
    split_part,
)
from orchestrator.spec.document import Place, write_place
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.space import place_of
from trainers.config import DataConfig
from trainers.errors import ConfigError
from trainers.errors import DataError as TrainersDataError


def prepare(spec: SweepSpec, cache: Path, locate: Callable[[DataConfig], DataConfig] = lambda data: data) -> Facts:
    """Prepare each data set in ``cache``, try each split, import custom code, build each list of transforms.

    Import paths may name modules of the working directory. locate: replaces paths of the sweep by this machine's; facts stay
    under the sweep's paths.

    Raises:
        SpecError: custom code or a transform cannot be used.
        DataError: a data set cannot be read or split.
    """
    found = list(list_unchecked(spec))
    code = _check_code(spec, found)
    _check_augmentations(spec, found)
    data = _prepare_data(spec, found, cache, locate)
    facts = Facts(data=data, code=code)
    _check_classes(spec, found, facts)
    return replace(facts, splits=_try_splits(spec, found, facts))


def allow_local_imports() -> None:
    """Let import paths name modules of the working directory, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _locate(spec: SweepSpec, one: UncheckedConfiguration, place: Place) -> str:
    """``FILE:LINE: field`` of the place in the sweep file that set a configuration's value at ``place``."""
    written = place_of(spec.search, one.params, place)
    for i, row in enumerate(spec.rows):
        if row.id == one.params.get("row"):
            value: Any = row.train | {"data": row.data}
            for part in place[:2] if place[:1] == ("data",) else place[:1]:
                value = value.get(part) if isinstance(value, dict) else None
            written = written if value is None else ("rows", i, *place)
    return f"{spec.document.where(written)}: {write_place(written)}"


def _check_code(spec: SweepSpec, found: Iterable[UncheckedConfiguration]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for one in found:
        for place, path in import_paths(one.train):
            if path not in hashes:
                from trainers.imports import import_object, source_hash

                allow_local_imports()
                try:
                    import_object(path)
                    hashes[path] = source_hash(path)
                except ConfigError as error:
                    raise SpecError(f"{_locate(spec, one, place)} is {path!r}: {error}") from error
    return hashes


def _check_augmentations(spec: SweepSpec, found: Iterable[UncheckedConfiguration]) -> None:
    """Build lists of transforms; names of ready-made ones were checked with the file."""
    checked = set()
    for one in found:
        for place, augmentation in each_augmentation(one.train):
            written = repr(augmentation)
            if isinstance(augmentation, str) or written in checked:
                continue
            from trainers.loader.augment import build_augmentation

            checked.add(written)
            try:
                build_augmentation(augmentation)
            except ConfigError as error:
                raise SpecError(f"{_locate(spec, one, place)}: {error}") from error


def _prepare_data(
    spec: SweepSpec, found: Iterable[UncheckedConfiguration], cache: Path, locate: Callable[[DataConfig], DataConfig]
) -> dict[str, DataFacts]:
    from trainers.data import open_dataset, prepare_dataset

    facts: dict[str, DataFacts] = {}
    for one in found:
        part = source_part(one.data)
        if part in facts:
            continue
        try:
            folder = prepare_dataset(locate(one.data), cache)
            data = open_dataset(folder)
        except TrainersDataError as error:
            raise _refuse(spec, one, error) from error
        facts[part] = DataFacts(
            fingerprint=data.fingerprint,
            folder=folder,
            num_images=data.images.shape[0],
            height=data.images.shape[1],
            width=data.images.shape[2],
            num_classes=data.num_classes,
            class_names=data.class_names,
            removed=data.removed,
            source=one.data.source,
        )
    return facts


def _refuse(spec: SweepSpec, one: UncheckedConfiguration, error: TrainersDataError, at: str = "") -> DataError:
    """The error of the data at the line of the field that it names, or else of the source."""
    named = re.match(r"data\.(\w+): ", str(error))
    field, message = (named[1], str(error)[named.end() :]) if named else ("source", str(error))
    return DataError(f"{_locate(spec, one, ('data', field))}: {at}{message}")


def _check_classes(spec: SweepSpec, found: Iterable[UncheckedConfiguration], facts: Facts) -> None:
    """Check class ids of losses and sampling, whose range the data decide."""
    for one in found:
        num_classes = facts.of(one.data).num_classes
        for place, loss in each_loss(one.train.loss):
            ignored = loss.ignore_classes or ()
            if not _are_classes(ignored, num_classes) or len(set(ignored)) == num_classes:
                at = _locate(spec, one, (*place, "ignore_classes"))
                raise SpecError(f"{at} is {list(ignored)}. Allowed: ids from 0 to {num_classes - 1}, but not all of them.")
        for i, repeat in enumerate(one.train.sampling.repeat):
            if isinstance(repeat.classes, tuple) and not _are_classes(repeat.classes, num_classes):
                at = _locate(spec, one, ("sampling", "repeat", i, "classes"))
                raise SpecError(f"{at} is {list(repeat.classes)}. Allowed: ids from 0 to {num_classes - 1}, rarest, or all.")


def _are_classes(ids: Iterable[int], num_classes: int) -> bool:
    return all(0 <= number < num_classes for number in ids)


def _try_splits(spec: SweepSpec, found: Iterable[UncheckedConfiguration], facts: Facts) -> dict[str, SplitSizes]:
    from trainers.data import make_split, open_dataset

    sizes: dict[str, SplitSizes] = {}
    for one in found:
        for fold in spec.each_fold:
            part = split_part(one.data, fold)
            if part in sizes:
                continue
            try:
                split = make_split(open_dataset(facts.of(one.data).folder), one.data, fold)
            except TrainersDataError as error:
                at = f"fold {fold.index + 1} of {fold.count}: " if fold else ""
                raise _refuse(spec, one, error, at) from error
            sizes[part] = SplitSizes(len(split.train), len(split.val))
    return sizes


DATA_FOLDER = "ORCHESTRATE_DATA"
"""Environment variable: the folder with this machine's copies of data sets that a sweep names by other paths."""


def locate_source(data: DataConfig) -> DataConfig:
    """Find the data on this machine: at the sweep's path, else under the same file name in ORCHESTRATE_DATA."""
    found = {"source": _find(data.source)} if data.source != "synthetic" else {}
    if isinstance(data.clean, str) and data.clean != "auto":
        found["clean"] = _find(data.clean)
    return data.model_copy(update=found)


def _find(named: str) -> str:
    if Path(named).exists():
        return named
    if not (folder := os.environ.get(DATA_FOLDER)):
        raise DataError(f"{named}: not found on this machine. Put it there, or set {DATA_FOLDER} to the folder that has it.")
    if (here := Path(folder).expanduser().absolute() / Path(named).name).exists():
        return str(here)
    raise DataError(f"{named}: not found on this machine, and neither is {here} ({DATA_FOLDER}). Put it there.")
