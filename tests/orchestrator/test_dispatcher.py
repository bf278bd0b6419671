"""The dispatcher: what it proposes, claims, launches, tells and mirrors; with scripted attempts, and with real ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from orchestrator.dispatcher import Dispatcher, Outcome
from orchestrator.errors import LaunchError, TrackingError
from orchestrator.home import Home
from orchestrator.launchers.base import JobExit, Launcher
from orchestrator.launchers.local import LocalLauncher
from orchestrator.ledger import Ledger
from orchestrator.trial import Event, TrialFolder, TrialResult, TrialSpec, TrialState
from orchestrator.worker import ExitCode, fail
from trainers.config import DataConfig, TrainConfig

SWEEP = "sweep"


@dataclass(frozen=True)
class Point:
    """A configuration, as far as the dispatcher looks at it."""

    id: str
    trials: tuple[TrialSpec, ...]


def spec(key: str, configuration: str = "one") -> TrialSpec:
    """A trial that nobody will train."""
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
        self.told: list[tuple[str, float | None, TrialState]] = []
        self.num_reconciled = 0

    def propose(self) -> Any:
        return self._proposals.popleft() if self._proposals else None

    def tell(self, configuration: Any, value: float | None, state: TrialState) -> None:
        self.told.append((configuration.id, value, state))

    def reconcile(self) -> None:
        self.num_reconciled += 1


class NoTracker:
    """Remembers what was to be mirrored."""

    def __init__(self) -> None:
        self.mirrored: list[tuple[str, str, bool]] = []

    def mirror(self, sweep: str, folder: TrialFolder, ended: bool) -> None:
        self.mirrored.append((sweep, folder.path.name, ended))

    def close(self, timeout_s: float) -> list[TrialFolder]:
        return []


@dataclass
class Recorder:
    """A monitor that writes down what it sees."""

    seen: list[tuple[str, str, object]] = field(default_factory=list)
    reasons: list[str | None] = field(default_factory=list)
    """Of ends, in their order."""

    def started(self, spec: TrialSpec, attempt: int) -> None:
        self.seen.append(("started", spec.key, attempt))

    def epoch(self, spec: TrialSpec, event: Event) -> None:
        self.seen.append(("epoch", spec.key, event.epoch))

    def ended(self, spec: TrialSpec, state: TrialState, result: TrialResult | None, reason: str | None) -> None:
        self.seen.append(("ended", spec.key, state))
        self.reasons.append(reason)


Script = Callable[["ScriptedJob"], int | None]
"""Asked at every poll: None while the attempt runs, else its exit code."""


@dataclass
class ScriptedJob:
    """An attempt that does what a test says."""

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
    """Some slots, and a script for every attempt."""

    def __init__(self, script: Script, num_slots: int = 2) -> None:
        self._script = script
        self._num_slots = num_slots
        self.jobs: list[ScriptedJob] = []

    @property
    def launched(self) -> list[str]:
        return [job.folder.name for job in self.jobs]

    def free_slots(self) -> int:
        return self._num_slots - sum(job.exit is None for job in self.jobs)

    def launch(self, folder: Path) -> ScriptedJob:
        assert self.free_slots() > 0, "more attempts than slots"
        job = ScriptedJob(folder, self._script)
        self.jobs.append(job)
        return job

    def close(self) -> None:
        """Nothing runs."""


def complete(job: ScriptedJob, miou: float = 0.5) -> int:
    """Leave what a worker leaves that comes to its end."""
    attempt = job.trial.attempt().number
    times = {"started_s": 1.0, "ended_s": 2.0}
    job.trial.append(Event(kind="attempt_started", time_s=1.0, attempt=attempt))
    job.trial.append(Event(kind="epoch", time_s=1.5, attempt=attempt, epoch=1, metrics={"val/miou": miou}))
    result = TrialResult(
        key=job.folder.name, state=TrialState.COMPLETE, metrics={"val/miou": miou}, attempt=attempt, epochs_run=1, **times
    )
    job.trial.write_result(result)
    return ExitCode.COMPLETE


def stop_when_asked(job: ScriptedJob) -> int | None:
    """Run for ever, but end like a worker when asked to stop, and be killed when forced."""
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
        parts: dict[str, Any] = {
            "sweep": SWEEP,
            "search": search,
            "launcher": launcher,
            "tracker": self.tracker,
            "ledger": self.ledger,
            "home": self.home,
            "owner": self.owner,
            "trials_of": lambda point: list(point.trials),
            "data_folder_of": lambda spec: self.home.data,
            "monitor": self.monitor,
            "sleep": lambda seconds: time.sleep(0.0005),
        }
        return Dispatcher(**(parts | changed))

    def run(self, proposals: Sequence[Point] | ListSearch, launcher: Launcher, **changed: Any) -> Outcome:
        return self.dispatcher(proposals, launcher, **changed).run()

    def state_of(self, key: str) -> TrialState:
        return self.ledger.states([key])[key].state

    def folder(self, key: str) -> TrialFolder:
        return TrialFolder(self.home.trial_folder(key))


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """A fresh home."""
    home = Home(tmp_path / "home")
    with home.become_owner() as owner:
        yield Bench(home, Ledger(home.ledger_url), owner.name)


def states_of(outcome: Outcome) -> dict[str, TrialState]:
    """Key -> state."""
    return {trial.spec.key: trial.state for trial in outcome.trials}


def test_everything_is_run_in_the_plans_order(bench: Bench) -> None:
    """Each trial once, as many at a time as there are slots, and all that watch are told."""
    launcher, search = ScriptedLauncher(complete), ListSearch(points(*"abcde"))
    outcome = bench.run(search, launcher)
    assert launcher.launched == list("abcde") == [trial.spec.key for trial in outcome.trials]
    assert set(states_of(outcome).values()) == {TrialState.COMPLETE}
    assert [trial.attempts for trial in outcome.trials] == [1] * 5
    assert not outcome.interrupted
    assert search.num_reconciled == 1
    assert search.told == [(f"configuration of {key}", 0.5, TrialState.COMPLETE) for key in "abcde"]
    assert [bench.state_of(key) for key in "abcde"] == [TrialState.COMPLETE] * 5
    assert [event for event in bench.monitor.seen if event[1] == "a"] == [
        ("started", "a", 1),
        ("epoch", "a", 1),
        ("ended", "a", TrialState.COMPLETE),
    ]
    assert (SWEEP, "a", True) in bench.tracker.mirrored


def test_a_configuration_is_valued_by_the_mean_over_its_trials(bench: Bench) -> None:
    """It is told once, when its last seed has ended."""
    search = ListSearch([Point("one", (spec("a"), spec("b"), spec("c")))])
    values = {"a": 0.2, "b": 0.3, "c": 0.7}
    bench.run(search, ScriptedLauncher(lambda job: complete(job, values[job.folder.name])))
    [(configuration, value, state)] = search.told
    assert (configuration, state) == ("one", TrialState.COMPLETE)
    assert value == pytest.approx(0.4)


def test_a_second_run_runs_nothing(bench: Bench) -> None:
    """All is CACHED, the search is told the known values, and the mirror is looked after."""
    bench.run(points("a", "b"), ScriptedLauncher(complete))
    bench.tracker.mirrored.clear()
    launcher, search = ScriptedLauncher(complete), ListSearch(points("a", "b"))
    outcome = bench.run(search, launcher)
    assert launcher.launched == []
    assert set(states_of(outcome).values()) == {TrialState.CACHED}
    assert [trial.attempts for trial in outcome.trials] == [1, 1]
    assert [value for _, value, _ in search.told] == [0.5, 0.5]
    assert bench.tracker.mirrored == [(SWEEP, "a", True), (SWEEP, "b", True)]


def test_a_trial_proposed_twice_is_run_once(bench: Bench) -> None:
    """The second proposal gets the first one's value, even where it comes while the trial runs."""
    search = ListSearch([*points("a"), *points("a"), Point("both", (spec("a"), spec("b")))])
    launcher = ScriptedLauncher(lambda job: complete(job) if job.num_polls > 3 else None)
    bench.run(search, launcher)
    assert launcher.launched == ["a", "b"]
    assert [told[0] for told in search.told] == ["configuration of a", "configuration of a", "both"]


