"""How an attempt ended: the worker's exit code and the trial folder, read together by the dispatcher."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.errors import TrialError
from orchestrator.home import Home
from orchestrator.launchers.base import JobExit
from orchestrator.ledger import Ledger
from orchestrator.trial import Event, TrialFolder, TrialResult, TrialState
from orchestrator.worker import ExitCode, fail


@dataclass(frozen=True)
class Ending:
    """state: COMPLETE, PRUNED, FAILED, or WAITING where the trial can be gone on with.

    is_elsewhere: another process works in the folder.
    """

    state: TrialState
    result: TrialResult | None = None
    reason: str | None = None
    is_elsewhere: bool = False


def judge_exit(folder: TrialFolder, attempt: int, exit: JobExit, *, was_stopped: bool) -> Ending:
    """Read how an attempt ended; where the worker left no result of its own, write one.

    was_stopped: the dispatcher asked for the end, so that a signal is no failure.
    """
    if exit.code == ExitCode.LOCKED:
        return Ending(TrialState.WAITING, reason="another process works in its folder", is_elsewhere=True)
    try:
        result = folder.result()
    except TrialError as error:
        return Ending(TrialState.FAILED, reason=str(error))
    if result is not None:
        return Ending(result.state, result, result.reason)
    if exit.code == ExitCode.STOPPED:
        return Ending(TrialState.WAITING, reason="stopped")
    if exit.code < 0 and was_stopped:
        end_abandoned(folder, attempt, "killed on request")
        return Ending(TrialState.WAITING, reason="killed on request")
    result = fail(folder, attempt, describe_exit(exit))
    return Ending(TrialState.FAILED, result, result.reason)


def describe_exit(exit: JobExit) -> str:
    """Why a worker ended that said nothing itself."""
    if exit.code >= 0:
        return f"the worker ended with exit code {exit.code} and left no result"
    try:
        name = signal.Signals(-exit.code).name
    except ValueError:
        name = "unknown"
    hint = "; perhaps out of memory" if exit.code == -signal.SIGKILL else ""
    return f"killed by signal {-exit.code} ({name}){hint}"


def end_abandoned(folder: TrialFolder, attempt: int, reason: str) -> None:
    """Close the record of an attempt that could not close it itself; the trial can be gone on with."""
    folder.append(
        Event(kind="attempt_ended", time_s=time.time(), attempt=attempt, state=TrialState.WAITING, reason=reason),
    )


def reclaim_orphans(ledger: Ledger, home: Home) -> Iterator[tuple[str, TrialFolder]]:
    """Free what dead dispatchers of this machine held, and close their attempts' records; yields sweeps and folders.

    An attempt that left a result is complete as it is: whoever claims the trial next finds that result.
    """
    keys = ledger.reclaim(home.is_dead)
    for key, row in ledger.states(keys).items():
        folder = TrialFolder(home.trial_folder(key))
        if row.sweep is not None and (folder.path / "trial.json").exists() and folder.result() is None:
            end_abandoned(folder, row.attempt, "its dispatcher died")
            yield row.sweep, folder
