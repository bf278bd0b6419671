"""The attempts under way: polls their processes, reads their progress, keeps their claims and the mirror fresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.dispatch.loop.endings import Circumstances
from orchestrator.dispatch.loop.ports import Shared
from orchestrator.errors import LaunchError
from orchestrator.launchers.base import Job, JobExit, Launcher, MemoryEstimate
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.heartbeat import Silence
from orchestrator.state.trial.records import Event, TrialSpec

COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files with a line ``oom_kill <count>``; the first counts for the whole machine."""

RECENT_S = 10.0
"""A large process takes this long to be gone after it was killed."""


class OomKills:
    """Keeps an eye on the kernel's count. It says that a process was killed, not which: a coincidence stays possible."""

    def __init__(self, clock: Callable[[], float], counters: Sequence[Path] = COUNTERS) -> None:
        self._clock = clock
        self._counters = counters
        self._count = self._read()
        self._risen_s: float | None = None

    def look(self) -> None:
        """To be called from time to time, so that it is known when the count rose."""
        count = self._read()
        if count is not None and self._count is not None and count > self._count:
            self._risen_s = self._clock()
        self._count = count

    def were_recent(self) -> bool | None:
        """Whether there was one in the last ``RECENT_S``; None where the kernel does not tell."""
        self.look()
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


WATCH_S = 0.5
"""Between two looks at what running attempts have written."""

MIRROR_S = 5.0
"""Between two mirrorings of a running attempt."""

LAUNCH_TRIES = 3
"""Launches that fail in a row, with slots free, before the sweep ends."""


@dataclass
class Running:
    """An attempt under way."""

    spec: TrialSpec
    attempt: int
    folder: TrialFolder
    job: Job
    silence: Silence
    offset: int = 0
    """How far its progress has been read, in bytes."""
    is_lost: bool = False
    """Somebody else owns the trial now: nothing may be written about it any more."""
    hung_s: float | None = None
    """How long it had been silent when it was killed for it."""
    is_pruned: bool = False
    """The search has given its configuration up."""
    gpu: str | None = None
    """Which it runs on, if on one."""


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
    """Starts the attempts of one dispatcher and looks after them. ``stop`` may be called from a signal handler, the rest is one
    thread's.

    on_epoch: told of each epoch. silence_s: an attempt that gives no sign of life for longer is killed.
    """

    def __init__(
        self,
        shared: Shared,
        launcher: Launcher,
        *,
        on_epoch: Callable[[TrialSpec, Event], None],
        silence_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._sweep, self._owner, self._ledger = shared.sweep, shared.owner, shared.ledger
        self._tracker, self._monitor, self._disk = shared.tracker, shared.monitor, shared.disk
        self._on_epoch = on_epoch
        self._counted_s = clock()
        self._launcher = launcher
        self._silence_s = silence_s
        self._clock = clock
        self._oom_kills = OomKills(clock)
        self._running: dict[str, Running] = {}
        self._num_started = self._num_failed_launches = 0
        self._is_stopping = self._is_forced = False
        self._renewal = Timer(shared.ledger.lease_s / 3, clock)
        self._watch = Timer(WATCH_S, clock)
        self._mirror = Timer(MIRROR_S, clock)

    def __len__(self) -> int:
        return len(self._running)

    @property
    def num_started(self) -> int:
        """How many there have been so far."""
        return self._num_started

    def start(self, spec: TrialSpec, folder: TrialFolder, attempt: int, *, need: MemoryEstimate) -> None:
        """Launch an attempt at the trial in ``folder``, which is laid out for it.

        Raises:
            LaunchError: as Launcher.launch.
        """
        _, offset = folder.events()
        job = self._launcher.launch(folder.path, need)
        self._num_failed_launches = 0
        self._num_started += 1
        self._running[spec.key] = Running(spec, attempt, folder, job, Silence(folder.heartbeat, self._clock()), offset)
        self._monitor.started(spec, attempt)
        if self._is_stopping:  # requested while it was being launched
            job.stop(force=self._is_forced)

    def is_hopeless(self, need: MemoryEstimate) -> bool:
        """Whether launches keep failing, this one too, though slots are free; where none is, another sweep was just quicker."""
        try:
            self._num_failed_launches += self._launcher.free_slots(need) > 0
        except LaunchError:  # no slot is left: told when the next is looked for
            return False
        return self._num_failed_launches >= LAUNCH_TRIES

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
            self._listen()
        if self._mirror.is_due():
            for running in self._running.values():
                self._disk.note(running.folder.path)
                self._tracker.mirror(self._sweep, running.folder, ended=False)

    def stop(self, *, force: bool) -> None:
        """Ask all to end, those too that are being launched just now; with ``force``, kill them."""
        self._is_stopping, self._is_forced = True, self._is_forced or force
        for running in list(self._running.values()):
            running.job.stop(force=force)

    def prune(self, key: str) -> None:
        """Let a trial's attempt end after its running epoch, if it is one of these."""
        running = self._running.get(key)
        if running is not None and not running.is_pruned:
            running.is_pruned = True
            running.job.stop()

    def take_gpu_s(self) -> float:
        """Seconds since the last call, times the GPUs that the attempts now running have, each alone or together."""
        since_s, self._counted_s = self._counted_s, self._clock()
        return (self._counted_s - since_s) * len({running.gpu for running in self._running.values()} - {None})

    def circumstances_of(self, running: Running, exit: JobExit, *, was_stopped: bool) -> Circumstances:
        """What is known of the end of an attempt that has just ended."""
        had_oom_kills = self._oom_kills.were_recent() if exit.code < 0 else None  # only of a signal it explains anything
        return Circumstances(was_stopped, running.hung_s, had_oom_kills)

    def _listen(self) -> None:
        """Report progress, and kill whatever has made none for too long."""
        self._oom_kills.look()
        now_s = self._clock()
        for running in self._running.values():
            self._report(running)
            silent_s = running.silence.check(now_s)
            if silent_s > self._silence_s and running.hung_s is None:
                running.hung_s = silent_s
                running.job.stop(force=True)

    def _report(self, running: Running) -> None:
        events, running.offset = running.folder.events(running.offset)
        for event in events:
            if event.attempt != running.attempt:
                continue
            if event.kind == "attempt_started":
                running.gpu = event.facts.get("gpu")
            if event.kind == "epoch":
                self._on_epoch(running.spec, event)
