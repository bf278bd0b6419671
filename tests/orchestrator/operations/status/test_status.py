"""What `orchestrate status` finds in a ledger and in trial folders."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import SpecError
from orchestrator.operations.status import read_status
from orchestrator.operations.status.pace import TrialProgress, estimate_left, trials_per_hour
from orchestrator.operations.status.reading import SweepStatus
from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.plan import Plan, PlannedTrial
from orchestrator.planning.shared import share_plan
from orchestrator.spec import SweepSpec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from orchestrator.state.trial.endings import fail
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Attempt, Event, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror_state import MirrorState, write_mirror_state
from orchestrator.tracking.tags import RunLabel
from tests.orchestrator.documented import documented_fields, fields_of
from trainers.config import DataConfig, TrainConfig

SWEEP = "s"


@dataclass
class Scene:
    """A home in which a sweep of some trials is running."""

    home: Home
    ledger: Ledger
    owner: str

    def plan(self, *keys: str, priority: int = 0) -> None:
        """Save a plan of trials, as a starting sweep does."""
        spec = SweepSpec(name=SWEEP, priority=priority)
        trials = [PlannedTrial(_spec(key), _configuration(key), 0, self.home.data, RunLabel(f"trial {key}")) for key in keys]
        plan = Plan(SWEEP, Facts(), tuple(trial.configuration for trial in trials), tuple(trials), open_ended=False)
        share_plan(spec, plan, home=self.home, ledger=self.ledger)

    def begin(self, key: str, *, owner: str | None = None, now_s: float | None = None) -> TrialFolder:
        """Claim a trial and write what its worker does first."""
        self.ledger.register(SWEEP, [(key, key)])
        attempt = self.ledger.claim(key, SWEEP, owner or self.owner)
        assert attempt is not None
        folder = TrialFolder(self.home.trial_folder(key))
        folder.create(_spec(key))
        folder.write_attempt(Attempt(number=attempt, data_folder="/nowhere"))
        facts = {"host": "here", "slot": "cpu-0"}
        folder.append(Event(kind="attempt_started", time_s=now_s or time.time(), attempt=attempt, facts=facts))
        (folder.path / TrialFile.HEARTBEAT).touch()
        return folder

    def complete(self, key: str, *, miou: float, took_s: float) -> TrialFolder:
        """Complete a trial now."""
        folder, now_s = self.begin(key), time.time()
        times = {"started_s": now_s - took_s, "ended_s": now_s}
        folder.write_result(
            TrialResult(key=key, state=TrialState.COMPLETE, attempt=1, metrics={"val/miou": miou}, epochs_run=4, **times)
        )
        self.ledger.finish(key, self.owner, TrialState.COMPLETE)
        return folder

    def look(self) -> SweepStatus:
        """The status of the sweep, as the command reads it."""
        [status] = read_status([SWEEP]).sweeps
        return status


def _spec(key: str) -> TrialSpec:
    return TrialSpec(
        key=key,
        configuration=key,
        name=f"trial {key}",
        train=TrainConfig(epochs=4),
        data=DataConfig(),
        seed=0,
        source_fingerprint="f",
    )


def _configuration(key: str) -> Configuration:
    return Configuration(TrainConfig(), DataConfig(), {}, label=f"trial {key}", id=key)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A fresh home, known to the commands, with an owner on another machine."""
    home = Home(tmp_path / "home")
    for name in ("ORCHESTRATE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCHESTRATE_HOME", str(home.root))
    monkeypatch.setenv("ORCHESTRATE_SLOTS", str(tmp_path / "slots"))
    return Scene(home, Ledger(home.ledger_url), "far:1:1")


def test_trials_are_counted_by_state(scene: Scene) -> None:
    """Planned trials without a row wait; those of an earlier form of the file are omitted."""
    scene.complete("old", miou=0.9, took_s=1)
    scene.plan("a", "b", "c", "d")
    scene.complete("a", miou=0.5, took_s=60)
    scene.begin("b")
    status = scene.look()
    assert status.counts == {TrialState.COMPLETE: 1, TrialState.RUNNING: 1, TrialState.WAITING: 2}
    assert status.best == ("trial a", 0.5)


def test_a_priority_is_shown_if_there_is_one(scene: Scene) -> None:
    """Next to the sweep's name; always in the JSON."""
    for priority, shown in ((0, "s: 1 waiting"), (5, "s (priority 5): 1 waiting")):
        scene.plan("a", priority=priority)
        console = Console(width=200)
        with console.capture() as capture:
            console.print(read_status([SWEEP]).render())
        assert capture.get().startswith(shown)
        assert scene.look().priority == priority


def test_trials_of_an_earlier_form_of_the_file_are_shown(scene: Scene) -> None:
    """Another dispatcher may still run when the file was changed and started again."""
    scene.begin("old")
    scene.plan("new")
    assert scene.look().counts == {TrialState.RUNNING: 1, TrialState.WAITING: 1}


def test_a_running_trial_shows_its_progress(scene: Scene) -> None:
    """Slot, attempt, epoch, best so far, speed, last sign of life."""
    scene.plan("a")
    folder = scene.begin("a", now_s=time.time() - 100)
    for epoch, miou in ((1, 0.4), (2, 0.3)):
        metrics = {"val/miou": miou, "images_per_s": 10.0 * epoch}
        folder.append(Event(kind="epoch", time_s=time.time() - 50, attempt=1, epoch=epoch, metrics=metrics))
    status = scene.look()
    [trial] = status.running
    assert (trial.name, trial.host, trial.slot, trial.attempt) == ("trial a", "far", "cpu-0", 1)
    assert (trial.progress.epoch, trial.progress.epochs, trial.best) == (2, 4, 0.4)
    assert status.images_per_s == 20.0
    assert trial.silent_s is not None
    assert trial.silent_s < 30


