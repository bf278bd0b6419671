"""Finished trials -> candidates: each trial, or all folds of one configuration and seed joined into one set of predictions.

A second set of predictions, averaged over mirror images, is another candidate.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.results import name_joined
from orchestrator.analysis.trials import strip_seed
from orchestrator.errors import EnsembleError
from orchestrator.state.files import replacing
from orchestrator.state.trial.outputs import PredictionsInfo, read_info, read_labels, read_predictions, write_predictions
from orchestrator.state.trial.records import FLIPS, FLIPS_MIOU, OBJECTIVE
from orchestrator.tracking.tags import Tag
from trainers.config import FLIPPED_AXES, Flips

if TYPE_CHECKING:
    from orchestrator.ensemble.selection.pool import Limit
    from orchestrator.tracking.reader.row import RunRow


_FLIPS: tuple[Flips, ...] = ("horizontal", "both")


@dataclass(frozen=True)
class EnsembleCandidate:
    """A set of predictions that may become a member.

    model: the trial's key, or the configuration's id and the seed. title: its name for people. rows: one trial, or those of all
    folds, in order. flips: mirror images that the predictions are averaged over; None: as the trials were validated.
    """

    model: str
    title: str
    rows: tuple[RunRow, ...]
    flips: Flips | None = None

    @property
    def key(self) -> str:
        return self.model if self.flips is None else f"{self.model}+{self.flips}"

    @property
    def name(self) -> str:
        return self.title if self.flips is None else f"{self.title} with {self.flips} flips"

    @property
    def metric(self) -> str:
        """The metric of the trials' runs that holds the mIoU of these predictions."""
        return OBJECTIVE if self.flips is None else FLIPS_MIOU

    def list_files(self, names: Sequence[str]) -> list[str]:
        """The paths of these files of the predictions within a trial's folder."""
        return list(names) if self.flips is None else [f"{FLIPS}/{name}" for name in names]

    def share(self, weight: float) -> dict[str, float]:
        """Key of each trial -> its weight, if the candidate has ``weight``: a new image gets the mean of the folds."""
        return {row.key: weight / len(self.rows) for row in self.rows}


def list_candidates(rows: Sequence[RunRow]) -> list[EnsembleCandidate]:
    """List candidates in the order of their keys, with flips and without. A seed that lacks a fold is no candidate.

    Raises:
        EnsembleError: all trials are folds, and no seed has all of them.
    """
    candidates = [EnsembleCandidate(row.key, row.name, (row,)) for row in rows if Tag.FOLD not in row.tags]
    by_seed: dict[tuple[str, str, str], dict[int, RunRow]] = defaultdict(dict)
    for row in rows:
        if Tag.FOLD in row.tags:
            index, _, count = row.tags[Tag.FOLD].partition("/")
            by_seed[row.tags[Tag.CONFIGURATION], row.tags[Tag.SEED], count][int(index)] = row
    for (configuration, seed, count), folds in by_seed.items():
        if len(folds) == int(count):
            ordered = tuple(folds[index] for index in sorted(folds))
            name = f"{strip_seed(ordered[0].name)} seed {seed}"
            candidates.append(EnsembleCandidate(name_joined(configuration, seed), name, ordered))
    if not candidates:
        known = [f"{len(folds)} of {count} of {strip_seed(folds[min(folds)].name)}" for (*_, count), folds in by_seed.items()]
        raise EnsembleError(
            f"No configuration has all its folds COMPLETE: {', '.join(known)}. Let the sweep finish, or `orchestrate retry` it."
        )
    for candidate in tuple(candidates):
        stored = {row.tags.get(Tag.FLIPS) for row in candidate.rows}
        candidates += [replace(candidate, flips=flips) for flips in _FLIPS if stored == {flips}]
    return sorted(candidates, key=lambda candidate: candidate.key)


def join_predictions(folders: Sequence[Path], cache: Path) -> Path:
    """The folder with the predictions of all folds, one after another; made once, in ``cache``. All of them must fit into memory.

    Raises:
        EnsembleError: the folds do not fit each other, or a file is damaged.
    """
    if len(folders) == 1:
        return folders[0]
    infos = [read_info(folder) for folder in folders]
    _check_alike(infos, folders)
    documents = "\n".join(info.model_dump_json() for info in infos)
    joined = cache / f"folds-{hashlib.sha256(documents.encode()).hexdigest()[:32]}"
    if joined.exists():
        return joined
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(joined) as scratch:
            scratch.mkdir()
            write_predictions(
                scratch,
                np.concatenate([read_predictions(folder, cache) for folder in folders]),
                np.concatenate([read_labels(folder, cache) for folder in folders]),
                ignore_classes=infos[0].ignore_classes,
                scored_fingerprint=",".join(info.scored_fingerprint for info in infos),
                groups=_join_groups(infos),
            )
    except OSError:
        if not joined.exists():  # else another process was faster
            raise
    return joined


