"""Mirroring: trial folders end up in MLflow once and whole, whatever happens to the server or to the mirror."""

from __future__ import annotations

import time

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.tracker import MlflowTracker

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


def runs_of(location: TrackingLocation, sweep: str = "s") -> list[Run]:
    """What a sweep has on the server."""
    client = MlflowClient(tracking_uri=location.uri)
    experiment = client.get_experiment_by_name(sweep)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def history_of(location: TrackingLocation, run: Run, metric: str) -> list[tuple[int, float]]:
    """All points of a metric as (step, value)."""
    client = MlflowClient(tracking_uri=location.uri)
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def mirror(location: TrackingLocation, folder: TrialFolder, *, ended: bool = True, sweep: str = "s") -> None:
    """What one dispatcher does before it exits."""
    tracker = MlflowTracker(location)
    tracker.mirror(sweep, folder, ended)
    assert tracker.close(60) == []


def test_a_finished_trial_is_a_finished_run(location, worker) -> None:
    """Params, tags, times, files and final metrics of a folder are on the server."""
    folder, result = worker.train()
    mirror(location, folder)
    (run,) = runs_of(location)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "trial k1")
    assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_010_000)
    assert run.data.params["optimizer.lr"] == str(folder.spec().train.optimizer.lr)
    assert run.data.params["data.val_fraction"] == str(folder.spec().data.val_fraction)
    expected = {"key": "k1", "configuration": "c1", "attempt": "1", "current": "true", "seed": "0", "sweep": "s", "kind": "trial",
                "state": "COMPLETE", "source_fingerprint": "f" * 16, "scored_fingerprint": "s" * 16, "system.device": "cpu",
                "system.num_parameters": "7"}  # fmt: skip
    assert run.data.tags.items() >= expected.items()
    assert run.data.metrics["val/miou"] == result.metrics["val/miou"]
    files = {file.path for file in MlflowClient(tracking_uri=location.uri).list_artifacts(run.info.run_id)}
    assert files == {"trial.json", "best.safetensors", "confusions.npz", "log.txt", "progress.jsonl", "result.json"}


def test_the_table_shows_the_best_epoch(location, worker) -> None:
    """The last value of val/miou is the best epoch's, while epoch/val/miou keeps every epoch."""
    folder, _ = worker.train(best=0.5)
    mirror(location, folder)
    (run,) = runs_of(location)
    assert history_of(location, run, "epoch/val/miou") == [(1, 0.2), (2, 0.5), (3, 0.4)]
    assert history_of(location, run, "val/miou") == [(1, 0.2), (2, 0.5), (3, 0.5)]


def test_mirroring_again_changes_nothing(location, worker) -> None:
    """A second mirror has nothing to send, and one without mirror.json sends everything without double counting."""
    folder, _ = worker.train()
    mirror(location, folder)
    before = history_of(location, runs_of(location)[0], "epoch/val/miou")
    mirror(location, folder)
    (folder.path / "mirror.json").unlink()
    mirror(location, folder)
    (run,) = runs_of(location)
    assert history_of(location, run, "epoch/val/miou") == before


def test_a_living_trial_is_running_and_shows_its_best_so_far(location, worker) -> None:
    """Before it ends, a run is RUNNING and the page can already be sorted."""
    folder = worker.start()
    worker.epoch(folder, 1, 0.3)
    worker.epoch(folder, 2, 0.2)
    mirror(location, folder, ended=False)
    (run,) = runs_of(location)
    assert (run.info.status, run.data.metrics["val/miou"]) == ("RUNNING", 0.3)


def test_a_stopped_trial_is_killed_and_resumes_the_same_run(location, worker) -> None:
    """Stopped: KILLED and WAITING; resumed: the same run RUNNING, an epoch trained again counts once, then FINISHED."""
    folder = worker.start()
    worker.epoch(folder, 1, 0.3)
    worker.epoch(folder, 2, 0.4)
    mirror(location, folder)
    (stopped,) = runs_of(location)
    assert (stopped.info.status, stopped.data.tags["state"]) == ("KILLED", "WAITING")
    worker.start(attempt=2, time_s=2000.0)
    worker.epoch(folder, 2, 0.4, attempt=2)
    mirror(location, folder, ended=False)
    assert [(run.info.run_id, run.info.status) for run in runs_of(location)] == [(stopped.info.run_id, "RUNNING")]
    worker.epoch(folder, 3, 0.5, attempt=2)
    worker.finish(folder, epoch=3)
    mirror(location, folder)
    (run,) = runs_of(location)
    assert (run.info.run_id, run.info.status, run.data.tags["attempt"]) == (stopped.info.run_id, "FINISHED", "1")
    assert history_of(location, run, "epoch/val/miou") == [(1, 0.3), (2, 0.4), (3, 0.5)]


