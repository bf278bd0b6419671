"""Runs -> rows for the leaderboard, a trial's files wherever it was trained, finished trials; and ensembles as runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.checkpoint import mark_file
from orchestrator.errors import TrackingError, TrialError
from orchestrator.tracking.connection import all_experiments, connect, find_experiment, search_runs, told
from orchestrator.tracking.ensembles import log_ensemble
from orchestrator.tracking.index import RunIndex
from orchestrator.tracking.labels import ROW, EnsembleRecord
from orchestrator.tracking.place import Place
from orchestrator.tracking.rows import RunRow, make_row
from orchestrator.trial import TrialFolder, TrialState


class RunReader:
    """Reads runs of one tracking place. Used by one thread."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = connect(place)
        self._index = None if place.index is None or place.is_database else RunIndex(place, self._client, place.index)

    def list_runs(self, sweeps: Sequence[str] = ()) -> list[RunRow]:
        """Current runs of trials, of the sweeps named or of all, in the order of their start.

        Raises:
            TrackingError: the server cannot be used, or has no such sweep.
        """
        with told(self._place):
            return self._list_current("trial", sweeps)

    def list_ensembles(self, sweeps: Sequence[str] = ()) -> list[RunRow]:
        """Current runs of ensembles, fixed or chosen, of the sweeps named or of all, in the order of their start.

        Raises:
            TrackingError: the server cannot be used, or has no such sweep.
        """
        with told(self._place):
            return self._list_current("ensemble", sweeps)

    def list_table_ensembles(self, sweep: str) -> list[RunRow]:
        """Those of a sweep that are rows of its table.

        Raises:
            TrackingError: the server cannot be used, or has no such sweep.
        """
        return [row for row in self.list_ensembles([sweep]) if ROW in row.tags]

    def latest_sweep(self) -> str | None:
        """The sweep whose trial started last."""
        with told(self._place):
            experiments = self._experiments(())
            found = self._client.search_runs(
                experiments, "tags.kind = 'trial'", max_results=1, order_by=["attributes.start_time DESC"]
            )
            return found[0].data.tags.get("sweep") if found else None

    def find_finished(self, keys: Iterable[str]) -> dict[str, RunRow]:
        """The runs under which trials are COMPLETE, on whatever machine and in whatever sweep; keys without one are left out."""
        with told(self._place):
            wanted = frozenset(keys)
            rows = self._list_complete() if wanted else []
            found: dict[str, RunRow] = {}
            for row in sorted(rows, key=lambda row: "cached_from" in row.tags):
                if row.key in wanted:
                    found.setdefault(row.key, row)
            return found

    def fetch(self, run: RunRow, name: str, cache: Path) -> Path:
        """A file of the run's trial: from its folder on this machine if there is one, else from the server, once.

        Raises:
            TrackingError: neither has it.
        """
        path = self.find_file(run, name, cache)
        if path is None:
            raise TrackingError(
                f"{self._place}: run {run.files_run_id} ({run.name}) has no file {name}. Was its artifact folder removed, or "
                "does it lie on another machine? Run the sweep again to train the trial anew."
            )
        return path

    def find_file(self, run: RunRow, name: str, cache: Path, *, from_folder: bool = True) -> Path | None:
        """As ``fetch``, but None where the run has no such file. from_folder: whether this machine's trial folder will do.

        Raises:
            TrackingError: the server cannot be used.
        """
        local = TrialFolder(self._place.trials / run.key)
        if from_folder and (local.path / name).exists() and _is_of(local, run.key):
            return local.path / name
        target = cache / run.files_run_id / name
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with told(self._place):
            if all(file.path != name for file in self._client.list_artifacts(run.files_run_id)):
                return None
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                Path(self._client.download_artifacts(run.files_run_id, name, scratch)).replace(target)
        return target

    def has_file_here(self, run: RunRow, name: str, cache: Path) -> bool:
        """Whether ``find_file`` would ask no server."""
        return (self._place.trials / run.key / name).exists() or (cache / run.files_run_id / name).exists()

    def mark_own_file(self, run: RunRow, name: str) -> str | None:
        """What tells a file of the trial's folder on this machine from others under its name; None where it has none."""
        try:
            return mark_file(self._place.trials / run.key / name)
        except OSError:
            return None

    def log_ensemble(self, sweep: str, record: EnsembleRecord) -> str:
        """Record an ensemble as a run of the sweep's experiment, once for the same document; returns the run's id."""
        with told(self._place):
            return log_ensemble(self._client, self._place, sweep, record)

    def experiment_id(self, sweep: str) -> str:
        """The id of the sweep's experiment.

        Raises:
            TrackingError: there is none.
        """
        with told(self._place):
            return self._experiments([sweep])[0]

    def _list_complete(self) -> list[RunRow]:
        """All at once: MLflow 3.17 knows no IN for tags, and a search a key is a round trip a key."""
        if self._index is not None:
            ours = [str(e.experiment_id) for e in all_experiments(self._client) if e.tags.get("orchestrate") == "sweep"]
            return [r for r in self._index.read(ours) if r.tags.get("kind") == "trial" and r.state == TrialState.COMPLETE]
        query = "tags.state = 'COMPLETE' and tags.kind = 'trial'"
        return [make_row(run) for run in search_runs(self._client, self._experiments(()), query)]

    def _list_current(self, kind: str, sweeps: Sequence[str]) -> list[RunRow]:
        experiments = self._experiments(sweeps)
        if self._index is not None:
            rows = [r for r in self._index.read(experiments) if r.tags.get("kind") == kind and r.tags.get("current") == "true"]
        else:
            query = f"tags.kind = '{kind}' and tags.current = 'true'"
            rows = [make_row(run) for run in search_runs(self._client, experiments, query)]
        return sorted(rows, key=lambda row: (row.start_s, row.run_id))

    def _experiments(self, sweeps: Sequence[str]) -> list[str]:
        if not sweeps:
            return [str(e.experiment_id) for e in all_experiments(self._client)]
        found = {sweep: find_experiment(self._client, sweep) for sweep in sweeps}
        missing = [sweep for sweep, experiment in found.items() if experiment is None]
        if missing:
            known = sorted(e.name for e in all_experiments(self._client) if e.tags.get("orchestrate") == "sweep")
            raise TrackingError(
                f"{self._place}: has no sweep {', '.join(missing)}. Known: {', '.join(known) or 'none yet'}. "
                "Run `orchestrate sweep FILE` first, or point MLFLOW_TRACKING_URI at the server that has it."
            )
        return [experiment for experiment in found.values() if experiment is not None]


def _is_of(folder: TrialFolder, key: str) -> bool:
    try:
        return folder.spec().key == key
    except TrialError:
        return False  # another version's folder: the server's copy is read instead
