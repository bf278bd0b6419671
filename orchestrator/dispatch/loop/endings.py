"""How a trial ended, for the dispatcher: an attempt of its own by exit code and folder, others' by the ledger and the result."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from orchestrator.errors import TrackingError, TrialError
from orchestrator.launchers.base import JobExit
from orchestrator.launchers.worker.exit_codes import ExitCode
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, LedgerRow
from orchestrator.state.trial.endings import fail, leave_waiting, prune
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFolder, is_worked_on
from orchestrator.state.trial.records import TrialResult, TrialSpec, TrialState

RESULT_GRACE_S = 300.0
"""A trial that another machine has just finished is in the ledger before its result has been sent, which may take a slow server
minutes. Time in which the server cannot be asked does not count."""

ASK_S = 10.0
"""Between two questions for the same missing result; each may go over the network."""

RESULT_LOST = "it was complete, but its result is on no disk here and nowhere else: it is run again"

PRUNED = "the pruner gave it up: others were better by this epoch"

PRUNED_BESIDE = "the pruner gave its configuration up by another of its trials"

TAKEN_OVER = "another dispatcher has taken it over"

OUTSIDE_KILL = "; from outside: not by this sweep, and the kernel has counted no kill for lack of memory"

RESUMABLE = "the next attempt goes on from its checkpoint"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """state: COMPLETE, CACHED, PRUNED, FAILED, or WAITING where the trial can be gone on with.

    result: also of a failure that is tried again. is_elsewhere: another process works in the folder, or it lies on another
    machine. lacks_space: the disk is full, for every other trial too.
    """

    state: TrialState
    result: TrialResult | None = None
    reason: str | None = None
    is_elsewhere: bool = False
    lacks_space: bool = False

    def found_done(self) -> Ending:
        """The same, of a trial that was done before this sweep came to it."""
        return replace(self, state=TrialState.CACHED) if self.state is TrialState.COMPLETE else self

    @property
    def is_retry(self) -> bool:
        """Whether it is a failure that is tried again."""
        return self.state is TrialState.WAITING and self.result is not None

    @property
    def is_stopped(self) -> bool:
        """Whether it came to a checkpoint on request, in a folder of ours that can still be written to."""
        return self.state is TrialState.WAITING and not (self.result or self.is_elsewhere or self.lacks_space)

    @property
    def has_record(self) -> bool:
        """Whether there is something to mirror in a folder of this machine; a trial that failed early has only its reason."""
        return not self.is_elsewhere and (self.result is not None or self.state is TrialState.WAITING)


@dataclass(frozen=True)
class Circumstances:
    """What the dispatcher knows of an attempt's end that its process could not say.

    was_stopped: somebody asked for the end, so that a signal is no failure. silence_s: it was killed after so long a silence.
    had_oom_kills: whether the kernel has just killed for lack of memory; None where it does not tell.
    """

    was_stopped: bool = False
    silence_s: float | None = None
    had_oom_kills: bool | None = None


def prune_attempt(folder: TrialFolder, attempt: int, *, reason: str) -> Ending:
    """End a trial that the search has given up."""
    result = prune(folder, attempt, reason=reason)
    return Ending(TrialState.PRUNED, result, reason)


def judge_exit(folder: TrialFolder, attempt: int, exit: JobExit, circumstances: Circumstances) -> Ending:
    """Read how an attempt ended; where the worker left no result of its own, write one."""
    if exit.code == ExitCode.LOCKED and (is_worked_on(folder) or not _lacks_end(folder, attempt)):
        return Ending(TrialState.WAITING, reason="another process works in its folder", is_elsewhere=True)
    try:
        result = folder.result()
    except TrialError as error:
        return Ending(TrialState.FAILED, reason=str(error))
    if result is not None:
        return Ending(result.state, result, result.reason)
    if exit.code == ExitCode.STOPPED and not _lacks_end(folder, attempt):
        return Ending(TrialState.WAITING, reason=f"stopped; {RESUMABLE}")
    if exit.code == ExitCode.DISK_FULL:
        return Ending(TrialState.WAITING, reason=f"no space was left to write into; {RESUMABLE}", lacks_space=True)
    if exit.code < 0 and circumstances.was_stopped:
        leave_waiting(folder, attempt, reason="killed on request")
        return Ending(TrialState.WAITING, reason=f"killed on request; {RESUMABLE}")
    failure, reason = explain_exit(exit, circumstances, folder.log_tail())
    result = fail(folder, attempt, failure=failure, reason=reason)
    return Ending(TrialState.FAILED, result, result.reason)


def _lacks_end(folder: TrialFolder, attempt: int) -> bool:
    """Whether the attempt has begun by its record and not ended: some code in it has ended the process, by whatever code."""
    kinds = {event.kind for event in folder.events()[0] if event.attempt == attempt}
    return "attempt_started" in kinds and "attempt_ended" not in kinds


def find_unentered(ledger: Ledger, folder: TrialFolder, key: str) -> Ending | None:
    """The end that lies in the folder and that the ledger does not know: its dispatcher died before it could enter it."""
    result = folder.result()
    if result is None:
        return None
    is_news = result.state is TrialState.COMPLETE or result.attempt > ledger.states([key])[key].settled_attempt
    return Ending(result.state, result, result.reason).found_done() if is_news else None


def explain_exit(exit: JobExit, circumstances: Circumstances, log_tail: str) -> tuple[FailureKind, str]:
    """What kind of failure it is when a worker ends that said nothing itself, and in words what is known of it."""
    if circumstances.silence_s is not None:
        return FailureKind.HANG, (
            f"killed after {circumstances.silence_s:.0f} s without progress (limits.silence_s); "
            "the end of its log says where it stood"
        )
    if exit.reason is not None:
        unasked = FailureKind.OUT_OF_MEMORY if exit.lacked_memory else FailureKind.SIGNAL
        return (unasked if exit.code < 0 else FailureKind.EXIT), exit.reason
    if exit.code >= 0:
        return FailureKind.EXIT, f"the worker ended with exit code {exit.code} and left no result"
    try:
        name = signal.Signals(-exit.code).name
    except ValueError:
        name = "unknown"
    killed = f"killed by signal {-exit.code} ({name})"
    if exit.code == -signal.SIGABRT and "std::bad_alloc" in log_tail:
        return FailureKind.OUT_OF_MEMORY, f"{killed}: memory was refused to it (std::bad_alloc)"
    if exit.code != -signal.SIGKILL:
        return FailureKind.SIGNAL, killed
    if circumstances.had_oom_kills:
        return FailureKind.OUT_OF_MEMORY, f"{killed}; most likely out of memory: the kernel killed for lack of it at that time"
    unknown = "; perhaps out of memory: this system does not tell"
    return FailureKind.SIGNAL, f"{killed}{unknown if circumstances.had_oom_kills is None else OUTSIDE_KILL}"


def reclaim_orphans(ledger: Ledger, home: Home) -> Iterator[tuple[str, TrialFolder]]:
    """Free what dead dispatchers of this machine held, and close their attempts' records; yields sweeps and folders.

    An attempt that left a result is complete as it is: whoever claims the trial next finds that result.
    """
    keys = ledger.reclaim(home.is_dead)
    for key, row in ledger.states(keys).items():
        folder = TrialFolder(home.trial_folder(key))
        if row.sweep is not None and folder.exists and folder.result() is None:
            leave_waiting(folder, row.attempt, reason="its dispatcher died")
            yield row.sweep, folder


class OthersResults:
    """Endings of trials that had ended before the dispatcher came to them.

    folder_of: a trial's folder on this machine. find_result: asked for the result of a complete trial that has none there, such
    as one of another machine; None, or a TrackingError, where it cannot give it now.
    """

    def __init__(
        self,
        folder_of: Callable[[TrialSpec], TrialFolder],
        find_result: Callable[[TrialSpec], TrialResult | None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._folder_of = folder_of
        self._find_result = find_result
        self._clock = clock
        self._missing_since_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}

    def read(self, spec: TrialSpec, row: LedgerRow) -> Ending | None:
        """How a trial ended that has ended by the ledger; None where it is COMPLETE and its result is not to be had now."""
        result = self._folder_of(spec).result()
        if _is_complete(result):  # also where it failed here, and was then taken over from another machine
            return Ending(TrialState.COMPLETE, result)
        if row.state is not TrialState.COMPLETE:
            return Ending(row.state, result, row.reason)
        if (found := self._ask(spec)) is None:  # what failed here another machine may have completed
            self._missing_since_s.setdefault(spec.key, self._clock())
            return None
        return Ending(TrialState.COMPLETE, found, is_elsewhere=not _is_complete(self._folder_of(spec).result()))

    def may_come(self, spec: TrialSpec) -> bool:
        """Whether a result that ``read`` did not find may be on its way yet."""
        return self._find_result is not None and self._clock() < self._missing_since_s[spec.key] + RESULT_GRACE_S

    def _ask(self, spec: TrialSpec) -> TrialResult | None:
        now_s = self._clock()
        if self._find_result is None or now_s < self._asked_s.get(spec.key, -ASK_S) + ASK_S:
            return None
        self._asked_s[spec.key] = now_s
        try:
            result = self._find_result(spec)
        except TrackingError as error:
            _log.warning("%s: its result cannot be asked for: %s", spec.name, error)
            self._missing_since_s[spec.key] = self._clock()
            return None
        return result if _is_complete(result) else None


def _is_complete(result: TrialResult | None) -> bool:
    return result is not None and result.state is TrialState.COMPLETE