def _join_groups(infos: Sequence[PredictionsInfo]) -> NDArray[np.int64]:
    """No group is split between folds, so equal numbers in two folds are different groups."""
    parts, first = [], 0
    for info in infos:
        own = np.arange(info.shape[0]) if info.groups is None else np.unique(info.groups, return_inverse=True)[1]
        parts.append(own + first)
        first += int(own.max()) + 1
    return np.concatenate(parts).astype(np.int64)


def _check_alike(infos: Sequence[PredictionsInfo], folders: Sequence[Path]) -> None:
    kinds = {(info.shape[1:], info.ignore_classes) for info in infos}
    prints = [info.scored_fingerprint for info in infos]
    if len(kinds) > 1 or len(set(prints)) < len(prints):
        listed = zip(folders, infos, strict=True)
        found = "; ".join(f"{folder}: {info.shape}, {info.scored_fingerprint}" for folder, info in listed)
        raise EnsembleError(
            f"These folds cannot be joined: {found}. Expected one size, the same classes, and different images for each fold."
        )


@dataclass(frozen=True)
class Wanted:
    """Which trials may become members, and limits for all members together."""

    archs: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    """Name and value of a run's tag, or of a parameter of the configuration."""
    max_params: float | None = None
    max_latency_ms: float | None = None

    def narrow(self, rows: Sequence[RunRow]) -> tuple[list[RunRow], tuple[str, ...]]:
        """The wanted rows whose costs are known, and sentences about those whose costs are not.

        Raises:
            EnsembleError: none is left; the message lists what exists.
        """
        kept = list(rows)
        if self.archs:
            kept = _keep(kept, [row.params.get("arch", "") for row in kept], self.archs, what="architecture")
        for name, value in self.tags:
            found = [row.tags.get(name, row.params.get(name, "")) for row in kept]
            kept = _keep(kept, found, (value,), what=f"tag {name}")
        notes = []
        for _, tag in self._limits():
            unknown = [row.name for row in kept if not row.tags.get(tag)]
            if unknown:
                notes.append(
                    f"Left out: {len(unknown)} trials whose run has no tag {tag} ({unknown[0]}, ...), of an earlier version."
                )
                kept = [row for row in kept if row.tags.get(tag)]
        if not kept:
            raise EnsembleError(" ".join(["No candidate is left.", *notes, "Train them again, or ask for no such limit."]))
        return kept, tuple(notes)

    def make_limits(self, candidates: Sequence[EnsembleCandidate]) -> tuple[Limit, ...]:
        """The limits for the search; every trial must have its costs. The cost of a candidate with folds is the sum over them."""
        from orchestrator.ensemble.selection.pool import Limit  # numba takes a second

        return tuple(Limit(most, {one.key: _add_up(one, tag) for one in candidates}) for most, tag in self._limits())

    def _limits(self) -> list[tuple[float, str]]:
        limits = ((self.max_params, Tag.NUM_PARAMETERS), (self.max_latency_ms, Tag.LATENCY_MS))
        return [(most, tag) for most, tag in limits if most is not None]


def _add_up(candidate: EnsembleCandidate, tag: str) -> float:
    """The sum over the trials. Trials measure latency without flips, so it is multiplied by the number of mirror images."""
    if tag != Tag.LATENCY_MS:
        return sum(float(row.tags[tag]) for row in candidate.rows)
    views = [len(FLIPPED_AXES.get(candidate.flips or row.params.get("test_time_flips", "none"), ((),))) for row in candidate.rows]
    return sum(float(row.tags[tag]) * number for row, number in zip(candidate.rows, views, strict=True))


def parse_tag(text: str) -> tuple[str, str]:
    """Parse ``name=value``.

    Raises:
        EnsembleError: the text has another form.
    """
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise EnsembleError(f"--tag is {text!r}, expected NAME=VALUE, such as encoder=resnet18 or seed=0.")
    return name, value


def _keep(rows: Sequence[RunRow], found: Sequence[str], values: Sequence[str], *, what: str) -> list[RunRow]:
    """The rows for which the value that was found is one of those wanted."""
    kept = [row for row, value in zip(rows, found, strict=True) if value in values]
    if not kept:
        known = ", ".join(sorted({value for value in found if value})) or "none"
        raise EnsembleError(f"No finished trial has {what} {' or '.join(values)}. Found: {known}.")
    return kept
