"""Records how an attempt ended: for the worker, and for the dispatcher when a worker is dead."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.state.trial.failures import FailureKind, describe, is_disk_full
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialState


def record_result(trial: TrialFolder, result: TrialResult) -> TrialResult:
    """End the attempt and the trial; the result file is written last."""
    ended = Event(
        kind="attempt_ended",
        time_s=result.ended_s,
        attempt=result.attempt,
        state=result.state,
        reason=result.reason,
        failure=result.failure,
    )
    trial.append(ended)
    trial.write_result(result)
    return result


def leave_waiting(trial: TrialFolder, attempt: int, *, reason: str, failure: FailureKind | None = None) -> None:
    """End the attempt without a result: the trial can be resumed."""
    state, now_s = TrialState.WAITING, time.time()
    trial.append(Event(kind="attempt_ended", time_s=now_s, attempt=attempt, state=state, reason=reason, failure=failure))


def fail(trial: TrialFolder, attempt: int, *, failure: FailureKind, reason: str) -> TrialResult:
    """End the trial as FAILED, with the end of its log."""
    now_s = time.time()
    result = TrialResult(
        key=trial.spec().key,
        state=TrialState.FAILED,
        epochs_run=max((event.epoch or 0 for event in trial.events()[0]), default=0),
        attempt=attempt,
        started_s=first_start_s(trial, default=now_s),
        ended_s=now_s,
        reason=reason,
        failure=failure,
        deviation=trial.attempt().deviation,
        log_tail=trial.log_tail(),
    )
    return record_result(trial, result)


def prune(trial: TrialFolder, attempt: int, *, reason: str) -> TrialResult:
    """End the trial as PRUNED, with the metrics of its best epoch; its checkpoint stays."""
    now_s = time.time()
    epochs = [event for event in trial.events()[0] if event.kind == "epoch"]
    best = max(epochs, key=lambda event: event.metrics.get(OBJECTIVE, -1.0), default=None)
    result = TrialResult(
        key=trial.spec().key,
        state=TrialState.PRUNED,
        metrics=best.metrics if best else {},
        best_epoch=best.epoch if best else None,
        epochs_run=max((event.epoch or 0 for event in epochs), default=0),
        attempt=attempt,
        started_s=first_start_s(trial, default=now_s),
        ended_s=now_s,
        reason=reason,
        deviation=trial.attempt().deviation,
    )
    return record_result(trial, result)


def leave_without_space(trial: TrialFolder, attempt: int, error: BaseException) -> None:
    """End an attempt on a full disk: delete half-written files and record what there is space to record."""
    for unfinished in trial.path.glob(".*"):  # of this process: others write here too, such as the mirror
        if unfinished.name.endswith((".scratch", f".{os.getpid()}")):
            unfinished.unlink(missing_ok=True)
    with _where_there_is_space():
        leave_waiting(trial, attempt, reason=describe(error), failure=FailureKind.DISK_FULL)
    with _where_there_is_space():
        log_traceback(trial, error)


def first_start_s(trial: TrialFolder, *, default: float) -> float:
    """Unix time at which the first attempt started."""
    return min((event.time_s for event in trial.events()[0] if event.kind == "attempt_started"), default=default)


def log_traceback(trial: TrialFolder, error: BaseException) -> None:
    """Write the traceback to the log."""
    with open(trial.log, "a", encoding="utf-8", errors="backslashreplace") as log:
        traceback.print_exception(error, file=log)


@contextmanager
def _where_there_is_space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