def test_a_failed_trial_gives_the_reason(location, worker) -> None:
    """FAILED, with the reason as a tag and the log as a file."""
    folder = worker.start()
    worker.finish(folder, state=TrialState.FAILED)
    mirror(location, folder)
    (run,) = runs_of(location)
    assert (run.info.status, run.data.tags["state"], run.data.tags["reason"]) == ("FAILED", "FAILED", "RuntimeError: no")


def test_many_epochs_fit_into_batches(location, worker) -> None:
    """2,000 epochs at once exceed what MLflow accepts in one call."""
    folder = worker.start()
    for epoch in range(1, 2001):
        worker.epoch(folder, epoch, 0.5)
    mirror(location, folder, ended=False)
    (run,) = runs_of(location)
    client = MlflowClient(tracking_uri=location.uri)
    assert len(client.get_metric_history(run.info.run_id, "epoch/train/loss")) == 2000


def test_reconcile_leaves_no_run_running(location, worker) -> None:
    """Of runs left RUNNING live ones stay, ended ones end and interrupted ones wait, with or without a folder here."""
    folders = {key: worker.start(key) for key in ("live", "ended", "interrupted", "elsewhere")}
    tracker = MlflowTracker(location)
    for folder in folders.values():
        tracker.mirror("s", folder, False)
    assert tracker.close(60) == []
    worker.finish(folders["ended"])
    folders["elsewhere"].path.rename(location.trials / "gone")
    tracker = MlflowTracker(location)
    tracker.reconcile("s", lambda: {"live"})
    assert tracker.close(60) == []
    found = {run.data.tags["key"]: (run.info.status, run.data.tags["state"]) for run in runs_of(location)}
    assert found == {
        "live": ("RUNNING", "RUNNING"),
        "ended": ("FINISHED", "COMPLETE"),
        "interrupted": ("KILLED", "WAITING"),
        "elsewhere": ("KILLED", "WAITING"),
    }


def test_another_sweep_refers_to_a_trial_done_before(location, worker) -> None:
    """A cached trial is a run in the second sweep's experiment, once, that names the run with the files."""
    folder, _ = worker.train()
    mirror(location, folder)
    for _ in range(2):
        mirror(location, folder, sweep="second")
        mirror(location, folder)
    (first,), (second,) = runs_of(location), runs_of(location, "second")
    assert second.data.tags["cached_from"] == first.info.run_id
    assert (second.info.status, second.data.metrics["val/miou"]) == ("FINISHED", 0.5)
    assert "cached_from" not in first.data.tags


def test_a_folder_that_sent_nothing_refers_to_the_run_there_is(location, worker) -> None:
    """A finished trial without mirror.json, such as an adopted one, gets no run of its own in another sweep."""
    folder, _ = worker.train()
    mirror(location, folder)
    (folder.path / "mirror.json").unlink()
    mirror(location, folder, sweep="second")
    (first,), (second,) = runs_of(location), runs_of(location, "second")
    assert (second.data.tags["cached_from"], second.data.tags["state"]) == (first.info.run_id, "COMPLETE")


def test_a_lost_mirror_file_loses_no_news(location, worker) -> None:
    """A trial that ended unmirrored, and whose mirror.json is gone, keeps its run."""
    folder = worker.start()
    mirror(location, folder, ended=False)
    worker.epoch(folder, 1, 0.5)
    worker.finish(folder)
    (folder.path / "mirror.json").unlink()
    mirror(location, folder)
    (run,) = runs_of(location)
    assert (run.info.status, run.data.tags["state"], run.data.metrics["epoch/val/miou"]) == ("FINISHED", "COMPLETE", 0.5)