def test_trials_of_a_lower_round_go_first(bench: Bench) -> None:
    """First seeds of all configurations before second ones, though a configuration brings both at once."""
    search = ListSearch([Point("one", (spec("a0"), spec("a1"))), Point("two", (spec("b0"), spec("b1")))])
    launcher = ScriptedLauncher(complete, num_slots=1)
    bench.run(search, launcher, round_of=lambda spec: int(spec.key[-1]))
    assert launcher.launched == ["a0", "b0", "a1", "b1"]
    assert [told[0] for told in search.told] == ["one", "two"]


def test_a_search_is_asked_only_when_a_slot_is_free(bench: Bench) -> None:
    """So that each proposal knows as many results as possible."""

    class Adaptive(ListSearch):
        def propose(self) -> Any:
            assert launcher.free_slots() > 0
            known.append(len(self.told))
            return super().propose()

    known: list[int] = []
    launcher = ScriptedLauncher(complete, num_slots=1)
    bench.run(Adaptive(points(*"abc")), launcher)
    assert known[:3] == [0, 1, 2]


def test_a_failed_trial_is_a_result(bench: Bench) -> None:
    """The sweep goes on; the trial is not tried again before somebody asks for it."""

    def script(job: ScriptedJob) -> int:
        if job.folder.name != "a":
            return complete(job)
        fail(job.trial, 1, "ValueError: no")
        return ExitCode.FAILED

    search = ListSearch(points("a", "b"))
    outcome = bench.run(search, ScriptedLauncher(script))
    assert states_of(outcome) == {"a": TrialState.FAILED, "b": TrialState.COMPLETE}
    assert search.told[0] == ("configuration of a", None, TrialState.FAILED)
    assert bench.ledger.states(["a"])["a"].reason == "ValueError: no"
    again = ScriptedLauncher(complete)
    assert states_of(bench.run(points("a", "b"), again)) == {"a": TrialState.FAILED, "b": TrialState.CACHED}
    assert again.launched == []
    bench.ledger.reset_failed(["a"])
    assert states_of(bench.run(points("a", "b"), again)) == {"a": TrialState.COMPLETE, "b": TrialState.CACHED}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-9, "killed by signal 9 (SIGKILL); perhaps out of memory"),
        (-11, "killed by signal 11 (SIGSEGV)"),
        (0, "the worker ended with exit code 0 and left no result"),
        (120, "the worker ended with exit code 120 and left no result"),
    ],
)
def test_a_worker_that_dies_without_a_word_has_failed(bench: Bench, code: int, reason: str) -> None:
    """The dispatcher writes the result, with the end of the log."""

    def script(job: ScriptedJob) -> int:
        job.trial.log.write_text("last words\n")
        return code

    [trial] = bench.run(points("a"), ScriptedLauncher(script)).trials
    assert trial.state is TrialState.FAILED
    assert trial.result == bench.folder("a").result()
    assert trial.result is not None
    assert (trial.result.reason, trial.result.log_tail) == (reason, "last words")


