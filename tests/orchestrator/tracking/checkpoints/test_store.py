"""Checkpoints on a real server: whole or not found, one at a time, and gone when the trial has ended."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from orchestrator.state.home import Home
from orchestrator.state.trial.checkpoint import copied
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.tracking.checkpoints.store import CheckpointStore
from orchestrator.tracking.checkpoints.uploads import open_checkpoints
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.tracker import MlflowTracker
from tests.orchestrator.postgresql import PASSWORD
from tests.orchestrator.state.trial.test_checkpoint import train
from tests.orchestrator.tracking.conftest import Server, Wait, Worker, make_guarded

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


@pytest.fixture(scope="module")
def running(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests here."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    server = Server(folder)
    server.start()
    yield server
    server.kill()


class Machine:
    """A home, and a trial of it with a run of its own on the server."""

    def __init__(self, folder: Path, server: Server, key: str) -> None:
        self.location = TrackingLocation(server.uri, folder / "artifacts", folder / "trials", folder / "locks")
        self.worker = Worker(self.location.trials)
        self.trial = self.worker.start(key)
        self.store = CheckpointStore(self.location)
        self.client = MlflowClient(tracking_uri=server.uri)
        tracker = MlflowTracker(self.location)
        tracker.mirror("s", self.trial, False)
        assert tracker.close(60) == []
        self.run_id = str(tracker.run_id("s", key))

    def send(self, *epochs: int, text: str = "") -> None:
        train(self.trial, *epochs, text=text)
        self.store.send(self.trial, self.run_id)

    def mirrored(self) -> dict[str, object]:
        """The content of the run's tag; empty without one."""
        return json.loads(self.client.get_run(self.run_id).data.tags.get("checkpoint", "{}"))

    def files(self, path: str = "checkpoint") -> list[str]:
        """Checkpoint files on the server."""
        found = self.client.list_artifacts(self.run_id, path)
        return sorted(name for file in found for name in (self.files(file.path) if file.is_dir else [file.path]))


@pytest.fixture
def machine(running: Server, tmp_path: Path) -> Machine:
    """With a trial of its own for each test."""
    return Machine(tmp_path / "machine", running, uuid.uuid4().hex)


def stored(server: Server, machine: Machine, name: str) -> Path:
    """A file of the checkpoint where the server keeps it."""
    [path] = server.folder.glob(f"artifacts/*/{machine.run_id}/artifacts/checkpoint/*/{name}")
    return path


def test_what_is_fetched_is_what_was_sent_last(machine: Machine, tmp_path: Path) -> None:
    """After any number of replacements; the server holds one at a time."""
    for epoch in (1, 2, 3):
        machine.send(epoch)
    target = tmp_path / "target"
    target.mkdir()
    fetched = machine.store.fetch(machine.trial.path.name, target, after=2)
    assert fetched.epoch == 3
    assert fetched.says.startswith("resumed from epoch 3 of attempt 1 on ")
    with copied(machine.trial) as expected:
        assert expected is not None
        for file in expected[0].iterdir():
            assert (target / file.name).read_bytes() == file.read_bytes()
    assert len(machine.files()) == 3


def test_a_checkpoint_that_is_no_later_is_not_fetched(machine: Machine, tmp_path: Path) -> None:
    """This machine's own checkpoint is as good, and an earlier one never replaces a later one."""
    machine.send(4)
    before = machine.mirrored()
    fetched = machine.store.fetch(machine.trial.path.name, tmp_path, after=4)
    assert (fetched.epoch, fetched.says) == (None, "the checkpoint on the server is of epoch 4")
    machine.send(3)
    assert machine.mirrored() == before
    assert machine.store.fetch("unknown", tmp_path, after=0).says == "no checkpoint of it is on the server"


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_checkpoint_is_reported_and_never_found_again(
    machine: Machine, running: Server, tmp_path: Path, damage: str
) -> None:
    """Whatever happened to it on the server; a later one can be sent."""
    machine.send(5)
    file = stored(running, machine, "last.pt")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-3] if damage == "truncated" else content[:-1] + b"x")
    fetched = machine.store.fetch(machine.trial.path.name, tmp_path, after=0)
    assert (fetched.epoch, fetched.is_damaged) == (None, True)
    assert "last.pt of run" in fetched.says
    assert machine.mirrored() == {}
    assert machine.store.fetch(machine.trial.path.name, tmp_path, after=0).says == "no checkpoint of it is on the server"
    machine.send(2)
    assert machine.mirrored()["epoch"] == 2


def test_an_upload_that_was_killed_costs_only_itself(machine: Machine, running: Server, tmp_path: Path) -> None:
    """Half of the next one is on the server: the last complete one is found, and the next upload replaces both."""
    machine.send(1)
    half = tmp_path / "last.pt"
    half.write_text("hal")
    turn = 1 - int(str(machine.mirrored()["turn"]))
    machine.client.log_artifact(machine.run_id, str(half), f"checkpoint/{turn}")
    target = tmp_path / "target"
    target.mkdir()
    assert machine.store.fetch(machine.trial.path.name, target, after=0).epoch == 1
    assert (target / "last.pt").read_text() == "last.pt of 1"
    machine.send(2)
    assert len(machine.files()) == 3


