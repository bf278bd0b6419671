"""Finds what MLflow lacks of a sweep's trials by comparing all its runs with the trial folders, and sends it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import mlflow  # noqa: F401  whole, before its parts (see tracking/__init__.py)
from mlflow.entities import Run

from orchestrator.errors import TrialError
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialState
from orchestrator.tracking.client import connect, search_sweep
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import STATUS, Recorder, has_result
from orchestrator.tracking.mirror_state import read_mirror_state
from orchestrator.tracking.tags import RunLabel, Tag, match_trials


@dataclass(frozen=True)
class MissingRuns:
    """What a sweep's experiment lacks. closed: keys of abandoned RUNNING runs of trials without a folder here."""

    folders: tuple[TrialFolder, ...]
    closed: tuple[str, ...]


class Repairer:
    """Compares trial folders with one tracking location. For one thread; every method may be repeated."""

    def __init__(self, location: TrackingLocation) -> None:
        self._location = location
        self._client = connect(location)
        self._recorder = Recorder(location)

    def find_missing(self, sweep: str, folders: Iterable[TrialFolder], live_keys: Callable[[], Collection[str]]) -> MissingRuns:
        """Find which of ``folders`` are missing or out of date in the sweep's experiment; no process may work in them.

        RUNNING runs that are not of ``live_keys`` are closed unless a folder here knows more.

        Raises:
            TrackingError: the server cannot be used.
        """
        with translate_errors(self._location):
            runs = search_sweep(self._client, sweep, match_trials())
        abandoned = set(self._recorder.find_abandoned(sweep, live_keys))
        running = {run.data.tags[Tag.KEY] for run in runs if run.info.status == "RUNNING"}
        current = {run.data.tags[Tag.KEY]: run for run in runs if run.data.tags.get(Tag.CURRENT) == "true"}
        missing = [f for f in folders if f.path.name in abandoned or not self._is_complete(current.get(f.path.name), f)]
        return MissingRuns(tuple(missing), tuple(sorted(running - abandoned - set(live_keys()))))

    def send(self, sweep: str, folder: TrialFolder, label: RunLabel | None) -> str:
        """Bring the trial's run up to date and return its id; raises as Recorder.send."""
        return self._recorder.send(sweep, folder, ended=True, label=label)

    def _is_complete(self, run: Run | None, folder: TrialFolder) -> bool:
        """Whether a run holds everything that an ended or interrupted trial left."""
        if run is None:
            return False
        try:
            result = folder.result()
        except TrialError:  # sending it will report the error
            return False
        if result is not None:
            return _is_newer_success(run, result) or (has_result(run, result) and run.info.status == STATUS[result.state])
        state = read_mirror_state(folder, str(self._location))
        is_same = state is not None and state.run_id == run.info.run_id and state.offset == folder.events()[1]
        return is_same and run.info.status == "KILLED"


def _is_newer_success(run: Run, result: TrialResult) -> bool:
    """Whether the run records a success at least as recent as ``result``, perhaps of another machine: it stands."""
    tags = run.data.tags
    is_complete = tags.get(Tag.STATE) == TrialState.COMPLETE and run.info.status == STATUS[TrialState.COMPLETE]
    return is_complete and int(tags.get(Tag.ATTEMPT, 0)) >= result.attempt
