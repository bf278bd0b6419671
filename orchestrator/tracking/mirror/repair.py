"""What the server lacks of a sweep's trials, told by a look at all its runs; and sending it. For `orchestrate sync`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import mlflow  # noqa: F401  whole, before its parts (see __init__.py)
from mlflow.entities import Run

from orchestrator.errors import TrialError
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialState
from orchestrator.tracking.client import connect, find_experiment, search_runs
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import STATUS, Recorder, tells
from orchestrator.tracking.mirrored import read_sent
from orchestrator.tracking.tags import RunLabel, Tag, match_trials


@dataclass(frozen=True)
class Lacking:
    """What a sweep's experiment lacks. closed: keys of runs that were RUNNING for nobody, of trials without a folder here."""

    folders: tuple[TrialFolder, ...]
    closed: tuple[str, ...]


class Repairer:
    """Compares trial folders with one tracking place. Used by one thread; every method may be repeated without harm."""

    def __init__(self, location: TrackingLocation) -> None:
        self._location = location
        self._client = connect(location)
        self._recorder = Recorder(location)

    def look(self, sweep: str, folders: Iterable[TrialFolder], live_keys: Callable[[], Collection[str]]) -> Lacking:
        """Find out which of ``folders``, in which nobody works, are not in the sweep's experiment, or not as they ended.

        Runs that are RUNNING there, but not of ``live_keys``, are closed where no folder here tells more.

        Raises:
            TrackingError: the server cannot be used.
        """
        with translate_errors(self._location):
            experiment = find_experiment(self._client, sweep)
            runs = [] if experiment is None else search_runs(self._client, [experiment], match_trials())
        abandoned = set(self._recorder.find_abandoned(sweep, live_keys))
        running = {run.data.tags[Tag.KEY] for run in runs if run.info.status == "RUNNING"}
        current = {run.data.tags[Tag.KEY]: run for run in runs if run.data.tags.get(Tag.CURRENT) == "true"}
        lacking = [f for f in folders if f.path.name in abandoned or not self._has_all(current.get(f.path.name), f)]
        return Lacking(tuple(lacking), tuple(sorted(running - abandoned - set(live_keys()))))

    def send(self, sweep: str, folder: TrialFolder, label: RunLabel | None) -> str:
        """Bring the trial's run up to date and return its id; raises as Recorder.send."""
        return self._recorder.send(sweep, folder, ended=True, label=label)

    def _has_all(self, run: Run | None, folder: TrialFolder) -> bool:
        """Whether a run says all that an ended or interrupted trial has left."""
        if run is None:
            return False
        try:
            result = folder.result()
        except TrialError:  # whoever tries to send it tells
            return False
        if result is not None:
            return _is_done(run, result) or (tells(run, result) and run.info.status == STATUS[result.state])
        sent = read_sent(folder, str(self._location))
        is_same = sent is not None and sent.run_id == run.info.run_id and sent.offset == folder.events()[1]
        return is_same and run.info.status == "KILLED"


def _is_done(run: Run, result: TrialResult) -> bool:
    """Whether the run tells of a success that is not older than ``result``, be it another machine's: that stands."""
    tags = run.data.tags
    is_complete = tags.get(Tag.STATE) == TrialState.COMPLETE and run.info.status == STATUS[TrialState.COMPLETE]
    return is_complete and int(tags.get(Tag.ATTEMPT, 0)) >= result.attempt