def test_a_sweep_that_finds_a_trial_done_repairs_its_mirror(location, worker) -> None:
    """A trial that ended unmirrored is sent in full by the next sweep that finds it done."""
    folder = worker.start()
    mirror(location, folder, ended=False)
    worker.epoch(folder, 1, 0.5)
    worker.finish(folder)
    tracker = MlflowTracker(location)
    tracker.mirror("s", folder, True)
    assert tracker.close(60) == []
    (run,) = runs_of(location)
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
    assert tracker.run_id("s", "k1") == run.info.run_id


def test_a_reference_left_half_written_is_finished(location, worker) -> None:
    """A kill between creating and filling the referring run leaves nothing RUNNING once the sweep is run again."""
    folder, _ = worker.train()
    mirror(location, folder)
    client = MlflowClient(tracking_uri=location.uri)
    tags = {"kind": "trial", "sweep": "second", "key": "k1", "cached_from": runs_of(location)[0].info.run_id}
    client.create_run(client.create_experiment("second"), tags=tags)
    tracker = MlflowTracker(location)
    tracker.reconcile("second", set)
    assert tracker.close(60) == []
    (run,) = runs_of(location, "second")
    assert (run.info.status, run.data.tags["state"], run.data.metrics["val/miou"]) == ("FINISHED", "COMPLETE", 0.5)


def test_a_success_clears_the_reason_of_a_failure(location, worker) -> None:
    """Failed, then retried: the run no longer shows the failure, neither while it runs nor when it is done."""
    folder = worker.start()
    worker.finish(folder, state=TrialState.FAILED)
    mirror(location, folder)
    folder.discard_result()
    worker.start(attempt=2, time_s=2000.0)
    mirror(location, folder, ended=False)
    assert [run.data.tags["reason"] for run in runs_of(location)] == [""]
    worker.finish(folder)
    mirror(location, folder)
    (run,) = runs_of(location)
    assert (run.info.status, run.data.tags["state"], run.data.tags["reason"]) == ("FINISHED", "COMPLETE", "")


def test_what_a_trial_is_can_be_read_while_it_runs(location, worker) -> None:
    """trial.json is on the server from the start."""
    mirror(location, worker.start(), ended=False)
    (run,) = runs_of(location)
    assert [file.path for file in MlflowClient(tracking_uri=location.uri).list_artifacts(run.info.run_id)] == ["trial.json"]


def test_names_that_mlflow_refuses_are_spelled_otherwise(location, worker) -> None:
    """Classes may have any name; each keeps its own metric, and legal names stay."""
    folder = worker.start()
    metrics = {
        "val/iou/rock (big)": 0.1,
        "val/iou/a&b": 0.2,
        "val/iou/a,b": 0.3,
        "val/iou/a_b": 0.4,
        "val/iou/": 0.5,
        "val/iou/..": 0.6,
    }
    folder.append(Event(kind="epoch", time_s=1001.0, attempt=1, epoch=1, metrics=metrics | {"val/miou": 0.7}))
    mirror(location, folder, ended=False)
    (run,) = runs_of(location)
    assert {name: value for name, value in run.data.metrics.items() if not name.startswith("epoch/")} == {
        "val/iou/rock _big_": 0.1, "val/iou/a_b 2": 0.2, "val/iou/a_b 3": 0.3, "val/iou/a_b": 0.4, "val/iou/_": 0.5,
        "val/iou/_ 2": 0.6, "val/miou": 0.7,
    }  # fmt: skip


def test_a_trial_that_the_server_refuses_does_not_hold_up_the_others(location, worker) -> None:
    """What MLflow refuses (a time before 1970) is returned by close at once; the rest is mirrored."""
    refused = worker.start("refused")
    refused.append(Event(kind="epoch", time_s=-5.0, attempt=1, epoch=1, metrics={"val/miou": 0.5}))
    folders = [worker.train(f"k{i}")[0] for i in range(3)]
    tracker = MlflowTracker(location)
    tracker.mirror("s", refused, True)
    for folder in folders:
        tracker.mirror("s", folder, True)
    started = time.monotonic()
    assert [left.path for left in tracker.close(60)] == [refused.path]
    assert time.monotonic() - started < 30
    assert "timestamp" in str(tracker.trouble)
    assert {run.info.run_name for run in runs_of(location) if run.info.status == "FINISHED"} == {
        "trial k0",
        "trial k1",
        "trial k2",
    }


