"""Runs -> trials with their configuration and confusion matrices, wherever their files lie."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from orchestrator.analysis.cache import ValueCache, make_mark
from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.stats import compute_class_iou, sum_groups
from orchestrator.errors import TrackingError
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.outputs import read_confusions, read_info
from orchestrator.state.trial.records import OBJECTIVE, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.reader.row import RunRow, one_run_per_key
from orchestrator.tracking.tags import Tag

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

IOU = "val/iou/"
"""What the metrics of single classes begin with."""

_SUFFIX = re.compile(r"( seed \d+)?( fold \d+/\d+)?(?= again |$)")


@dataclass(frozen=True)
class Trial:
    """One training, as the analysis sees it."""

    key: str
    name: str
    configuration: str
    state: str
    run_id: str
    attempts: int
    config: dict[str, Any]
    metrics: dict[str, float]
    scored_fingerprint: str | None = None
    matrices: Matrices | None = None
    """Of the validation images, added up by group; None unless it is COMPLETE."""
    reason: str | None = None
    seed: int | None = None
    fold: tuple[int, int] | None = None
    """Index and number of folds."""
    row: str | None = None
    """Its row in the sweep file, and the mIoU published for that row."""
    reported: float | None = None

    @property
    def miou(self) -> float:
        return float("nan") if self.matrices is None else self.matrices.miou

    @property
    def is_done(self) -> bool:
        """Whether it has an mIoU to be ranked by."""
        return math.isfinite(self.miou)


def group_by(items: Iterable[T], identify: Callable[[T], K]) -> dict[K, list[T]]:
    """Identity -> its items, both in the order of the items."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(identify(item), []).append(item)
    return groups


def strip_seed(name: str) -> str:
    """A trial's name without its seed and fold: the name of its configuration."""
    return _SUFFIX.sub("", name)