def test_the_document_has_the_documented_fields(scene: Scene) -> None:
    """For a sweep with one complete, one failed and one running trial."""
    scene.plan("a", "b", "c")
    with scene.ledger.roster.registered(scene.owner, SWEEP, Role.SWEEP):
        scene.complete("a", miou=0.5, took_s=1)
        fail(scene.begin("b"), 1, failure=FailureKind.EXCEPTION, reason="ValueError: no")
        scene.ledger.finish("b", scene.owner, TrialState.FAILED, "ValueError: no")
        scene.begin("c")
        document = read_status([SWEEP]).to_json()
    assert fields_of(document) == documented_fields("status")


def test_what_a_dead_dispatcher_left_waits(scene: Scene) -> None:
    """It is named, and not shown as running."""
    scene.plan("a")
    with scene.home.new_owner() as owner:
        scene.begin("a", owner=owner.name)
        assert scene.look().counts == {TrialState.RUNNING: 1}
        scene.ledger.release("a", owner.name)
        host, _, started_ms = owner.name.rsplit(":", 2)
        scene.begin("a", owner=f"{host}:999999999:{started_ms}")
    status = scene.look()
    assert status.counts == {TrialState.WAITING: 1}
    assert (status.running, status.interrupted) == ((), ("trial a",))


def test_a_failure_is_shown_with_its_kind_reason_and_log(scene: Scene) -> None:
    """And without a folder here from the ledger."""
    scene.plan("a", "b")
    folder = scene.begin("a")
    (folder.path / TrialFile.LOG).write_text("".join(f"line {number}\n" for number in range(9)))
    fail(folder, 1, failure=FailureKind.EXCEPTION, reason="ValueError: [no]")
    scene.ledger.finish("a", scene.owner, TrialState.FAILED, "ValueError: [no]")
    scene.ledger.register(SWEEP, [("b", "b")])
    scene.ledger.claim("b", SWEEP, scene.owner)
    scene.ledger.finish("b", scene.owner, TrialState.FAILED, "a folder on another machine")
    here, elsewhere = scene.look().failed
    assert (here.failure, here.reason, here.log_tail.splitlines()[-1]) == (
        FailureKind.EXCEPTION.words,
        "ValueError: [no]",
        "line 8",
    )
    assert (elsewhere.failure, elsewhere.reason) == (None, "a folder on another machine")
    console = Console(width=200, record=True)
    console.print(read_status([SWEEP]).render())
    shown = console.export_text()
    assert "ValueError: [no]\n      line 4\n" in shown
    assert f"`orchestrate retry {SWEEP}`" in shown


def test_what_mlflow_lacks_is_shown(scene: Scene) -> None:
    """From the mirror's notes about this server; running trials belong to their dispatcher."""
    scene.plan("a", "b", "c")
    scene.complete("a", miou=0.5, took_s=1)
    sent = scene.complete("b", miou=0.5, took_s=1)
    scene.begin("c")
    size = (sent.path / "progress.jsonl").stat().st_size
    location = str(TrackingLocation.of(scene.home))
    write_mirror_state(sent, MirrorState(server=location, sweep=SWEEP, run_id="r", offset=size, ended=True))
    assert scene.look().unmirrored == ("trial a",)


def test_the_time_left_follows_from_finished_trials(scene: Scene) -> None:
    """And their number is given; trials per hour count from the start of the running dispatchers."""
    scene.plan("a", "b", "c")
    with scene.ledger.roster.registered(scene.owner, SWEEP, Role.SWEEP):
        scene.complete("a", miou=0.5, took_s=600)
        scene.begin("b")
        status = scene.look()
    assert [row.owner for row in status.dispatchers] == [scene.owner]
    assert status.trials_per_h is not None
    assert (status.left.seconds, status.left.basis) == (1200, "from the mean of 1 finished trial")


def test_waiting_trials_go_to_the_slots_that_end_first() -> None:
    """One of two ends after 10 s and then runs two more of 60 s each; the other ends after 100 s."""
    running = [TrialProgress(9, 10, epoch_s=10), TrialProgress(0, 10, epoch_s=10)]
    assert estimate_left(running, 2, [60]).seconds == 130
    guess = estimate_left(running, 1, [])
    assert (guess.seconds, guess.is_guess) == (110, True)
    assert estimate_left([TrialProgress()], 1, []).seconds is None
    assert estimate_left([], 3, [60]).seconds is None


def test_an_hour_counts_from_the_start() -> None:
    """Earlier ends do not count, and without ends there is no pace."""
    assert trials_per_hour([50, 150, 200], since_s=100, now_s=1900) == 4
    assert trials_per_hour([50], since_s=100, now_s=1900) is None


def test_the_command_needs_nothing_heavy(scene: Scene) -> None:
    """No torch, optuna or mlflow is loaded; the JSON holds no NaN."""
    scene.plan("a", "b")
    scene.complete("a", miou=0.5, took_s=1)
    code = (
        "import sys\nfrom orchestrator.cli import main\nsys.argv = ['orchestrate', 'status', '--json']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'optuna', 'mlflow'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    [sweep] = json.loads(done.stdout, parse_constant=pytest.fail)["sweeps"]
    assert (sweep["sweep"], sweep["trials"]["COMPLETE"], sweep["trials"]["WAITING"]) == (SWEEP, 1, 1)


def test_an_unknown_sweep_is_refused(scene: Scene) -> None:
    """With the nearest name; without any sweep the report says so."""
    assert read_status().sweeps == ()
    scene.plan("a")
    with pytest.raises(SpecError, match=r"'t' is not a known sweep\. Known: s"):
        read_status(["t"])
    assert [status.sweep for status in read_status().sweeps] == [SWEEP]