def test_reconcile_ends_ensembles_left_half_logged(location) -> None:
    """One whose process was killed long ago is closed; one that is being logged is not touched."""
    client = MlflowClient(tracking_uri=location.uri)
    experiment = client.create_experiment("s")
    for name, age_s in (("old", 3600), ("new", 0)):
        start_ms = round((time.time() - age_s) * 1000)
        client.create_run(experiment, start_time=start_ms, run_name=name, tags={"kind": "ensemble", "state": "COMPLETE"})
    tracker = MlflowTracker(location)
    tracker.reconcile("s", set)
    assert tracker.close(60) == []
    found = {run.info.run_name: (run.info.status, run.data.tags["state"]) for run in runs_of(location)}
    assert found == {"old": ("KILLED", "FAILED"), "new": ("RUNNING", "COMPLETE")}


def test_a_deleted_run_is_sent_again(location, worker) -> None:
    """mirror.json names a run that is gone: the trial gets a new, complete one."""
    folder, _ = worker.train()
    mirror(location, folder)
    MlflowClient(tracking_uri=location.uri).delete_run(runs_of(location)[0].info.run_id)
    mirror(location, folder)
    (run,) = runs_of(location)
    assert history_of(location, run, "epoch/val/miou") == [(1, 0.2), (2, 0.5), (3, 0.4)]


def test_one_broken_folder_does_not_hold_up_the_others(location, worker) -> None:
    """A folder that cannot be read is returned by close; the rest is mirrored."""
    broken, _ = worker.train("broken")
    (broken.path / "trial.json").write_text("{")
    folder, _ = worker.train()
    tracker = MlflowTracker(location)
    tracker.mirror("s", broken, True)
    tracker.mirror("s", folder, True)
    assert [left.path for left in tracker.close(3)] == [broken.path]
    assert [run.info.run_name for run in runs_of(location)] == ["trial k1"]


def test_a_dead_server_blocks_nothing(location, worker, server) -> None:
    """Without a server mirror returns at once, and close returns what is not mirrored."""
    dead = TrackingLocation(server.uri, location.artifacts, location.trials, location.locks)
    folder, _ = worker.train()
    started = time.monotonic()
    tracker = MlflowTracker(dead)
    tracker.mirror("s", folder, True)
    assert time.monotonic() - started < 0.5
    assert [left.path for left in tracker.close(1)] == [folder.path]
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_an_outage_is_logged_once(location, worker, server, wait, caplog) -> None:
    """Although requests for ended and for running trials fail in different ways."""
    remote = TrackingLocation(server.uri, location.artifacts, location.trials, location.locks)
    server.start()
    tracker = MlflowTracker(remote)
    tracker.record_keep("s", "all")
    wait(lambda: MlflowClient(tracking_uri=server.uri).get_experiment_by_name("s") is not None)
    server.kill()
    folder = worker.start()
    tracker.mirror("s", folder, False)
    wait(lambda: "get-by-name" in (tracker.trouble or ""))
    worker.finish(folder)
    tracker.mirror("s", folder, True)
    wait(lambda: "experiments/search" in (tracker.trouble or ""))
    assert caplog.text.count("Not mirrored yet") == 1
    tracker.close(0)


def test_a_full_file_store_is_logged_once(location, worker, wait, caplog) -> None:
    """Although the server accepts everything else meanwhile."""
    location.artifacts.parent.mkdir(parents=True, exist_ok=True)
    location.artifacts.write_text("in the way of every file of a run")
    folder, _ = worker.train()
    tracker = MlflowTracker(location)
    tracker.mirror("s", folder, True)
    client = MlflowClient(tracking_uri=location.uri)
    for rule in ("all", "none", "5"):
        wait(lambda: tracker.trouble is not None)
        tracker.record_keep("s", rule)
        wait(lambda rule=rule: rule in client.get_experiment_by_name("s").tags.values())
        wait(lambda: tracker.trouble is None)  # it is known again when the files are tried the next time
    assert caplog.text.count("Not mirrored yet") == 1, caplog.text
    tracker.close(0)


@pytest.mark.slow
@pytest.mark.long
def test_a_server_killed_and_restarted_in_between_loses_nothing(location, worker, server, wait) -> None:
    """Epochs written while the server is down are there once it is up again, each once."""
    remote = TrackingLocation(server.uri, location.artifacts, location.trials, location.locks)
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