class TrialLoader:
    """Reads trials from one tracking server, and the groups of images once per set of images. Used by one thread.

    values: cached values of trials that have ended, whose files are then not read.
    """

    def __init__(self, reader: RunReader, cache: Path, values: ValueCache | None = None) -> None:
        self._reader = reader
        self._files = cache / "files"
        self._values = values
        self._groups: dict[str, NDArray[np.int64] | None] = {}

    def load_all(self, runs: Iterable[RunRow]) -> list[Trial]:
        """Each trial once, even where several sweeps share it. Files come from the trial folder, or else from the server.

        Raises:
            TrackingError: a file cannot be fetched, or is damaged.
        """
        return [self._load(run) for run in one_run_per_key(runs).values()]

    def _load(self, run: RunRow) -> Trial:
        mark, values = self._mark(run), self._values
        config = values.recall("config", mark, lambda: self._read_config(run)) if values and mark else self._read_config(run)
        matrices = None
        if run.state == TrialState.COMPLETE:
            groups = self.load_groups(run)
            matrices = Matrices(lambda: self.load_confusions(run, groups), mark=mark, cache=values)
        return Trial(
            key=run.key,
            name=run.name,
            configuration=run.tags.get(Tag.CONFIGURATION, ""),
            state=run.state,
            run_id=run.run_id,
            attempts=int(run.tags.get(Tag.ATTEMPT, "1")),
            config=config,
            metrics={name: value for name, value in run.metrics.items() if not name.startswith("epoch/")},
            scored_fingerprint=run.tags.get(Tag.SCORED_FINGERPRINT),
            matrices=matrices,
            reason=run.tags.get(Tag.REASON) or None,
            seed=int(run.tags[Tag.SEED]) if Tag.SEED in run.tags else None,
            fold=_read_fold(run),
            row=run.tags.get(Tag.ROW),
            reported=float(run.tags[Tag.REPORTED]) if Tag.REPORTED in run.tags else None,
        )

    def load_confusions(
        self, run: RunRow, groups: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.integer], tuple[int, ...]]:
        """The confusion matrices (V, C, C) of a run, added up by group, and the classes that are not scored.

        groups: (V,) of a trial's images, from ``load_groups``; an ensemble's matrices are stored by group.

        Raises:
            TrackingError: they cannot be fetched, or are damaged.
        """
        path = self._reader.fetch(run, TrialFile.CONFUSIONS, self._files)
        try:
            confusions, ignored = read_confusions(path)
            return sum_groups(confusions, groups), ignored
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error

    def load_groups(self, run: RunRow) -> NDArray[np.int64] | None:
        """The group of each of a trial's validation images, (V,); None where each image is its own.

        Raises:
            EnsembleError: the file is damaged.
        """
        scored = run.tags.get(Tag.SCORED_FINGERPRINT)
        if scored is None:
            return None
        if scored not in self._groups:
            path = self._reader.find_file(run, TrialFile.PREDICTIONS_INFO, self._files)
            groups = None if path is None else read_info(path.parent).groups
            self._groups[scored] = None if groups is None else np.array(groups, np.int64)
        return self._groups[scored]

    def load_class_names(self, run: RunRow) -> list[str]:
        """The classes for which a finished trial has an IoU, in their order, which MLflow's metrics have lost.

        Raises:
            TrackingError: the trial's result cannot be fetched, or is damaged.
        """
        path = self._reader.fetch(run, TrialFile.RESULT, self._files)
        try:
            result = TrialResult.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise _damaged(path, error) from error
        return [name.removeprefix(IOU) for name in result.metrics if name.startswith(IOU)]

    def _mark(self, run: RunRow) -> str | None:
        """Equal as long as the trial's files are the same, on the server and here; None while it has not ended."""
        is_complete = run.state == TrialState.COMPLETE
        has_ended = any(state.has_ended and state == run.state for state in TrialState)
        if not is_complete and (not has_ended or not self._reader.has_file_here(run, TrialFile.SPEC, self._files)):
            return None
        groups = self.load_groups(run) if is_complete else None
        return make_mark(
            run.files_run_id, run.state, run.tags.get(Tag.ATTEMPT), run.metrics.get(OBJECTIVE),
            run.tags.get(Tag.SCORED_FINGERPRINT),
            *(self._reader.mark_own_file(run, name) for name in (TrialFile.SPEC, TrialFile.CONFUSIONS)),
            None if groups is None else groups.tolist(),
        )  # fmt: skip

    def _read_config(self, run: RunRow) -> dict[str, Any]:
        """The trial's configuration; for one that is not COMPLETE, the run's params may stand in, with dotted names."""
        is_complete = run.state == TrialState.COMPLETE
        find = self._reader.fetch if is_complete else self._reader.find_file
        path = find(run, TrialFile.SPEC, self._files)
        if path is None:
            return dict(run.params)
        try:
            return describe_config(TrialSpec.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            if not is_complete:
                return dict(run.params)
            raise TrackingError(f"{path}: cannot be read by this version: {error}") from error


def describe_config(spec: TrialSpec) -> dict[str, Any]:
    """A trial's configuration in JSON documents: the training, its data, seed and fold."""
    return json.loads(spec.model_dump_json(include={"train", "data", "seed", "fold"}))  # type: ignore[no-any-return]  # an object


def name_classes(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...], names: Sequence[str]) -> dict[int, str]:
    """Class -> name, for the classes with an IoU in matrices (V, C, C), whose names are in order; empty where numbers differ."""
    scored = np.flatnonzero(np.isfinite(compute_class_iou(confusions, ignore_classes)))
    return dict(zip(scored.tolist(), names, strict=True)) if len(scored) == len(names) else {}


def _damaged(path: Path, error: Exception) -> TrackingError:
    return TrackingError(f"{path}: damaged ({error}). Remove it, so that it is fetched or trained again.")


def _read_fold(run: RunRow) -> tuple[int, int] | None:
    if Tag.FOLD not in run.tags:
        return None
    index, _, count = run.tags[Tag.FOLD].partition("/")
    return int(index), int(count)
