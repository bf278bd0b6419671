"""The attempts of one dispatcher: prepares their folders, launches them, watches their progress, stops and collects them."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.dispatch.loop.outcomes import AttemptOutcome, Circumstances, OomKills, find_unrecorded
from orchestrator.dispatch.loop.ports import PlannedTrial, Policy, Ports, Session
from orchestrator.dispatch.loop.retries import Retries
from orchestrator.dispatch.loop.takeover import Takeovers
from orchestrator.errors import LaunchError
from orchestrator.launchers.base import Job, JobExit, MemoryEstimate
from orchestrator.state.disk import DiskSpace
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.heartbeat import Silence
from orchestrator.state.trial.records import Attempt, Event, TrialSpec

WATCH_S = 0.5
"""Interval between two looks at what running attempts have written."""

MIRROR_S = 5.0
"""Interval between two mirrorings of a running attempt."""

LAUNCH_TRIES = 3
"""The sweep ends after this many failed launches in a row while slots are free."""


class Timer:
    """Due immediately and then every ``interval_s``."""

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


@dataclass(frozen=True)
class Preparation:
    """Prepares the folders of claimed trials."""

    ledger: Ledger
    retries: Retries
    takeovers: Takeovers
    policy: Policy

    def prepare(self, trial: PlannedTrial, folder: TrialFolder, attempt: int) -> AttemptOutcome | None:
        """Make the folder ready for a claimed attempt; returns the outcome in it if the ledger does not have it yet.

        Raises:
            TrialError: the folder belongs to another trial.
            DataError: the trial's data cannot be used.
        """
        spec, limits, keep = trial.spec, self.policy.limits, self.policy.keep
        folder.create(spec)
        outcome = find_unrecorded(self.ledger, folder, spec.key)
        if outcome is not None and not (outcome := self.retries.reconsider(spec, folder, outcome)).is_retry:
            return outcome
        folder.discard_result()
        origin = self.takeovers.enter(spec, folder)
        terms = self.retries.set_terms(spec, folder)
        folder.write_attempt(
            Attempt(
                number=attempt,
                data_folder=str(trial.data_folder),
                accumulate=terms.accumulate,
                deviation=terms.deviation,
                silence_s=limits.silence_s,
                checkpoint_s=limits.checkpoint_s,
                keep_flips=keep.flips,
                origin=origin,
            )
        )
        return None


@dataclass
class RunningAttempt:
    """An attempt whose process has not been collected yet."""

    trial: PlannedTrial
    attempt: int
    folder: TrialFolder
    job: Job
    silence: Silence
    offset: int = 0
    """Bytes of its progress that have been read."""
    is_lost: bool = False
    """Another dispatcher owns the trial now: write nothing about it any more."""
    hung_s: float | None = None
    """How long it had been silent when it was killed for that."""
    is_pruned: bool = False
    """The pruner stopped its configuration."""
    gpu: str | None = None


class Attempts:
    """The running attempts. ``stop`` may be called from a signal handler, everything else from one thread.

    on_epoch: called for each epoch. silence_s: an attempt without a sign of life for longer is killed. num_started: so far.
    """

    def __init__(
        self,
        session: Session,
        ports: Ports,
        disk: DiskSpace,
        *,
        on_epoch: Callable[[TrialSpec, Event], None],
        silence_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._session, self._disk = session, disk
        self._launcher, self._tracker, self._monitor = ports.launcher, ports.tracker, ports.monitor
        self._on_epoch = on_epoch
        self._counted_s = clock()
        self._silence_s = silence_s
        self._clock = clock
        self._oom_kills = OomKills(clock)
        self._running: dict[str, RunningAttempt] = {}
        self.num_started = self._num_failed_launches = 0
        self._is_stopping = self._is_forced = False
        self._renewal = Timer(session.ledger.lease_s / 3, clock)
        self._watch = Timer(WATCH_S, clock)
        self._mirror = Timer(MIRROR_S, clock)

    def __len__(self) -> int:
        return len(self._running)

    def start(self, trial: PlannedTrial, folder: TrialFolder, attempt: int, *, need: MemoryEstimate) -> None:
        """Launch an attempt in a prepared folder.

        Raises:
            LaunchError: as Launcher.launch.
        """
        _, offset = folder.events()
        job = self._launcher.launch(folder.path, need)
        self._num_failed_launches = 0
        self.num_started += 1
        silence = Silence(folder.path / TrialFile.HEARTBEAT, self._clock())
        self._running[trial.spec.key] = RunningAttempt(trial, attempt, folder, job, silence, offset)
        self._monitor.started(trial.spec, attempt)
        if self._is_stopping:  # requested during the launch
            job.stop(force=self._is_forced)

    def count_failed_launch(self, need: MemoryEstimate) -> bool:
        """Count a failed launch; returns whether they keep failing. Without a free slot another sweep was just faster."""
        try:
            self._num_failed_launches += self._launcher.free_slots(need) > 0
        except LaunchError:  # no slot is left: the next look for one reports it
            return False
        return self._num_failed_launches >= LAUNCH_TRIES

    def reap(self) -> list[tuple[RunningAttempt, JobExit]]:
        """Remove the attempts that have ended, after reporting the rest of their progress."""
        ended = []
        for key, running in list(self._running.items()):
            if (exit := running.job.poll()) is not None:
                del self._running[key]
                self._report(running)
                ended.append((running, exit))
        return ended

    def tend(self) -> None:
        """Renew claims, report progress, kill silent attempts and mirror, each at its own interval."""
        if self._running and self._renewal.is_due():
            for key in self._session.ledger.renew(self._session.owner, list(self._running)):
                self._running[key].is_lost = True
                self._running[key].job.stop(force=True)
        if self._watch.is_due():
            self._oom_kills.update()
            now_s = self._clock()
            for running in self._running.values():
                self._report(running)
                silent_s = running.silence.check(now_s)
                if silent_s > self._silence_s and running.hung_s is None:
                    running.hung_s = silent_s
                    running.job.stop(force=True)
        if self._mirror.is_due():
            for running in self._running.values():
                self._disk.note(running.folder.path)
                self._tracker.mirror(self._session.sweep, running.folder, ended=False)

    def stop(self, *, force: bool) -> None:
        """Ask all attempts to stop, including those being launched; with ``force``, kill them."""
        self._is_stopping, self._is_forced = True, self._is_forced or force
        for running in list(self._running.values()):
            running.job.stop(force=force)

    def prune(self, key: str) -> None:
        """Stop a trial's attempt after its current epoch, if it runs here."""
        running = self._running.get(key)
        if running is not None and not running.is_pruned:
            running.is_pruned = True
            running.job.stop()

    def take_gpu_s(self) -> float:
        """Seconds since the last call, times the number of GPUs in use; attempts that share a GPU count once."""
        since_s, self._counted_s = self._counted_s, self._clock()
        return (self._counted_s - since_s) * len({running.gpu for running in self._running.values()} - {None})

    def circumstances_of(self, running: RunningAttempt, exit: JobExit, *, was_stopped: bool) -> Circumstances:
        """What is known about an attempt that has just ended."""
        had_oom_kills = self._oom_kills.were_recent() if exit.code < 0 else None  # explains only signals
        return Circumstances(was_stopped, running.hung_s, had_oom_kills)

    def _report(self, running: RunningAttempt) -> None:
        events, running.offset = running.folder.events(running.offset)
        for event in events:
            if event.attempt != running.attempt:
                continue
            if event.kind == "attempt_started":
                running.gpu = event.facts.get("gpu")
            if event.kind == "epoch":
                self._on_epoch(running.trial.spec, event)