def test_a_folder_of_another_trial_fails_this_one_only(bench: Bench) -> None:
    """What cannot be launched is told, and the sweep goes on."""
    bench.folder("a").create(spec("other"))
    outcome = bench.run(points("a", "b"), ScriptedLauncher(complete))
    assert states_of(outcome) == {"a": TrialState.FAILED, "b": TrialState.COMPLETE}
    assert "holds trial other" in (bench.ledger.states(["a"])["a"].reason or "")
    assert "holds trial other" in (outcome.trials[0].reason or "")


def test_where_no_worker_can_be_started_the_sweep_ends(bench: Bench) -> None:
    """After some tries it says so, and leaves nothing claimed."""

    class Broken(ScriptedLauncher):
        def launch(self, folder: Path) -> ScriptedJob:
            raise LaunchError("no worker can be started")

    with pytest.raises(LaunchError, match="no worker"):
        bench.run(points("a", "b"), Broken(complete))
    assert bench.state_of("a") is TrialState.WAITING


def test_another_sweep_may_be_quicker_to_a_slot(bench: Bench) -> None:
    """A slot that is gone at launch is waited for."""

    class Contested(ScriptedLauncher):
        num_lost = 0

        def free_slots(self) -> int:
            return super().free_slots() if self.num_lost in (0, 5) else self._wait()

        def _wait(self) -> int:
            self.num_lost += 1
            return 0

        def launch(self, folder: Path) -> ScriptedJob:
            if self.num_lost == 0:
                self.num_lost = 1
                raise LaunchError("no slot is free")
            return super().launch(folder)

    assert states_of(bench.run(points("a"), Contested(complete))) == {"a": TrialState.COMPLETE}


