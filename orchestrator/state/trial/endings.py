"""Records how an attempt ended: for the worker, and for the dispatcher when a worker is dead."""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.state.trial.failures import FailureKind, describe, is_disk_full
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialState


def record_result(trial: TrialFolder, attempt: int, state: TrialState, **found: Any) -> TrialResult:
    """End the attempt and the trial; the result file is written last.

    found: the other fields of the result, except those that the folder knows.
    """
    now_s = time.time()
    events = trial.events()[0]
    known = {
        "key": trial.spec().key,
        "state": state,
        "attempt": attempt,
        "epochs_run": max((event.epoch or 0 for event in events), default=0),
        "started_s": min((event.time_s for event in events if event.kind == "attempt_started"), default=now_s),
        "ended_s": now_s,
        "deviation": trial.attempt().deviation,
    }
    result = TrialResult.model_validate(known | found)
    _end_attempt(trial, attempt, state, time_s=result.ended_s, reason=result.reason, failure=result.failure)
    trial.write_result(result)
    return result


def leave_waiting(trial: TrialFolder, attempt: int, *, reason: str, failure: FailureKind | None = None) -> None:
    """End the attempt without a result: the trial can be resumed."""
    _end_attempt(trial, attempt, TrialState.WAITING, time_s=time.time(), reason=reason, failure=failure)


def _end_attempt(trial: TrialFolder, attempt: int, state: TrialState, **found: Any) -> None:
    trial.append(Event(kind="attempt_ended", attempt=attempt, state=state, **found))


def fail(trial: TrialFolder, attempt: int, *, failure: FailureKind, reason: str) -> TrialResult:
    """End the trial as FAILED, with the end of its log."""
    return record_result(trial, attempt, TrialState.FAILED, reason=reason, failure=failure, log_tail=trial.log_tail())


def prune(trial: TrialFolder, attempt: int, *, reason: str) -> TrialResult:
    """End the trial as PRUNED, with the metrics of its best epoch; its checkpoint stays."""
    epochs = [event for event in trial.events()[0] if event.kind == "epoch"]
    best = max(epochs, key=lambda event: event.metrics.get(OBJECTIVE, -1.0), default=None)
    found = {"metrics": best.metrics, "best_epoch": best.epoch} if best else {}
    return record_result(trial, attempt, TrialState.PRUNED, reason=reason, **found)


def leave_without_space(trial: TrialFolder, attempt: int, error: BaseException) -> None:
    """End an attempt on a full disk: delete half-written files and record what there is space to record."""
    for unfinished in trial.path.glob(".*"):  # of this process: others write here too, such as the mirror
        if unfinished.name.endswith((".scratch", f".{os.getpid()}")):
            unfinished.unlink(missing_ok=True)
    with _where_there_is_space():
        leave_waiting(trial, attempt, reason=describe(error), failure=FailureKind.DISK_FULL)
    with _where_there_is_space():
        log_traceback(trial, error)


def log_traceback(trial: TrialFolder, error: BaseException) -> None:
    """Write the traceback to the log."""
    with open(trial.path / TrialFile.LOG, "a", encoding="utf-8", errors="backslashreplace") as log:
        traceback.print_exception(error, file=log)


@contextmanager
def _where_there_is_space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
