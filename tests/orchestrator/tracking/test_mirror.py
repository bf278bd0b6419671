"""Mirroring: trial folders end up in MLflow once and whole, whatever happens to the server or to the mirror."""

from __future__ import annotations

import time

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.tracking.mirror import MlflowTracker
from orchestrator.tracking.place import Place
from orchestrator.trial import TrialFolder, TrialState

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


def runs_of(place: Place, sweep: str = "s") -> list[Run]:
    """What a sweep has on the server."""
    client = MlflowClient(tracking_uri=place.uri)
    experiment = client.get_experiment_by_name(sweep)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def history_of(place: Place, run: Run, metric: str) -> list[tuple[int, float]]:
    """All points of a metric as (step, value)."""
    client = MlflowClient(tracking_uri=place.uri)
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def mirror(place: Place, folder: TrialFolder, *, ended: bool = True, sweep: str = "s") -> None:
    """What one dispatcher does before it exits."""
    tracker = MlflowTracker(place)
    tracker.mirror(sweep, folder, ended)
    assert tracker.close(60) == []


def test_a_finished_trial_is_a_finished_run(place, worker) -> None:
    """Params, tags, times, files and the final figures of a folder are on the server."""
    folder, result = worker.train()
    mirror(place, folder)
    (run,) = runs_of(place)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "trial k1")
    assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_010_000)
    assert run.data.params["optimizer.lr"] == str(folder.spec().train.optimizer.lr)
    assert run.data.params["data.val_fraction"] == str(folder.spec().data.val_fraction)
    expected = {"key": "k1", "configuration": "c1", "attempt": "1", "current": "true", "seed": "0", "sweep": "s", "kind": "trial",
                "state": "COMPLETE", "source_fingerprint": "f" * 16, "scored_fingerprint": "s" * 16, "system.device": "cpu",
                "system.num_parameters": "7"}  # fmt: skip
    assert run.data.tags.items() >= expected.items()
    assert run.data.metrics["val/miou"] == result.metrics["val/miou"]
    files = {file.path for file in MlflowClient(tracking_uri=place.uri).list_artifacts(run.info.run_id)}
    assert files == {"trial.json", "best.safetensors", "confusions.npz", "log.txt", "result.json"}


def test_the_table_shows_the_best_epoch(place, worker) -> None:
    """The last value of val/miou is the best epoch's, while epoch/val/miou keeps every epoch."""
    folder, _ = worker.train(best=0.5)
    mirror(place, folder)
    (run,) = runs_of(place)
    assert history_of(place, run, "epoch/val/miou") == [(1, 0.2), (2, 0.5), (3, 0.4)]
    assert history_of(place, run, "val/miou") == [(1, 0.2), (2, 0.5), (3, 0.5)]


def test_mirroring_again_changes_nothing(place, worker) -> None:
    """A second mirror finds nothing to send, and one that lost mirror.json sends it all without counting twice."""
    folder, _ = worker.train()
    mirror(place, folder)
    before = history_of(place, runs_of(place)[0], "epoch/val/miou")
    mirror(place, folder)
    (folder.path / "mirror.json").unlink()
    mirror(place, folder)
    (run,) = runs_of(place)
    assert history_of(place, run, "epoch/val/miou") == before


def test_a_living_trial_is_running_and_shows_its_best_so_far(place, worker) -> None:
    """Before it ends, a run is RUNNING and the page can already be sorted."""
    folder = worker.start()
    worker.epoch(folder, 1, 0.3)
    worker.epoch(folder, 2, 0.2)
    mirror(place, folder, ended=False)
    (run,) = runs_of(place)
    assert (run.info.status, run.data.metrics["val/miou"]) == ("RUNNING", 0.3)


