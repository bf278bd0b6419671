"""Names and rows that a sweep gives its runs, and its ensembles, of which the last is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.state.trial.folder import TrialFolder
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.tracker import MlflowTracker
from orchestrator.tracking.reader.runs import RunReader
from orchestrator.tracking.tags import EnsembleRecord, RunLabel

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


def runs_of(location: TrackingLocation, sweep: str) -> list[Run]:
    """What a sweep has on the server."""
    client = MlflowClient(tracking_uri=location.uri)
    return list(client.search_runs([client.get_experiment_by_name(sweep).experiment_id]))


def run_sweep(location: TrackingLocation, sweep: str, folder: TrialFolder, labels: dict[str, RunLabel]) -> None:
    """What a sweep that finds the trial done sends to MLflow."""
    tracker = MlflowTracker(location)
    tracker.label(sweep, labels)
    tracker.reconcile(sweep, tuple)
    tracker.mirror(sweep, folder, True)
    assert tracker.close(60) == []


def rows_of(location: TrackingLocation, sweep: str = "s") -> dict[str, dict[str, str]]:
    """Key -> the tags that make a table of runs."""
    wanted = ("row", "reported", "former_row")
    return {
        run.data.tags["key"]: {name: value for name, value in run.data.tags.items() if name in wanted}
        for run in runs_of(location, sweep)
    }


def test_each_sweep_has_its_own_name_for_a_shared_trial(location: TrackingLocation, worker) -> None:
    """Name, row and published value are the sweep's, also for a run that refers to another sweep's."""
    folder, _ = worker.train()
    run_sweep(location, "s", folder, {"k1": RunLabel("17: Unet", "17", 0.644)})
    run_sweep(location, "other", folder, {"k1": RunLabel("the baseline")})
    (first,), (second,) = runs_of(location, "s"), runs_of(location, "other")
    assert (first.info.run_name, second.info.run_name) == ("17: Unet", "the baseline")
    assert (first.data.tags["row"], first.data.tags["reported"]) == ("17", "0.644")
    assert second.data.tags["cached_from"] == first.info.run_id
    assert rows_of(location, "other") == {"k1": {}}


def test_a_changed_file_renames_the_runs_there_are(location: TrackingLocation, worker) -> None:
    """Without training anything; a published value that was removed from the file is removed there too."""
    folder, _ = worker.train()
    run_sweep(location, "s", folder, {"k1": RunLabel("1: one", "1", 0.5)})
    run_sweep(location, "s", folder, {"k1": RunLabel("2: two", "2")})
    (run,) = runs_of(location, "s")
    assert run.info.run_name == "2: two"
    assert rows_of(location) == {"k1": {"row": "2"}}


def test_a_run_that_is_no_longer_planned_loses_its_row(location: TrackingLocation, worker) -> None:
    """And gets it back with the plan: two forms of a table never mix."""
    short, _ = worker.train("short")
    long, _ = worker.train("long")
    run_sweep(location, "s", short, {"short": RunLabel("row 1", "1", 0.5)})
    run_sweep(location, "s", long, {"long": RunLabel("row 1", "1", 0.5)})
    assert rows_of(location)["short"] == {"former_row": "1", "reported": "0.5"}
    run_sweep(location, "s", short, {"short": RunLabel("row 1", "1", 0.5)})
    assert rows_of(location)["short"] == {"row": "1", "reported": "0.5"}
    assert "row" not in rows_of(location)["long"]


def record(row: str, members: str, *, reason: str | None = None, files: tuple[Path, ...] = ()) -> EnsembleRecord:
    """An ensemble of the trials whose keys are the letters of ``members``."""
    metrics = {} if reason else {"val/miou": 0.6, "val/iou/rock (big)": 0.2}
    document = {"row": row, "members": list(members), "reason": reason}
    weights = dict.fromkeys(members, 1 / len(members))
    return EnsembleRecord(f"row {row}", weights, metrics, document, {"row": row}, files, reason)


def log(location: TrackingLocation, *records: EnsembleRecord) -> list[str | None]:
    """Log a table's ensembles as a sweep does; the runs' ids."""
    tracker = MlflowTracker(location)
    tracker.log_table("s", records)
    assert tracker.close(60) == []
    return [tracker.run_id("s", record.name) for record in records]


def test_an_ensemble_is_logged_once(location: TrackingLocation, tmp_path: Path) -> None:
    """With its metrics, its members' weights and its files."""
    (tmp_path / "confusions.npz").write_bytes(b"matrices")
    ids = log(location, record("5", "ab", files=(tmp_path / "confusions.npz",)))
    assert log(location, record("5", "ab")) == ids
    (run,) = runs_of(location, "s")
    assert (run.info.run_id, run.info.status, run.data.tags["members"]) == (ids[0], "FINISHED", "a,b")
    assert run.data.params.items() >= {"num_members": "2", "weight.a": "0.5"}.items()
    assert run.data.metrics == {"val/miou": 0.6, "val/iou/rock _big_": 0.2}
    files = {file.path for file in MlflowClient(tracking_uri=location.uri).list_artifacts(str(ids[0]))}
    assert files == {"ensemble.json", "confusions.npz"}


def test_only_the_last_ensemble_of_a_row_is_current(location: TrackingLocation) -> None:
    """Whether it has other members or could not be evaluated; one that returns is current again."""
    first, kept = log(location, record("5", "ab"), record("7", "ac"))
    (second, _) = log(location, record("5", "cd"), record("7", "ac"))
    reader = RunReader(location)
    assert [run.run_id for run in reader.list_ensembles(["s"])] == [kept, second]
    failed, _ = log(location, record("5", "cd", reason="row 4 is FAILED"), record("7", "ac"))
    states = {run.run_id: (run.state, run.tags.get("reason")) for run in reader.list_ensembles(["s"])}
    assert states == {kept: ("COMPLETE", None), failed: ("FAILED", "row 4 is FAILED")}
    log(location, record("5", "ab"))
    assert [run.run_id for run in reader.list_ensembles(["s"])] == [first]