def test_an_error_of_our_own_leaves_nothing_running_or_claimed(bench: Bench) -> None:
    """Jobs are killed and trials given back, whatever ends the loop."""

    class Breaking(ListSearch):
        def propose(self) -> Any:
            if not self._proposals:
                raise RuntimeError("the search broke")
            return super().propose()

    launcher = ScriptedLauncher(stop_when_asked, num_slots=3)
    with pytest.raises(RuntimeError, match="broke"):
        bench.run(Breaking(points("a", "b")), launcher)
    assert [job.exit for job in launcher.jobs] == [JobExit(-9)] * 2
    assert [bench.state_of(key) for key in "ab"] == [TrialState.WAITING] * 2


def test_the_first_stop_is_graceful(bench: Bench) -> None:
    """Nothing more is launched, what runs is asked to end and waits for the next run, which goes on with it."""
    launcher = ScriptedLauncher(stop_when_asked)
    dispatcher = bench.dispatcher(points(*"abc"), launcher, sleep=lambda seconds: dispatcher.request_stop())
    outcome = dispatcher.run()
    assert outcome.interrupted
    assert [job.stops[0] for job in launcher.jobs] == [False, False]
    assert set(states_of(outcome).values()) == {TrialState.WAITING}
    assert [bench.state_of(key) for key in "ab"] == [TrialState.WAITING] * 2
    outcome = bench.run(points(*"abc"), ScriptedLauncher(complete))
    assert [(trial.state, trial.attempts) for trial in outcome.trials] == [
        (TrialState.COMPLETE, 2),
        (TrialState.COMPLETE, 2),
        (TrialState.COMPLETE, 1),
    ]


def test_the_second_stop_kills(bench: Bench) -> None:
    """An attempt killed on request is no failure, and its record is closed."""
    launcher = ScriptedLauncher(lambda job: -9 if True in job.stops else None)
    dispatcher = bench.dispatcher(points("a"), launcher, sleep=lambda seconds: dispatcher.request_stop())
    assert states_of(dispatcher.run()) == {"a": TrialState.WAITING}
    last = bench.folder("a").events()[0][-1]
    assert (last.kind, last.state, last.reason) == ("attempt_ended", TrialState.WAITING, "killed on request")
    assert bench.state_of("a") is TrialState.WAITING


def test_an_attempt_stopped_by_somebody_else_is_gone_on_with(bench: Bench) -> None:
    """SIGTERM to a worker from outside costs nothing."""
    launcher = ScriptedLauncher(lambda job: ExitCode.STOPPED if len(launcher.jobs) == 1 else complete(job))
    [trial] = bench.run(points("a"), launcher).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)


def claim_as(bench: Bench, key: str, owner: str, sweep: str = SWEEP) -> int:
    """Let somebody else have a trial."""
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