def test_a_stopped_trial_is_killed_and_resumes_the_same_run(place, worker) -> None:
    """Stopped: KILLED and WAITING; resumed: the same run RUNNING, an epoch trained again counts once, then FINISHED."""
    folder = worker.start()
    worker.epoch(folder, 1, 0.3)
    worker.epoch(folder, 2, 0.4)
    mirror(place, folder)
    (stopped,) = runs_of(place)
    assert (stopped.info.status, stopped.data.tags["state"]) == ("KILLED", "WAITING")
    worker.start(attempt=2, time_s=2000.0)
    worker.epoch(folder, 2, 0.4, attempt=2)
    mirror(place, folder, ended=False)
    assert [(run.info.run_id, run.info.status) for run in runs_of(place)] == [(stopped.info.run_id, "RUNNING")]
    worker.epoch(folder, 3, 0.5, attempt=2)
    worker.finish(folder, epoch=3)
    mirror(place, folder)
    (run,) = runs_of(place)
    assert (run.info.run_id, run.info.status, run.data.tags["attempt"]) == (stopped.info.run_id, "FINISHED", "1")
    assert history_of(place, run, "epoch/val/miou") == [(1, 0.3), (2, 0.4), (3, 0.5)]


def test_a_failed_trial_tells_why(place, worker) -> None:
    """FAILED, with the reason as a tag and the log as a file."""
    folder = worker.start()
    worker.finish(folder, state=TrialState.FAILED)
    mirror(place, folder)
    (run,) = runs_of(place)
    assert (run.info.status, run.data.tags["state"], run.data.tags["reason"]) == ("FAILED", "FAILED", "RuntimeError: no")


def test_many_epochs_fit_into_batches(place, worker) -> None:
    """2,000 epochs at once exceed what MLflow takes in one call."""
    folder = worker.start()
    for epoch in range(1, 2001):
        worker.epoch(folder, epoch, 0.5)
    mirror(place, folder, ended=False)
    (run,) = runs_of(place)
    client = MlflowClient(tracking_uri=place.uri)
    assert len(client.get_metric_history(run.info.run_id, "epoch/train/loss")) == 2000


def test_reconcile_leaves_no_run_running(place, worker) -> None:
    """Of runs left RUNNING the live stay, the ended end and the interrupted wait, be their folder here or not."""
    folders = {key: worker.start(key) for key in ("live", "ended", "interrupted", "elsewhere")}
    tracker = MlflowTracker(place)
    for folder in folders.values():
        tracker.mirror("s", folder, False)
    assert tracker.close(60) == []
    worker.finish(folders["ended"])
    folders["elsewhere"].path.rename(place.trials / "gone")
    tracker = MlflowTracker(place)
    tracker.reconcile("s", {"live"})
    assert tracker.close(60) == []
    found = {run.data.tags["key"]: (run.info.status, run.data.tags["state"]) for run in runs_of(place)}
    assert found == {
        "live": ("RUNNING", "RUNNING"),
        "ended": ("FINISHED", "COMPLETE"),
        "interrupted": ("KILLED", "WAITING"),
        "elsewhere": ("KILLED", "WAITING"),
    }


def test_another_sweep_refers_to_a_trial_done_before(place, worker) -> None:
    """A cached trial is a run in the second sweep's experiment, once, that names the run with the files."""
    folder, result = worker.train()
    mirror(place, folder)
    tracker = MlflowTracker(place)
    for _ in range(2):
        tracker.refer("second", folder.spec(), result)
        tracker.refer("s", folder.spec(), result)
        assert tracker.close(60) == []
        tracker = MlflowTracker(place)
    tracker.close(60)
    (first,), (second,) = runs_of(place), runs_of(place, "second")
    assert second.data.tags["cached_from"] == first.info.run_id
    assert (second.info.status, second.data.metrics["val/miou"]) == ("FINISHED", 0.5)
    assert "cached_from" not in first.data.tags


