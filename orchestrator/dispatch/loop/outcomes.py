"""Judges how an attempt of this dispatcher ended: from its exit code, its folder and the kernel's count of kills."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import TrialError
from orchestrator.launchers.base import JobExit
from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.endings import fail, leave_waiting, prune
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFolder, is_worked_on
from orchestrator.state.trial.records import TrialResult, TrialState

PRUNED = "the pruner stopped it: others were better by this epoch"

PRUNED_BESIDE = "the pruner stopped its configuration after another of its trials"

OUTSIDE_KILL = "; from outside: not by this sweep, and the kernel counted no kill for lack of memory"

RESUMABLE = "the next attempt resumes from its checkpoint"

COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files with a line ``oom_kill <count>``; the first counts for the whole machine."""

RECENT_S = 10.0
"""A large process may take this long to end after a kill."""


@dataclass(frozen=True)
class AttemptOutcome:
    """state: COMPLETE, CACHED, PRUNED, FAILED, or WAITING if the trial can be resumed.

    result: also of a failure that will be retried. is_others: another process works in the folder, or it lies on another
    machine. lacks_space: the disk is full, for every other trial too.
    """

    state: TrialState
    result: TrialResult | None = None
    reason: str | None = None
    is_others: bool = False
    lacks_space: bool = False

    def as_cached(self) -> AttemptOutcome:
        """The same outcome of a trial that was complete before this sweep came to it."""
        return replace(self, state=TrialState.CACHED) if self.state is TrialState.COMPLETE else self

    @property
    def is_retry(self) -> bool:
        """Whether it is a failure that will be retried."""
        return self.state is TrialState.WAITING and self.result is not None

    @property
    def is_stopped(self) -> bool:
        """Whether it stopped at a checkpoint on request, in a folder that this dispatcher can still write to."""
        return self.state is TrialState.WAITING and not (self.result or self.is_others or self.lacks_space)

    @property
    def has_record(self) -> bool:
        """Whether a folder on this machine has something to mirror; a trial that failed early has only its reason."""
        return not self.is_others and (self.result is not None or self.state is TrialState.WAITING)


@dataclass(frozen=True)
class Circumstances:
    """What the dispatcher knows about an attempt's end and its process could not report.

    was_stopped: somebody requested the stop, so that a signal is no failure. silence_s: it was killed after this silence.
    had_oom_kills: whether the kernel has just killed for lack of memory; None if the kernel does not count it.
    """

    was_stopped: bool = False
    silence_s: float | None = None
    had_oom_kills: bool | None = None


class OomKills:
    """Watches the kernel's count of out-of-memory kills. It does not say which process: a coincidence stays possible."""

    def __init__(self, clock: Callable[[], float], counters: Sequence[Path] = COUNTERS) -> None:
        self._clock = clock
        self._counters = counters
        self._count = self._read()
        self._risen_s: float | None = None

    def update(self) -> None:
        """Read the count; call it regularly, so that the time of a rise is known."""
        count = self._read()
        if count is not None and self._count is not None and count > self._count:
            self._risen_s = self._clock()
        self._count = count

    def were_recent(self) -> bool | None:
        """Whether there was a kill in the last ``RECENT_S``; None if the kernel does not count them."""
        self.update()
        if self._count is None:
            return None
        return self._risen_s is not None and self._clock() - self._risen_s <= RECENT_S

    def _read(self) -> int | None:
        for file in self._counters:
            try:
                lines = file.read_text(encoding="ascii").splitlines()
            except OSError:  # not Linux, an old kernel, or hidden from a container
                continue
            for line in lines:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return None


def prune_attempt(folder: TrialFolder, attempt: int, *, reason: str) -> AttemptOutcome:
    """End a trial that the pruner stopped."""
    return AttemptOutcome(TrialState.PRUNED, prune(folder, attempt, reason=reason), reason)


def judge_exit(folder: TrialFolder, attempt: int, exit: JobExit, circumstances: Circumstances) -> AttemptOutcome:
    """Read how an attempt ended; if the worker left no result, write one."""
    if exit.code == ExitCode.LOCKED and (is_worked_on(folder) or not _lacks_end(folder, attempt)):
        return AttemptOutcome(TrialState.WAITING, reason="another process works in its folder", is_others=True)
    try:
        result = folder.result()
    except TrialError as error:
        return AttemptOutcome(TrialState.FAILED, reason=str(error))
    if result is not None:
        return AttemptOutcome(result.state, result, result.reason)
    if exit.code == ExitCode.STOPPED and not _lacks_end(folder, attempt):
        return AttemptOutcome(TrialState.WAITING, reason=f"stopped; {RESUMABLE}")
    if exit.code == ExitCode.DISK_FULL:
        return AttemptOutcome(TrialState.WAITING, reason=f"the disk was full; {RESUMABLE}", lacks_space=True)
    if exit.code < 0 and circumstances.was_stopped:
        leave_waiting(folder, attempt, reason="killed on request")
        return AttemptOutcome(TrialState.WAITING, reason=f"killed on request; {RESUMABLE}")
    failure, reason = explain_exit(exit, circumstances, folder.log_tail())
    result = fail(folder, attempt, failure=failure, reason=reason)
    return AttemptOutcome(TrialState.FAILED, result, result.reason)


def _lacks_end(folder: TrialFolder, attempt: int) -> bool:
    """Whether the attempt's record has a start and no end: some code in it ended the process, with whatever exit code."""
    kinds = {event.kind for event in folder.events()[0] if event.attempt == attempt}
    return "attempt_started" in kinds and "attempt_ended" not in kinds


def find_unrecorded(ledger: Ledger, folder: TrialFolder, key: str) -> AttemptOutcome | None:
    """The outcome in the folder that the ledger lacks: its dispatcher died before it could record it."""
    result = folder.result()
    if result is None:
        return None
    is_new = result.state is TrialState.COMPLETE or result.attempt > ledger.states([key])[key].settled_attempt
    return AttemptOutcome(result.state, result, result.reason).as_cached() if is_new else None


def explain_exit(exit: JobExit, circumstances: Circumstances, log_tail: str) -> tuple[FailureKind, str]:
    """Classify the exit of a worker that left no result, and describe it in words."""
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
        return FailureKind.OUT_OF_MEMORY, f"{killed}: an allocation failed (std::bad_alloc)"
    if exit.code != -signal.SIGKILL:
        return FailureKind.SIGNAL, killed
    if circumstances.had_oom_kills:
        return FailureKind.OUT_OF_MEMORY, f"{killed}; most likely out of memory: the kernel killed for lack of it at that time"
    unknown = "; perhaps out of memory: this system does not count such kills"
    return FailureKind.SIGNAL, f"{killed}{unknown if circumstances.had_oom_kills is None else OUTSIDE_KILL}"