def test_a_dead_dispatchers_trials_are_taken_over_at_once(bench: Bench) -> None:
    """Without waiting for the lease; the record of the attempt is closed, in its own sweep's mirror too."""
    claim_as(bench, "a", dead_owner(bench))
    claim_as(bench, "b", dead_owner(bench), sweep="another sweep")
    for key in "ab":
        bench.folder(key).create(spec(key))
    [trial] = bench.run(points("a"), ScriptedLauncher(complete)).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)
    assert bench.folder("a").events()[0][0].reason == "its dispatcher died"
    assert ("another sweep", "b", True) in bench.tracker.mirrored
    assert bench.state_of("b") is TrialState.WAITING


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAILED])
def test_a_result_that_the_ledger_does_not_know_is_entered(bench: Bench, state: TrialState) -> None:
    """The dispatcher died between the worker's result and its own entry: nothing is trained again."""
    folder = bench.folder("a")
    folder.create(spec("a"))
    attempt = claim_as(bench, "a", dead_owner(bench))
    folder.write_result(TrialResult(key="a", state=state, attempt=attempt, started_s=1, ended_s=2, metrics={"val/miou": 0.3}))
    launcher = ScriptedLauncher(complete)
    outcome = bench.run(points("a"), launcher)
    assert launcher.launched == []
    assert bench.state_of("a") is state
    assert states_of(outcome) == {"a": TrialState.CACHED if state is TrialState.COMPLETE else state}


def test_finished_folders_survive_the_loss_of_the_ledger(bench: Bench) -> None:
    """The folder is the truth: with a new ledger, finished trials are CACHED."""
    bench.run(points("a"), ScriptedLauncher(complete))
    fresh = Ledger(f"sqlite:///{bench.home.root}/new.db")
    launcher = ScriptedLauncher(complete)
    assert states_of(bench.run(points("a"), launcher, ledger=fresh)) == {"a": TrialState.CACHED}
    assert launcher.launched == []


def test_a_trial_that_another_dispatcher_finishes_is_waited_for(bench: Bench) -> None:
    """It is told like one of ours."""
    search = ListSearch(points("a", "b"))
    claim_as(bench, "a", "another-machine:1:1")
    clock = Ticks(1.0)

    def finish_elsewhere(seconds: float) -> None:
        bench.ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)

    outcome = bench.run(
        search, ScriptedLauncher(complete), clock=clock, sleep=finish_elsewhere, find_result=lambda spec: a_result(spec.key, 0.7)
    )
    assert states_of(outcome) == {"a": TrialState.COMPLETE, "b": TrialState.COMPLETE}
    assert ("configuration of a", 0.7, TrialState.COMPLETE) in search.told
    assert (SWEEP, "a", True) not in bench.tracker.mirrored


def a_result(key: str, miou: float) -> TrialResult:
    """What another machine left."""
    return TrialResult(
        key=key, state=TrialState.COMPLETE, attempt=1, started_s=1, ended_s=2, epochs_run=1, metrics={"val/miou": miou}
    )


@pytest.mark.parametrize("here", [None, TrialState.FAILED])
def test_a_result_of_another_machine_is_found(bench: Bench, here: TrialState | None) -> None:
    """Complete in the ledger, and here nothing or an earlier failure: its value is told, and nothing is trained."""
    claim_as(bench, "a", "another-machine:1:1")
    bench.ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)
    if here is not None:
        bench.folder("a").create(spec("a"))
        bench.folder("a").write_result(TrialResult(key="a", state=here, attempt=1, started_s=1, ended_s=2))
    launcher, search = ScriptedLauncher(complete), ListSearch(points("a"))
    [trial] = bench.run(search, launcher, find_result=lambda spec: a_result(spec.key, 0.7)).trials
    assert (trial.state, trial.result) == (TrialState.CACHED, a_result("a", 0.7))
    assert search.told == [("configuration of a", 0.7, TrialState.COMPLETE)]
    assert launcher.launched == []


def test_a_result_that_is_lost_is_made_again(bench: Bench) -> None:
    """After its folder was deleted, a complete trial is run again and the monitor told so; the search never hears FAILED."""
    bench.run(points("a"), ScriptedLauncher(complete))
    shutil.rmtree(bench.folder("a").path)
    launcher, search = ScriptedLauncher(complete), ListSearch(points("a"))
    [trial] = bench.run(search, launcher).trials
    assert (trial.state, trial.attempts, trial.reason) == (TrialState.COMPLETE, 2, None)
    assert search.told == [("configuration of a", 0.5, TrialState.COMPLETE)]
    assert launcher.launched == ["a"]
    assert any("run again" in (reason or "") for reason in bench.monitor.reasons)


