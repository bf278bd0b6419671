"""Finds what MLflow lacks of a sweep's trials by comparing all its runs with the trial folders."""

from collections.abc import Callable, Collection, Iterable

import mlflow  # noqa: F401  whole, before its parts (see tracking/__init__.py)
from mlflow.entities import Run

from orchestrator.errors import TrialError
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialState
from orchestrator.tracking.client import search_sweep
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.mirror.recorder import STATUS, Recorder, has_result
from orchestrator.tracking.mirror_state import read_mirror_state
from orchestrator.tracking.tags import Tag, match_trials


def find_missing(
    recorder: Recorder, sweep: str, folders: Iterable[TrialFolder], live_keys: Callable[[], Collection[str]]
) -> tuple[list[TrialFolder], tuple[str, ...]]:
    """Find which of ``folders`` are missing or out of date in the sweep's experiment; no process may work in them.

    RUNNING runs that are not of ``live_keys`` are closed unless a folder here knows more; returns their keys too.

    Raises:
        TrackingError: the server cannot be used.
    """
    with translate_errors(recorder.location):
        runs = search_sweep(recorder.client, sweep, match_trials())
    abandoned = set(recorder.find_abandoned(sweep, live_keys))
    running = {run.data.tags[Tag.KEY] for run in runs if run.info.status == "RUNNING"}
    current = {run.data.tags[Tag.KEY]: run for run in runs if run.data.tags.get(Tag.CURRENT) == "true"}
    server = str(recorder.location)
    missing = [f for f in folders if f.path.name in abandoned or not _is_complete(current.get(f.path.name), f, server)]
    return missing, tuple(sorted(running - abandoned - set(live_keys())))


def _is_complete(run: Run | None, folder: TrialFolder, server: str) -> bool:
    """Whether a run holds everything that an ended or interrupted trial left."""
    if run is None:
        return False
    try:
        result = folder.result()
    except TrialError:  # sending it will report the error
        return False
    if result is not None:
        return _is_newer_success(run, result) or (has_result(run, result) and run.info.status == STATUS[result.state])
    state = read_mirror_state(folder, server)
    is_same = state is not None and state.run_id == run.info.run_id and state.offset == folder.events()[1]
    return is_same and run.info.status == "KILLED"


def _is_newer_success(run: Run, result: TrialResult) -> bool:
    """Whether the run records a success at least as recent as ``result``, perhaps of another machine: it stands."""
    tags = run.data.tags
    is_complete = tags.get(Tag.STATE) == TrialState.COMPLETE and run.info.status == STATUS[TrialState.COMPLETE]
    return is_complete and int(tags.get(Tag.ATTEMPT, 0)) >= result.attempt
