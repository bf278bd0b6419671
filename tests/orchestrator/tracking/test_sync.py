"""`orchestrate sync`: afterwards MLflow has all of the ledger's trials once, and nothing stays RUNNING."""

from __future__ import annotations

import threading

import pytest
from mlflow import MlflowClient

from orchestrator.operations.sync import SyncedSweep, sync
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.mirror.tracker import MlflowTracker
from tests.orchestrator.tracking.mirror.test_mirror import mirror, runs_of

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


@pytest.fixture
def ledger(location: TrackingLocation, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The ledger of the command's home."""
    for name in ("ORCHESTRATE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCHESTRATE_HOME", str(location.trials.parent))
    return Ledger(f"sqlite:///{location.trials.parent}/ledger.db")


def enter(ledger: Ledger, key: str, state: TrialState | None = TrialState.COMPLETE, *, owner: str = "far:1:1") -> None:
    """Enter a trial as its dispatcher does; None: it has not ended."""
    ledger.register("s", [(key, "c")])
    assert ledger.claim(key, "s", owner)
    if state is not None:
        ledger.finish(key, owner, state, "no" if state is TrialState.FAILED else None)


def synced() -> SyncedSweep:
    """What the command did for the one sweep."""
    [one] = sync().sweeps
    return one


def test_only_what_is_missing_is_sent(location, worker, ledger) -> None:
    """A trial never sent, one without its end, one whose run was deleted; the second time nothing is missing."""
    for key in ("whole", "deleted"):
        mirror(location, worker.train(key)[0])
    (whole,) = (run for run in runs_of(location) if run.data.tags["key"] == "whole")
    (deleted,) = (run for run in runs_of(location) if run.data.tags["key"] == "deleted")
    MlflowClient(tracking_uri=location.uri).delete_run(deleted.info.run_id)
    half = worker.start("half")
    mirror(location, half, ended=False)
    worker.finish(half, state=TrialState.FAILED)
    worker.train("unsent")
    for key in ("whole", "deleted", "unsent"):
        enter(ledger, key)
    enter(ledger, "half", TrialState.FAILED)
    enter(ledger, "never trained here")

    report = sync(["s"])
    assert report.exit_code == 0
    [done] = report.sweeps
    assert (done.checked, set(done.sent), done.refused) == (4, {"deleted", "half", "unsent"}, {})
    runs = {run.data.tags["key"]: run for run in runs_of(location)}
    assert {key: run.info.status for key, run in runs.items()} == {
        "whole": "FINISHED",
        "deleted": "FINISHED",
        "half": "FAILED",
        "unsent": "FINISHED",
    }
    assert runs["whole"].info.run_id == whole.info.run_id
    assert synced().sent == {}
    assert len(runs_of(location)) == 4


def test_a_trial_that_a_dispatcher_holds_is_skipped(location, worker, ledger) -> None:
    """Its dispatcher mirrors it; abandoned ones are closed, with or without a folder here."""
    folders = {key: worker.start(key) for key in ("held", "left", "gone")}
    for folder in folders.values():
        mirror(location, folder, ended=False)
    for key in folders:
        enter(ledger, key, None)
    ledger.release("left", "far:1:1")
    ledger.release("gone", "far:1:1")
    folders["gone"].path.rename(location.trials / "elsewhere")
    done = synced()
    assert (set(done.sent), done.closed) == ({"left"}, ("gone",))
    found = {run.data.tags["key"]: run.info.status for run in runs_of(location)}
    assert found == {"held": "RUNNING", "left": "KILLED", "gone": "KILLED"}
    assert (synced().sent, synced().closed) == ({}, ())


def test_an_attempt_that_another_machine_overtook_is_not_sent(location, worker, ledger) -> None:
    """The trial is COMPLETE in ledger and MLflow; the unfinished folder here must not undo that."""
    folder, _ = worker.train()
    mirror(location, folder)
    enter(ledger, "k1")
    (folder.path / "result.json").unlink()
    assert (synced().checked, synced().sent) == (0, {})
    (run,) = runs_of(location)
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")


def test_a_refused_trial_does_not_hold_up_the_others(location, worker, ledger) -> None:
    """The exit code says that something is still missing."""
    broken, _ = worker.train("broken")
    (broken.path / "result.json").write_text("{")
    worker.train("k1")
    enter(ledger, "broken")
    enter(ledger, "k1")
    report = sync()
    assert report.exit_code == 1
    [done] = report.sweeps
    assert (set(done.sent), set(done.refused)) == ({"k1"}, {"broken"})


def test_a_server_that_stays_down_is_reported(location, worker, ledger, monkeypatch) -> None:
    """After some retries; nothing is lost, and the exit code is 1."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    worker.train("k1")
    enter(ledger, "k1")
    report = sync(patience_s=1.5)
    assert report.exit_code == 1
    assert report.sweeps[0].problem is not None
    assert "127.0.0.1:9" in report.render()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert set(synced().sent) == {"k1"}


def test_two_mirrors_of_one_machine_make_one_run(location, worker) -> None:
    """Two dispatchers of a sweep: one ran a trial, the other sees that it has ended."""
    folders = [worker.train(f"k{number}")[0] for number in range(3)]
    barrier = threading.Barrier(2)

    def send(recorder: Recorder, folders: list[TrialFolder]) -> None:
        for folder in folders:
            barrier.wait(60)
            recorder.send("s", folder, ended=True)

    mirror(location, worker.train("first")[0])  # makes the experiment
    threads = [threading.Thread(target=send, args=(Recorder(location), folders)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.data.tags["key"] for run in runs_of(location)) == ["first", "k0", "k1", "k2"]


def test_reconcile_lists_live_trials_after_running_ones(location, worker) -> None:
    """A trial that another dispatcher started later is not treated as abandoned."""
    live: set[str] = set()
    tracker = MlflowTracker(location)
    tracker.mirror("s", worker.start("begun since"), False)
    tracker.reconcile("s", lambda: live)
    live.add("begun since")
    assert tracker.close(60) == []
    (run,) = runs_of(location)
    assert run.info.status == "RUNNING"