@pytest.mark.parametrize("comes_at", [5, None])
def test_a_result_on_its_way_is_waited_for(bench: Bench, comes_at: int | None) -> None:
    """The ledger is quicker than the mirror and the server may be down; but in the end a trial is run again."""
    claim_as(bench, "a", "another-machine:1:1")
    bench.ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)
    asked: list[str] = []

    def find(spec: TrialSpec) -> TrialResult | None:
        asked.append(spec.key)
        if len(asked) == 2:
            raise TrackingError("the server does not answer")
        return a_result(spec.key, 0.7) if len(asked) == comes_at else None

    launcher, search = ScriptedLauncher(complete), ListSearch(points("a"))
    bench.run(search, launcher, find_result=find, clock=Ticks(0.5))
    assert [value for _, value, _ in search.told] == [0.5 if comes_at is None else 0.7]
    assert launcher.launched == (["a"] if comes_at is None else [])
    assert 3 < len(asked) < 15


class Ticks:
    """A clock that goes on by itself with every look."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self._step_s = step_s

    def __call__(self) -> float:
        self.now_s += self._step_s
        return self.now_s


def test_an_expired_lease_is_taken_over(bench: Bench) -> None:
    """Of a dispatcher on another machine only its lease tells."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)
    ledger.register(SWEEP, [("a", "one")])
    ledger.claim("a", SWEEP, "another-machine:1:1")

    def wait(seconds: float) -> None:
        wall[0] += 10

    [trial] = bench.run(points("a"), ScriptedLauncher(complete), ledger=ledger, clock=Ticks(1.0), sleep=wait).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)


def test_leases_are_renewed_in_time(bench: Bench) -> None:
    """A trial that takes many times its lease stays ours."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)

    def script(job: ScriptedJob) -> int | None:
        wall[0] += 5
        assert ledger.claim("a", SWEEP, "another-machine:1:1") is None
        return complete(job) if job.num_polls > 100 else None

    assert states_of(bench.run(points("a"), ScriptedLauncher(script), ledger=ledger, clock=lambda: wall[0])) == {
        "a": TrialState.COMPLETE
    }


def test_a_lost_trial_is_let_go(bench: Bench) -> None:
    """When this machine slept past its lease and another took the trial, ours is killed and nothing is written."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)

    def script(job: ScriptedJob) -> int | None:
        if job.num_polls == 1:
            wall[0] += 100
            assert ledger.claim("a", SWEEP, "another-machine:1:1") == 2
        if True in job.stops:
            ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)
            return -9
        return None

    launcher = ScriptedLauncher(script)
    outcome = bench.run(points("a"), launcher, ledger=ledger, clock=Ticks(1.0), find_result=lambda spec: a_result(spec.key, 0.7))
    assert states_of(outcome) == {"a": TrialState.COMPLETE}
    assert bench.monitor.reasons[0] == "another dispatcher has taken it over"
    assert launcher.launched == ["a"]
    assert bench.folder("a").result() is None


def test_a_folder_that_is_still_worked_on_is_waited_for(bench: Bench) -> None:
    """A worker may need a moment to notice that its dispatcher died; no attempt is counted meanwhile."""
    bench.folder("a").create(spec("a"))
    lock = FileLock(bench.folder("a").lock)
    lock.acquire()
    launcher = ScriptedLauncher(complete)
    ticks = Ticks(0.1)
    outcome = bench.run(points("a"), launcher, clock=ticks, sleep=lambda seconds: lock.release() if ticks.now_s > 20 else None)
    assert [(trial.state, trial.attempts) for trial in outcome.trials] == [(TrialState.COMPLETE, 1)]


