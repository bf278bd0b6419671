"""Trials -> candidates: each trial for itself, or all folds of one configuration and seed joined into one set of predictions.

Where a second set was kept, averaged over mirror images, it is a candidate of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.results import name_joined
from orchestrator.analysis.trials import strip_seed
from orchestrator.ensemble.selection.pool import Limit
from orchestrator.errors import EnsembleError
from orchestrator.state.trial.outputs import PredictionsInfo, read_info, read_labels, read_predictions, write_predictions
from orchestrator.state.trial.records import FLIPS, FLIPS_MIOU, OBJECTIVE
from orchestrator.tracking.tags import SYSTEM, Tag
from trainers.config import FLIPPED_AXES, Flips

if TYPE_CHECKING:
    from orchestrator.tracking.reader.row import RunRow


_FLIPS: tuple[Flips, ...] = ("horizontal", "both")


@dataclass(frozen=True)
class EnsembleCandidate:
    """What may become a member: one of the sets of predictions that some trials have left.

    model: whose predictions they are: the trial's key, or the configuration's id and the seed. title: what people call that.
    rows: one trial, or those of all folds, in the order of the folds. flips: mirror images that they are averaged over; None: as
    the trials were validated.
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
        """What the trials' runs call the mIoU of these predictions."""
        return OBJECTIVE if self.flips is None else FLIPS_MIOU

    def list_files(self, names: Sequence[str]) -> list[str]:
        """Where the trials keep these files of the predictions."""
        return list(names) if self.flips is None else [f"{FLIPS}/{name}" for name in names]

    def share(self, weight: float) -> dict[str, float]:
        """Key of each trial -> what it weighs where the candidate weighs ``weight``: new pictures get the folds' mean."""
        return {row.key: weight / len(self.rows) for row in self.rows}


def list_candidates(rows: Sequence[RunRow]) -> list[EnsembleCandidate]:
    """Join the folds of finished trials; what lacks a fold is no candidate. In the order of their keys, with flips or without.

    Raises:
        EnsembleError: all trials are folds, and none of their configurations is complete.
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
    flipped = [found for candidate in candidates if (found := _flip(candidate)) is not None]
    return sorted([*candidates, *flipped], key=lambda candidate: candidate.key)


def _flip(candidate: EnsembleCandidate) -> EnsembleCandidate | None:
    """The candidate with the flips that all its trials have kept; None where they have not, or a later version's."""
    kept = {row.tags.get(Tag.FLIPS) for row in candidate.rows}
    found: Flips | None = next((flips for flips in _FLIPS if kept == {flips}), None)
    return None if found is None else replace(candidate, flips=found)


def join_predictions(folders: Sequence[Path], cache: Path) -> Path:
    """The folder of predictions of all folds' validation images, one fold after another; made once, below ``cache``.

    Memory holds them once more while they are joined.

    Raises:
        EnsembleError: the folds do not fit each other, or a file is damaged.
    """
    if len(folders) == 1:
        return folders[0]
    infos = [read_info(folder) for folder in folders]
    _check_alike(infos, folders)
    joined = cache / f"folds-{_identify(infos)}"
    if joined.exists():
        return joined
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=cache, prefix=".folds."))
    write_predictions(
        scratch,
        np.concatenate([read_predictions(folder, cache) for folder in folders]),
        np.concatenate([read_labels(folder, cache) for folder in folders]),
        ignore_classes=infos[0].ignore_classes,
        scored_fingerprint=",".join(info.scored_fingerprint for info in infos),
        groups=_join_groups(infos),
    )
    try:
        os.replace(scratch, joined)
    except OSError:  # another process was faster
        shutil.rmtree(scratch)
    return joined


def _join_groups(infos: Sequence[PredictionsInfo]) -> NDArray[np.int64]:
    """The splitting keeps a group within one fold, so that numbers of two folds never mean the same group."""
    parts, first = [], 0
    for info in infos:
        own = np.arange(info.shape[0]) if info.groups is None else np.unique(info.groups, return_inverse=True)[1]
        parts.append(own + first)
        first += int(own.max()) + 1
    return np.concatenate(parts).astype(np.int64)


