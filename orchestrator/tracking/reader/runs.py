"""Reads runs of trials and ensembles, and their files wherever they lie."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from orchestrator.errors import TrackingError, TrialError
from orchestrator.state.files import mark_file, write_atomically
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import FLIPS, TrialState
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.index import RunIndex
from orchestrator.tracking.reader.row import RunRow, one_run_per_key
from orchestrator.tracking.reader.source import open_source
from orchestrator.tracking.tags import RunKind, Tag, is_sweep, match_tags, match_trials
from trainers.config import describe_unknown

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOCK = ".lock"
_ENDED = "ended"
"""Beside downloaded files: end of the result they belong to. A trial that is trained again keeps its run."""


class RunReader:
    """Reads runs of one tracking location. For one thread."""

    def __init__(self, location: TrackingLocation) -> None:
        self.location = location
        self._source = open_source(location)
        self._index = None if location.index is None or location.is_database else RunIndex(location, self._source, location.index)

    @cached_property
    def _client(self) -> MlflowClient:
        """Downloads files; created when first needed, because importing mlflow takes seconds."""
        from orchestrator.tracking.client import connect

        return connect(self.location)

    def list_runs(self, sweeps: Sequence[str] = ()) -> list[RunRow]:
        """Current runs of trials of these sweeps, or of all, in the order of their start.

        Raises:
            TrackingError: the server cannot be used, or has no such sweep.
        """
        return self._list_current(RunKind.TRIAL, sweeps)

    def list_ensembles(self, sweeps: Sequence[str] = ()) -> list[RunRow]:
        """As ``list_runs``, but of fixed and chosen ensembles."""
        return self._list_current(RunKind.ENSEMBLE, sweeps)

    def latest_sweep(self) -> str | None:
        """The sweep whose trial started last."""
        with translate_errors(self.location):
            latest = self._source.find_latest(self._experiments(()), match_trials())
            return latest.sweep if latest is not None else None

    def find_finished(self, keys: Iterable[str]) -> dict[str, RunRow]:
        """Key -> COMPLETE run, of any machine and sweep; keys without one are missing."""
        with translate_errors(self.location):
            wanted = frozenset(keys)
            if not wanted:
                return {}
            # All in one search: MLflow 3.17 has no IN for tags, and one search per key is one round trip per key.
            complete = {Tag.KIND: RunKind.TRIAL, Tag.STATE: TrialState.COMPLETE}
            experiments = self._source.list_experiments()
            sweeps = [found.experiment_id for found in experiments if is_sweep(found.tags)]
            # made by hand, or by other tools, whose runs the index would cache
            others = [found.experiment_id for found in experiments if not is_sweep(found.tags)]
            rows = [*self._select(sweeps, complete), *self._search(others, complete)]
            return one_run_per_key(row for row in rows if row.key in wanted)

    def fetch(self, run: RunRow, name: str, cache: Path, *, from_folder: bool = True) -> Path:
        """A file of the run's trial, from its folder on this machine or, once per result, from the server.

        from_folder: whether the folder may be used.

        Raises:
            TrackingError: neither has it.
        """
        path = self.find_file(run, name, cache, from_folder=from_folder)
        if path is None:
            raise TrackingError(
                f"{self.location}: run {run.files_run_id} ({run.name}) has no file {name}. Was its artifact folder removed, or "
                "is it on another machine? Run the sweep again to retrain it."
            )
        return path

    def find_file(self, run: RunRow, name: str, cache: Path, *, from_folder: bool = True) -> Path | None:
        """As ``fetch``, but None if the run has no such file. name: including its folder, if it has one.

        Raises:
            TrackingError: the server cannot be used.
        """
        local = TrialFolder(self.location.trials / run.key)
        if from_folder and (local.path / name).exists() and _is_of(local, run):
            return local.path / name
        fetched = cache / run.files_run_id
        target = fetched / name
        if _is_current(fetched, run) and target.exists():
            return target
        _make_current(fetched, run)
        with translate_errors(self.location):
            if name not in self._source.list_files(run.files_run_id, os.path.dirname(name)):
                return None
            target.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=fetched) as scratch:
                Path(self._client.download_artifacts(run.files_run_id, name, scratch)).replace(target)
        return target

    def has_file_here(self, run: RunRow, name: str, cache: Path) -> bool:
        """Whether ``find_file`` needs no server."""
        fetched = cache / run.files_run_id
        return (self.location.trials / run.key / name).exists() or (_is_current(fetched, run) and (fetched / name).exists())

    def mark_own_file(self, run: RunRow, name: str) -> str | None:
        """A mark that changes with a file of the trial's folder on this machine; None if there is no such file."""
        try:
            return mark_file(f"{self.location.trials}/{run.key}/{name}")  # creating a Path takes longer than the stat
        except OSError:
            return None

    def experiment_id(self, sweep: str) -> str:
        """The id of the sweep's experiment.

        Raises:
            TrackingError: there is none.
        """
        with translate_errors(self.location):
            return self._experiments([sweep])[0]

    def _list_current(self, kind: RunKind, sweeps: Sequence[str]) -> list[RunRow]:
        with translate_errors(self.location):
            rows = self._select(self._experiments(sweeps), {Tag.KIND: kind, Tag.CURRENT: "true"})
        return sorted(rows, key=lambda row: (row.start_s, row.run_id))

    def _select(self, experiments: Sequence[str], wanted: Mapping[Tag, str]) -> list[RunRow]:
        """Runs with all these tags."""
        if self._index is None:
            return self._search(experiments, wanted)
        return [row for row in self._index.read(experiments) if wanted.items() <= row.tags.items()]

    def _search(self, experiments: Sequence[str], wanted: Mapping[Tag, str]) -> list[RunRow]:
        return self._source.search(experiments, match_tags(wanted)) if experiments else []

    def _experiments(self, sweeps: Sequence[str]) -> list[str]:
        if not sweeps:
            return [e.experiment_id for e in self._source.list_experiments()]
        found = {sweep: self._source.find_experiment(sweep) for sweep in sweeps}
        missing = [sweep for sweep, experiment in found.items() if experiment is None]
        if missing:
            known = sorted(e.name for e in self._source.list_experiments() if is_sweep(e.tags))
            raise TrackingError(
                f"{self.location}: {describe_unknown(missing[0], known, 'sweep')} "
                "Run `orchestrate sweep FILE` first, or point MLFLOW_TRACKING_URI at the server that has it."
            )
        return [experiment for experiment in found.values() if experiment is not None]


def _is_current(fetched: Path, run: RunRow) -> bool:
    """Whether the files in ``fetched`` belong to the run's present result."""
    try:
        return (fetched / _ENDED).read_text(encoding="utf-8") == str(run.end_ms)
    except FileNotFoundError:
        return False


def _make_current(fetched: Path, run: RunRow) -> None:
    """Delete files of an earlier result of the run."""
    fetched.mkdir(parents=True, exist_ok=True)
    with FileLock(fetched / _LOCK):
        if _is_current(fetched, run):
            return
        for path in (*fetched.iterdir(), *fetched.glob(f"{FLIPS}/*")):
            if path.is_file() and path.name != _LOCK:
                path.unlink()
        write_atomically(fetched / _ENDED, str(run.end_ms))


def _is_of(folder: TrialFolder, run: RunRow) -> bool:
    """Whether the folder holds the run's trial and a result as recent as the run's; an adopted one may be older."""
    try:
        result = folder.result()
        if result is not None and run.state == TrialState.COMPLETE and round(result.ended_s * 1000) < (run.end_ms or 0):
            return False
        return folder.spec().key == run.key
    except TrialError:
        return False  # of another version: the server's copy is read instead