def test_a_worker_that_finds_its_folder_locked_is_tried_again_later(bench: Bench) -> None:
    """LOCKED is no end of the trial."""
    launcher = ScriptedLauncher(lambda job: ExitCode.LOCKED if len(launcher.jobs) == 1 else complete(job))
    [trial] = bench.run(points("a"), launcher, clock=Ticks(1.0)).trials
    assert trial.state is TrialState.COMPLETE
    assert launcher.launched == ["a", "a"]


def test_real_trials_run_side_by_side(
    bench: Bench, local_launcher: LocalLauncher, make_spec: Callable[..., TrialSpec], tiny_data: Path
) -> None:
    """Two are trained, one that cannot be built fails, and no process is left."""
    trials = [make_spec(seed=0), make_spec(seed=1), make_spec(arch_options={"no_such_option": 1})]
    proposals = [Point(one.configuration + str(one.seed), (one,)) for one in trials]
    outcome = bench.run(proposals, local_launcher, data_folder_of=lambda spec: tiny_data)
    assert [trial.state for trial in outcome.trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAILED]
    pids = [event.facts["pid"] for one in trials for event in bench.folder(one.key).events()[0] if "pid" in event.facts]
    assert len(pids) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)


SWEEPING = """
import sys
from pathlib import Path
from types import SimpleNamespace
from orchestrator.dispatcher import Dispatcher
from orchestrator.home import Home
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.slots import Slot
from orchestrator.ledger import Ledger
from orchestrator.trial import TrialSpec

root, data, *texts = sys.argv[1:]
home = Home(Path(root))
points = [SimpleNamespace(id=str(index), trial=TrialSpec.model_validate_json(text)) for index, text in enumerate(texts)]
search = SimpleNamespace(
    propose=lambda: points.pop(0) if points else None, tell=lambda *told: None, reconcile=lambda: None
)
tracker = SimpleNamespace(mirror=lambda *seen, **flags: None)
with home.become_owner() as owner:
    launcher = LocalLauncher([Slot("cpu-0", "", 1)], locks=home.root / "slots")
    Dispatcher(
        sweep="sweep", search=search, launcher=launcher, tracker=tracker, ledger=Ledger(home.ledger_url), home=home,
        owner=owner.name, trials_of=lambda point: [point.trial], data_folder_of=lambda spec: Path(data),
    ).run()
    launcher.close()
"""


@pytest.mark.slow
def test_a_killed_dispatchers_sweep_is_finished_by_the_next(
    bench: Bench, local_launcher: LocalLauncher, make_spec: Callable[..., TrialSpec], tiny_data: Path
) -> None:
    """After kill -9 in the middle of the second trial: the first is not run again, the second goes on from its checkpoint."""
    trials = [make_spec(seed=0), make_spec(seed=1, epochs=10_000)]
    command = [sys.executable, "-c", SWEEPING, str(bench.home.root), str(tiny_data), *(one.model_dump_json() for one in trials)]
    process = subprocess.Popen(command, start_new_session=True)
    second = bench.folder(trials[1].key)
    while not (second.path / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    trained = max(event.epoch or 0 for event in second.events()[0])

    def stop_after_an_epoch(seconds: float) -> None:
        time.sleep(0.02)
        if len([event for event in bench.monitor.seen if event[0] == "epoch"]) > 0:
            dispatcher.request_stop()

    dispatcher = bench.dispatcher(
        [Point(one.configuration + str(one.seed), (one,)) for one in trials],
        local_launcher,
        data_folder_of=lambda spec: tiny_data,
        sleep=stop_after_an_epoch,
    )
    outcome = dispatcher.run()
    assert [trial.state for trial in outcome.trials] == [TrialState.CACHED, TrialState.WAITING]
    attempts = [event for event in second.events()[0] if event.kind == "attempt_started"]
    assert [event.attempt for event in attempts] == [1, 2]
    resumed = next(event for event in second.events()[0] if event.kind == "epoch" and event.attempt == 2)
    assert 1 < (resumed.epoch or 0) <= trained + 1
    assert len([event for event in bench.folder(trials[0].key).events()[0] if event.kind == "attempt_started"]) == 1
    assert not [row for row in bench.ledger.states([one.key for one in trials]).values() if row.state is TrialState.RUNNING]
