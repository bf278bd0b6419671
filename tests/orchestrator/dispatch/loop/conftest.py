"""A home with a ledger for dispatchers, scripted attempts, and a monitor that records what it sees."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch.loop.dispatcher import Dispatcher
from orchestrator.dispatch.loop.ports import Policy, Ports, Session, SweepOutcome
from orchestrator.launchers.base import UNKNOWN, JobExit, Launcher, MemoryEstimate
from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.spec.sections import LimitsSpec, RetrySpec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.endings import fail
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialResult, TrialSpec, TrialState
from trainers.config import DataConfig, TrainConfig

SWEEP = "sweep"


@dataclass(frozen=True)
class Point:
    """A configuration, as far as the dispatcher looks at it."""

    id: str
    trials: tuple[TrialSpec, ...]


@dataclass(frozen=True)
class Planned:
    """A planned trial, as the dispatcher sees it."""

    spec: TrialSpec
    data_folder: Path = Path()
    round: int = 0
    label: str = ""


def spec(key: str, configuration: str = "one") -> TrialSpec:
    """A trial that is never trained."""
    return TrialSpec(
        key=key,
        configuration=configuration,
        name=key,
        train=TrainConfig(),
        data=DataConfig(),
        seed=0,
        source_fingerprint="f",
    )


def points(*keys: str) -> list[Point]:
    """A configuration of one trial for each key."""
    return [Point(f"configuration of {key}", (spec(key),)) for key in keys]


class ListSearch:
    """Proposes what it was given, in order."""

    def __init__(self, proposals: Sequence[Point]) -> None:
        self._proposals = deque(proposals)
        self.data_folder = Path()
        self.round_of: Callable[[TrialSpec], int] = lambda _: 0
        self.values: list[tuple[str, float | None, TrialState]] = []
        self.reasons: list[str | None] = []
        self.reports: list[tuple[str, int, float]] = []
        self.prunes: set[tuple[str, int]] = set()
        """Key and epoch at which the search gives a configuration up."""
        self.gpu_s = 0.0
        self.is_closed = False
        self.num_reconciled = 0

    def propose(self) -> Any:
        return self._proposals.popleft() if self._proposals else None

    def trials_of(self, configuration: Any) -> list[Planned]:
        return [Planned(spec, self.data_folder, self.round_of(spec)) for spec in configuration.trials]

    def tell(self, configuration: Any, value: float | None, state: TrialState, *, reason: str | None = None) -> None:
        self.values.append((configuration.id, value, state))
        self.reasons.append(reason)

    def report(self, trial: TrialSpec, epoch: int, value: float) -> bool:
        self.reports.append((trial.key, epoch, value))
        return (trial.key, epoch) in self.prunes

    def report_end(self, trial: TrialSpec, value: float) -> bool:
        return False

    def may_begin(self) -> bool:
        return True

    def spend(self, gpu_s: float) -> None:
        self.gpu_s += gpu_s

    def close(self) -> None:
        self.is_closed = True

    def reconcile(self) -> None:
        self.num_reconciled += 1


class NoTracker:
    """Records what was to be mirrored."""

    def __init__(self) -> None:
        self.mirrored: list[tuple[str, str, bool]] = []

    def label(self, sweep: str, labels: dict[str, Any]) -> None:
        """Nothing is labelled."""

    def mirror(self, sweep: str, folder: TrialFolder, ended: bool) -> None:
        self.mirrored.append((sweep, folder.path.name, ended))

    def close(self, timeout_s: float) -> list[TrialFolder]:
        return []


@dataclass
class Recorder:
    """A monitor that records what it sees."""

    seen: list[tuple[str, str, object]] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    """Reasons of all ends, in order."""
    failed: list[FailureKind | None] = field(default_factory=list)
    """Failure kinds of the same ends; None without a result."""
    on_end: Callable[[], None] | None = None

    def started(self, spec: TrialSpec, attempt: int) -> None:
        self.seen.append(("started", spec.key, attempt))

    def epoch(self, spec: TrialSpec, event: Event) -> None:
        self.seen.append(("epoch", spec.key, event.epoch))

    def ended(self, spec: TrialSpec, state: TrialState, result: TrialResult | None, reason: str | None) -> None:
        self.seen.append(("ended", spec.key, state))
        self.reasons.append(reason)
        self.failed.append(result.failure if result else None)
        if self.on_end is not None:
            self.on_end()


Script = Callable[["ScriptedJob"], int | None]
"""Asked at every poll: None while the attempt runs, else its exit code."""


@dataclass
class ScriptedJob:
    """An attempt that follows the test's script."""

    folder: Path
    script: Script
    stops: list[bool] = field(default_factory=list)
    num_polls: int = 0
    exit: JobExit | None = None

    @property
    def trial(self) -> TrialFolder:
        return TrialFolder(self.folder)

    def poll(self) -> JobExit | None:
        self.num_polls += 1
        if self.exit is None and (code := self.script(self)) is not None:
            self.exit = JobExit(code)
        return self.exit

    def stop(self, *, force: bool = False) -> None:
        self.stops.append(force)