def _identify(infos: Sequence[PredictionsInfo]) -> str:
    text = "\n".join(info.model_dump_json() for info in infos)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _check_alike(infos: Sequence[PredictionsInfo], folders: Sequence[Path]) -> None:
    kinds = {(info.shape[1:], info.ignore_classes) for info in infos}
    prints = [info.scored_fingerprint for info in infos]
    if len(kinds) > 1 or len(set(prints)) < len(prints):
        listed = zip(folders, infos, strict=True)
        found = "; ".join(f"{folder}: {info.shape}, {info.scored_fingerprint}" for folder, info in listed)
        raise EnsembleError(
            f"These folds cannot be joined: {found}. Expected one size, the same classes, and images of its own for each fold."
        )


"""Tags of a trial's run."""


@dataclass(frozen=True)
class Wanted:
    """Candidates of these architectures, with all these tags; members of at most so many parameters and milliseconds together."""

    archs: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    """Name and value, as MLflow's page shows them: of a tag, or of a parameter of the configuration."""
    max_params: float | None = None
    max_latency_ms: float | None = None

    def narrow(self, rows: Sequence[RunRow]) -> tuple[list[RunRow], tuple[str, ...]]:
        """The rows that are wanted and whose costs are known, and sentences about those left out for what nobody knows of them.

        Raises:
            EnsembleError: none is left; the message says what there is.
        """
        kept = list(rows)
        if self.archs:
            kept = _keep(kept, lambda row: row.params.get("arch", ""), self.archs, what="architecture")
        for name, value in self.tags:
            kept = _keep(kept, lambda row, name=name: _read(row, name), (value,), what=f"tag {name}")  # type: ignore[misc]  # mypy sees no default of a lambda
        notes = []
        for most, tag in self._limits():
            unknown = [row.name for row in kept if most is not None and not row.tags.get(tag)]
            if unknown:
                notes.append(
                    f"Left out: {len(unknown)} trials whose run has no tag {tag} ({unknown[0]}, ...), of an earlier version."
                )
                kept = [row for row in kept if row.tags.get(tag)]
        if not kept:
            raise EnsembleError(" ".join(["No candidate is left.", *notes, "Train them again, or ask for no such limit."]))
        return kept, tuple(notes)

    def make_limits(self, candidates: Iterable[EnsembleCandidate]) -> tuple[Limit, ...]:
        """What the search has to keep to; every trial must have its costs, which those of folds are all of."""
        costly = list(candidates)
        return tuple(
            Limit(tag.removeprefix(SYSTEM), most, {candidate.key: _add_up(candidate, tag) for candidate in costly})
            for most, tag in self._limits()
            if most is not None
        )

    def _limits(self) -> tuple[tuple[float | None, str], ...]:
        return (self.max_params, Tag.NUM_PARAMETERS), (self.max_latency_ms, Tag.LATENCY_MS)


EVERYTHING = Wanted()


def _add_up(candidate: EnsembleCandidate, tag: str) -> float:
    """What the trials cost together; one picture takes as long for each of its mirror images, which no trial measures itself."""
    if tag != Tag.LATENCY_MS:
        return sum(float(row.tags[tag]) for row in candidate.rows)
    views = [len(FLIPPED_AXES.get(candidate.flips or row.params.get("test_time_flips", "none"), ((),))) for row in candidate.rows]
    return sum(float(row.tags[tag]) * number for row, number in zip(candidate.rows, views, strict=True))


def parse_tag(text: str) -> tuple[str, str]:
    """``name=value``.

    Raises:
        EnsembleError: it is something else.
    """
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise EnsembleError(f"--tag is {text!r}, expected NAME=VALUE, such as encoder=resnet18 or seed=0.")
    return name, value


def _read(row: RunRow, name: str) -> str:
    return row.tags.get(name, row.params.get(name, ""))


def _keep(rows: Sequence[RunRow], read: Callable[[RunRow], str], values: Sequence[str], *, what: str) -> list[RunRow]:
    found = {read(row) for row in rows}
    kept = [row for row in rows if read(row) in values]
    if not kept:
        known = ", ".join(sorted(value for value in found if value)) or "none"
        raise EnsembleError(f"No finished trial has {what} {' or '.join(values)}. Found: {known}.")
    return kept
