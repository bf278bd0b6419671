"""Closes an attempt's record in its folder, as failed or to be gone on with; for the worker, and for whoever survives it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.state.trial.failures import FailureKind, describe, is_disk_full
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialState


def leave_waiting(trial: TrialFolder, attempt: int, *, reason: str, failure: FailureKind | None = None) -> None:
    """Close an attempt without a result: the trial can be gone on with."""
    trial.append(
        Event(
            kind="attempt_ended",
            time_s=time.time(),
            attempt=attempt,
            state=TrialState.WAITING,
            reason=reason,
            failure=failure,
        )
    )


def fail(trial: TrialFolder, attempt: int, *, failure: FailureKind, reason: str) -> TrialResult:
    """Make ``reason`` the trial's result, with the end of its log."""
    now_s = time.time()
    epochs = [event.epoch for event in trial.events()[0] if event.epoch is not None]
    result = TrialResult(
        key=trial.spec().key,
        state=TrialState.FAILED,
        epochs_run=max(epochs, default=0),
        attempt=attempt,
        started_s=first_start_s(trial, default=now_s),
        ended_s=now_s,
        reason=reason,
        failure=failure,
        deviation=trial.attempt().deviation,
        log_tail=trial.log_tail(),
    )
    trial.append(
        Event(
            kind="attempt_ended",
            time_s=now_s,
            attempt=attempt,
            state=TrialState.FAILED,
            reason=reason,
            failure=failure,
        )
    )
    trial.write_result(result)
    return result


def prune(trial: TrialFolder, attempt: int, *, reason: str) -> TrialResult:
    """Make it the trial's result that it was given up, with the metrics of its best epoch; its checkpoint stays."""
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
    trial.append(
        Event(kind="attempt_ended", time_s=now_s, attempt=attempt, state=TrialState.PRUNED, reason=reason),
    )
    trial.write_result(result)
    return result


def leave_without_space(trial: TrialFolder, attempt: int, error: BaseException) -> None:
    """Keep what is whole, remove what is half written, and say what there is space to say."""
    for unfinished in trial.path.glob(".*"):  # of this process: others write here too, such as the mirror its notes
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
    """The traceback goes to the log; a process of its own prints there anyway, a thread does not."""
    with open(trial.log, "a", encoding="utf-8", errors="backslashreplace") as log:
        traceback.print_exception(error, file=log)


@contextmanager
def _where_there_is_space() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
