"""The attempts under way: polls their processes, reads their progress, keeps their claims and the mirror fresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.launchers.base import Job, JobExit
from orchestrator.ledger import Ledger
from orchestrator.parts import Monitor, Tracker
from orchestrator.trial import TrialFolder, TrialSpec

WATCH_S = 0.5
"""Between two looks at what running attempts have written."""

MIRROR_S = 5.0
"""Between two mirrorings of a running attempt."""


@dataclass
class Running:
    """An attempt under way."""

    spec: TrialSpec
    attempt: int
    folder: TrialFolder
    job: Job
    offset: int = 0
    """How far its progress has been read, in bytes."""
    is_lost: bool = False
    """Somebody else owns the trial now: nothing may be written about it any more."""


class Timer:
    """Is due at once and then every ``interval_s``."""

    def __init__(self, interval_s: float, clock: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._due_s = clock()

    def is_due(self) -> bool:
        now = self._clock()
        if now < self._due_s:
            return False
        self._due_s = now + self._interval_s
        return True


class Attempts:
    """The attempts that one dispatcher has running. ``stop`` may be called from a signal handler, the rest is one thread's."""

    def __init__(
        self,
        *,
        sweep: str,
        owner: str,
        ledger: Ledger,
        tracker: Tracker,
        monitor: Monitor,
        clock: Callable[[], float],
    ) -> None:
        self._sweep = sweep
        self._owner = owner
        self._ledger = ledger
        self._tracker = tracker
        self._monitor = monitor
        self._running: dict[str, Running] = {}
        self._renewal = Timer(ledger.lease_s / 3, clock)
        self._watch = Timer(WATCH_S, clock)
        self._mirror = Timer(MIRROR_S, clock)

    def __len__(self) -> int:
        return len(self._running)

    def add(self, running: Running) -> None:
        self._running[running.spec.key] = running

    def reap(self) -> list[tuple[Running, JobExit]]:
        """Take out those that have ended, with the last of their progress reported."""
        ended = []
        for key, running in list(self._running.items()):
            if (exit := running.job.poll()) is not None:
                del self._running[key]
                self._report(running)
                ended.append((running, exit))
        return ended

    def tend(self) -> None:
        """Renew claims, report progress, mirror: each from time to time."""
        if self._running and self._renewal.is_due():
            for key in self._ledger.renew(self._owner, list(self._running)):
                self._running[key].is_lost = True
                self._running[key].job.stop(force=True)
        if self._watch.is_due():
            for running in self._running.values():
                self._report(running)
        if self._mirror.is_due():
            for running in self._running.values():
                self._tracker.mirror(self._sweep, running.folder, ended=False)

    def stop(self, *, force: bool) -> None:
        for running in list(self._running.values()):
            running.job.stop(force=force)

    def _report(self, running: Running) -> None:
        events, running.offset = running.folder.events(running.offset)
        for event in events:
            if event.kind == "epoch" and event.attempt == running.attempt:
                self._monitor.epoch(running.spec, event)