def test_the_mirror_sends_what_a_stopped_trial_left_and_removes_it_at_the_end(machine: Machine, running: Server) -> None:
    """A graceful stop leaves the latest checkpoint; when the trial has ended, neither tag nor file remains."""
    train(machine.trial, 1, 2)
    tracker = MlflowTracker(machine.location, takeover_s=300)
    tracker.mirror("s", machine.trial, True)
    assert tracker.close(60) == []
    assert machine.mirrored()["epoch"] == 2
    machine.worker.finish(machine.trial)
    tracker = MlflowTracker(machine.location, takeover_s=300)
    tracker.mirror("s", machine.trial, True)
    assert tracker.close(60) == []
    assert machine.mirrored() == {}
    assert machine.files() == []


@pytest.mark.parametrize(("storage", "tracking"), [(None, "http://h:1"), ("postgresql://h/d", None), (None, None)])
def test_a_machine_by_itself_keeps_its_checkpoints(tmp_path: Path, storage: str | None, tracking: str | None) -> None:
    """No other machine has its ledger and could resume; nor does it ask a server, which may be down, for its own files."""
    assert open_checkpoints(TrackingLocation.of(Home(tmp_path, storage=storage, tracking=tracking))) is None
    assert open_checkpoints(TrackingLocation.of(Home(tmp_path, storage="postgresql://h/d", tracking="http://h:1"))) is not None


def test_a_running_trials_checkpoint_is_sent_as_often_as_configured(machine: Machine, wait: Wait) -> None:
    """At once with 0; not yet with minutes; never without."""
    train(machine.trial, 1)
    for takeover_s in (None, 300):
        tracker = MlflowTracker(machine.location, takeover_s=takeover_s)
        tracker.mirror("s", machine.trial, False)
        tracker.close(60)
        assert machine.mirrored() == {}
    tracker = MlflowTracker(machine.location, takeover_s=0)
    tracker.mirror("s", machine.trial, False)
    wait(lambda: machine.mirrored().get("epoch") == 1)
    tracker.close(60)


def test_epochs_sent_by_another_machine_are_sent_once(machine: Machine, running: Server, tmp_path: Path) -> None:
    """Even if they are trained again later, after its checkpoint."""
    key = machine.trial.path.name
    for epoch in (1, 2, 3):
        machine.worker.epoch(machine.trial, epoch, epoch / 10)
    send(machine.location, machine.trial)
    worker = Worker(tmp_path / "other/trials")
    again = worker.start(key, attempt=2, time_s=5000.0)
    other = TrackingLocation(running.uri, tmp_path / "other/artifacts", tmp_path / "other/trials", tmp_path / "other/locks")
    for epoch in (1, 2, 3, 4):
        worker.epoch(again, epoch, epoch / 10, attempt=2, start_s=5000.0)
    send(other, again)
    points = machine.client.get_metric_history(machine.run_id, "epoch/val/miou")
    assert [(point.step, point.timestamp) for point in sorted(points, key=lambda point: point.step)] == [
        (1, 1_001_000), (2, 1_002_000), (3, 1_003_000), (4, 5_004_000),
    ]  # fmt: skip


def send(location: TrackingLocation, folder: TrialFolder) -> None:
    """What a mirror does regularly."""
    tracker = MlflowTracker(location)
    tracker.mirror("s", folder, False)
    assert tracker.close(60) == []


@pytest.fixture
def guarded(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server where we may add to another user's experiment but delete nothing of it."""
    server = make_guarded(tmp_path, empty_database, settings="auth_cache_ttl_seconds = 60\n")
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    user = {"username": "mate", "password": PASSWORD}
    made = requests.post(f"{server.uri}/api/2.0/mlflow/users/create", json=user, auth=("admin", PASSWORD), timeout=30)
    assert made.status_code == 200, made.text
    MlflowClient(tracking_uri=server.uri).create_experiment("s", tags={"orchestrate": "sweep"})
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "mate")
    yield server
    server.kill()


@pytest.mark.slow
def test_files_that_may_not_be_deleted_are_emptied(guarded: Server, tmp_path: Path) -> None:
    """So checkpoints do not pile up on a server whose login protects whole experiments."""
    machine = Machine(tmp_path / "machine", guarded, "k")

    def sizes() -> list[int]:
        return sorted(path.stat().st_size for path in guarded.folder.glob("artifacts/*/*/artifacts/checkpoint/*/*"))

    for epoch in (1, 2, 3):
        machine.send(epoch)
    assert sizes()[:3] == [0, 0, 0]
    assert len(sizes()) == 6
    target = tmp_path / "target"
    target.mkdir()
    assert machine.store.fetch("k", target, after=0).epoch == 3
    machine.store.withdraw("k")
    assert set(sizes()) == {0}
    assert machine.mirrored() == {}