class ScriptedLauncher:
    """A number of slots, and one script for every attempt."""

    def __init__(self, script: Script, num_slots: int = 2) -> None:
        self._script = script
        self._num_slots = num_slots
        self.jobs: list[ScriptedJob] = []

    @property
    def launched(self) -> list[str]:
        return [job.folder.name for job in self.jobs]

    def free_slots(self, need: MemoryEstimate = UNKNOWN) -> int:
        return self._num_slots - sum(job.exit is None for job in self.jobs)

    def launch(self, folder: Path, need: MemoryEstimate = UNKNOWN) -> ScriptedJob:
        assert self.free_slots() > 0, "more attempts than slots"
        job = ScriptedJob(folder, self._script)
        self.jobs.append(job)
        return job

    def close(self) -> None:
        """Nothing runs."""


def complete(job: ScriptedJob, miou: float = 0.5) -> int:
    """Write what a worker writes that completes its training."""
    attempt = job.trial.attempt().number
    times = {"started_s": 1.0, "ended_s": 2.0}
    job.trial.append(Event(kind="attempt_started", time_s=1.0, attempt=attempt))
    job.trial.append(Event(kind="epoch", time_s=1.5, attempt=attempt, epoch=1, metrics={"val/miou": miou}))
    result = TrialResult(
        key=job.folder.name, state=TrialState.COMPLETE, metrics={"val/miou": miou}, attempt=attempt, epochs_run=1, **times
    )
    job.trial.write_result(result)
    return ExitCode.COMPLETE


def raise_error(job: ScriptedJob, kind: FailureKind = FailureKind.EXCEPTION) -> int:
    """Write what a worker writes whose training raises an error."""
    attempt = job.trial.attempt().number
    job.trial.append(Event(kind="attempt_started", time_s=1.0, attempt=attempt))
    fail(job.trial, attempt, failure=kind, reason=f"{kind}: no")
    return ExitCode.FAILED


def stop_when_asked(job: ScriptedJob) -> int | None:
    """Run forever, stop like a worker on request, and die when forced."""
    if True in job.stops:
        return -9
    return ExitCode.STOPPED if job.stops else None


@dataclass
class Bench:
    """A home with a ledger, in which dispatchers are run."""

    home: Home
    ledger: Ledger
    owner: str
    tracker: NoTracker = field(default_factory=NoTracker)
    monitor: Recorder = field(default_factory=Recorder)

    def dispatcher(self, proposals: Sequence[Point] | ListSearch, launcher: Launcher, **changed: Any) -> Dispatcher:
        search = proposals if isinstance(proposals, ListSearch) else ListSearch(proposals)
        search.data_folder = changed.pop("data_folder", self.home.data)
        search.round_of = changed.pop("round_of", search.round_of)

        def take(**defaults: Any) -> dict[str, Any]:
            return {name: changed.pop(name, default) for name, default in defaults.items()}

        session = Session(**take(sweep=SWEEP, owner=self.owner, home=self.home, ledger=self.ledger))
        ports = Ports(
            launcher=launcher,
            monitor=self.monitor,
            **take(search=search, tracker=self.tracker, find_result=None, open_checkpoints=None),
        )
        rules = take(limits=LimitsSpec(free_disk_gb=0), retry=RetrySpec(), leave_after_s=None)
        return Dispatcher(session, ports, Policy(**rules), **take(sleep=lambda _: time.sleep(0.0005)), **changed)

    def run(self, proposals: Sequence[Point] | ListSearch, launcher: Launcher, **changed: Any) -> SweepOutcome:
        return self.dispatcher(proposals, launcher, **changed).run()

    def state_of(self, key: str) -> TrialState:
        return self.ledger.states([key])[key].state

    def folder(self, key: str) -> TrialFolder:
        return TrialFolder(self.home.trial_folder(key))


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """A fresh home."""
    home = Home(tmp_path / "home")
    with home.new_owner() as owner:
        yield Bench(home, Ledger(home.ledger_url), owner.name)


def states_of(outcome: SweepOutcome) -> dict[str, TrialState]:
    """Key -> state."""
    return {trial.spec.key: trial.state for trial in outcome.trials}


def claim_as(bench: Bench, key: str, owner: str, sweep: str = SWEEP) -> int:
    """Claim a trial for another owner."""
    bench.ledger.register(sweep, [(key, "one")])
    attempt = bench.ledger.claim(key, sweep, owner)
    assert attempt is not None
    return attempt


def dead_owner(bench: Bench) -> str:
    """The name of an owner of this machine whose process has ended."""
    name = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, socket, time; print(f'{socket.gethostname()}:{os.getpid()}:{time.time_ns() // 10**6}')",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return name.stdout.strip()


def a_result(key: str, miou: float) -> TrialResult:
    """A result of another machine."""
    return TrialResult(
        key=key, state=TrialState.COMPLETE, attempt=1, started_s=1, ended_s=2, epochs_run=1, metrics={"val/miou": miou}
    )


class Ticks:
    """A clock that advances each time it is read."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self._step_s = step_s

    def __call__(self) -> float:
        self.now_s += self._step_s
        return self.now_s