def test_referring_to_a_trial_repairs_its_mirror(place, worker) -> None:
    """A trial that ended while nobody mirrored is sent in full by the next sweep that finds it done."""
    folder = worker.start()
    mirror(place, folder, ended=False)
    worker.epoch(folder, 1, 0.5)
    result = worker.finish(folder)
    tracker = MlflowTracker(place)
    tracker.refer("s", folder.spec(), result)
    assert tracker.close(60) == []
    (run,) = runs_of(place)
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
    assert tracker.run_id("s", "k1") == run.info.run_id


def test_a_reference_left_half_written_is_finished(place, worker) -> None:
    """A kill between creating and filling the referring run leaves nothing RUNNING once the sweep is run again."""
    folder, result = worker.train()
    mirror(place, folder)
    client = MlflowClient(tracking_uri=place.uri)
    tags = {"kind": "trial", "sweep": "second", "key": "k1", "cached_from": runs_of(place)[0].info.run_id}
    client.create_run(client.create_experiment("second"), tags=tags)
    tracker = MlflowTracker(place)
    tracker.reconcile("second", set())
    tracker.refer("second", folder.spec(), result)
    assert tracker.close(60) == []
    (run,) = runs_of(place, "second")
    assert (run.info.status, run.data.tags["state"], run.data.metrics["val/miou"]) == ("FINISHED", "COMPLETE", 0.5)


def test_a_run_deleted_by_somebody_is_told_anew(place, worker) -> None:
    """mirror.json remembers a run that is gone: the trial gets another one, complete."""
    folder, _ = worker.train()
    mirror(place, folder)
    MlflowClient(tracking_uri=place.uri).delete_run(runs_of(place)[0].info.run_id)
    mirror(place, folder)
    (run,) = runs_of(place)
    assert history_of(place, run, "epoch/val/miou") == [(1, 0.2), (2, 0.5), (3, 0.4)]


def test_one_broken_folder_does_not_hold_up_the_others(place, worker) -> None:
    """A folder that cannot be read is given back by close; the rest is mirrored."""
    broken, _ = worker.train("broken")
    (broken.path / "trial.json").write_text("{")
    folder, _ = worker.train()
    tracker = MlflowTracker(place)
    tracker.mirror("s", broken, True)
    tracker.mirror("s", folder, True)
    assert [left.path for left in tracker.close(3)] == [broken.path]
    assert [run.info.run_name for run in runs_of(place)] == ["trial k1"]


def test_a_dead_server_blocks_nobody(place, worker, server) -> None:
    """With no server, mirror returns at once and close gives back what is not mirrored."""
    dead = Place(server.uri, place.artifacts, place.trials, place.locks)
    folder, _ = worker.train()
    started = time.monotonic()
    tracker = MlflowTracker(dead)
    tracker.mirror("s", folder, True)
    assert time.monotonic() - started < 0.5
    assert [left.path for left in tracker.close(1)] == [folder.path]
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_server_killed_and_restarted_in_between_loses_nothing(place, worker, server, wait) -> None:
    """Epochs written while the server is down are there once it is up again, each once."""
    remote = Place(server.uri, place.artifacts, place.trials, place.locks)
    server.start()
    folder = worker.start()
    worker.epoch(folder, 1, 0.2)
    tracker = MlflowTracker(remote)
    tracker.mirror("s", folder, False)
    wait(lambda: tracker.run_id("s", "k1") is not None)
    server.kill()
    worker.epoch(folder, 2, 0.5)
    tracker.mirror("s", folder, False)
    wait(lambda: tracker.trouble is not None)
    worker.epoch(folder, 3, 0.4)
    worker.finish(folder)
    tracker.mirror("s", folder, True)
    server.start()
    assert tracker.close(60) == []
    (run,) = runs_of(remote)
    assert run.info.status == "FINISHED"
    assert history_of(remote, run, "epoch/val/miou") == [(1, 0.2), (2, 0.5), (3, 0.4)]
    assert "best.safetensors" in {file.path for file in MlflowClient(tracking_uri=remote.uri).list_artifacts(run.info.run_id)}
