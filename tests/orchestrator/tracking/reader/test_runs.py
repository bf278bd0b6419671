"""Reading back: rows, files, finished trials; leaderboard and ensemble out of a real MLflow."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from orchestrator.analysis.leaderboard import load_leaderboard
from orchestrator.analysis.report.ensemble_section import load_chosen
from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble.best import EnsembleOptions, best_ensemble
from orchestrator.ensemble.candidates import Wanted
from orchestrator.ensemble.pooling import fetch_predictions
from orchestrator.errors import EnsembleError, TrackingError
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.outputs import PREDICTION_FILES, write_predictions
from orchestrator.tracking.client import connect
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.lookup import find_model
from orchestrator.tracking.reader.runs import RunReader
from orchestrator.tracking.ui import make_url, open_page
from tests.orchestrator.documented import documented_fields, fields_of
from trainers.metrics import confusion_per_image

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

LABELS = np.random.default_rng(0).integers(0, 3, (12, 8, 8)).astype(np.uint8)


def record(
    location: TrackingLocation,
    worker,
    key: str,
    *,
    seed: int,
    fingerprint: str = "s" * 16,
    sweep: str = "s",
    groups: np.ndarray | None = None,
) -> None:
    """A finished trial with predictions, mirrored."""
    random = np.random.default_rng(seed)
    truth = np.stack([c == LABELS for c in range(3)], axis=1)
    predictions = (truth * 60 + random.uniform(0, 190, truth.shape)).astype(np.uint8)
    confusions = confusion_per_image(predictions.argmax(axis=1), LABELS, num_classes=3, ignore_classes=(0,))
    folder, _ = worker.train(key, best=compute_miou(confusions, (0,)), seed=seed)
    np.savez(folder.path / TrialFile.CONFUSIONS, confusions=confusions, ignore_classes=np.array([0]))
    write_predictions(
        folder.path,
        predictions,
        LABELS,
        ignore_classes=(0,),
        scored_fingerprint=fingerprint,
        groups=groups,
    )
    Recorder(location).send(sweep, folder, ended=True)


@pytest.fixture
def reader(location: TrackingLocation, worker) -> RunReader:
    """A reader of three finished trials in one sweep."""
    for number in range(3):
        record(location, worker, f"k{number}", seed=number)
    return RunReader(location)


def test_rows_hold_what_was_recorded(reader: RunReader) -> None:
    """Keys, states and metrics of the sweep's runs."""
    rows = reader.list_runs(["s"])
    assert {(row.key, row.state) for row in rows} == {(f"k{i}", "COMPLETE") for i in range(3)}
    assert all(row.metrics["val/miou"] == 2 * row.metrics["val/iou/rock"] > 0 for row in rows)
    assert reader.latest_sweep() == "s"


def test_an_unknown_sweep_is_answered_with_the_known(reader: RunReader) -> None:
    """The message lists what there is."""
    with pytest.raises(TrackingError, match=r"'nope' is not a known sweep\. Known: s\."):
        reader.list_runs(["nope"])


def test_finished_trials_are_found_by_their_keys(reader: RunReader, location: TrackingLocation, worker) -> None:
    """COMPLETE ones only; from any sweep."""
    Recorder(location).send("other", worker.start("alive"), ended=False)
    assert set(reader.find_finished(["k0", "k2", "alive", "never"])) == {"k0", "k2"}


def test_files_come_from_the_folder_or_else_from_the_server(
    reader: RunReader, location: TrackingLocation, tmp_path: Path
) -> None:
    """On the machine that trained it the trial's own file; elsewhere a copy with the same bytes."""
    row = next(row for row in reader.list_runs(["s"]) if row.key == "k0")
    local = reader.fetch(row, "predictions.zst", tmp_path / "cache")
    assert local == location.trials / "k0" / "predictions.zst"
    content = local.read_bytes()
    shutil.rmtree(location.trials / "k0")
    fetched = reader.fetch(row, "predictions.zst", tmp_path / "cache")
    assert fetched.is_relative_to(tmp_path / "cache")
    assert fetched.read_bytes() == content
    with pytest.raises(TrackingError, match=r"nothing\.bin"):
        reader.fetch(row, "nothing.bin", tmp_path / "cache")


def test_predictions_of_which_a_file_is_lost_come_from_the_server(
    reader: RunReader, location: TrackingLocation, tmp_path: Path
) -> None:
    """All of them, into one folder, whatever the trial's folder still has."""
    row = next(row for row in reader.list_runs(["s"]) if row.key == "k0")
    kept = {name: (location.trials / "k0" / name).read_bytes() for name in PREDICTION_FILES}
    assert fetch_predictions(reader, row, tmp_path / "cache") == location.trials / "k0"
    (location.trials / "k0" / "predictions.zst").unlink()
    fetched = fetch_predictions(reader, row, tmp_path / "cache")
    assert {name: (fetched / name).read_bytes() for name in PREDICTION_FILES} == kept


def test_files_of_a_trial_that_was_trained_again_are_fetched_again(location: TrackingLocation, worker, tmp_path: Path) -> None:
    """Its run is the same, but all files fetched of the earlier result are gone."""
    folder, result = worker.train()
    Recorder(location).send("s", folder, ended=True)
    away, cache = RunReader(replace(location, trials=tmp_path / "away")), tmp_path / "cache"
    (row,) = away.list_runs(["s"])
    assert away.fetch(row, "best.safetensors", cache).read_bytes() == b"weights"
    assert away.fetch(row, "log.txt", cache).exists()
    (folder.path / "best.safetensors").write_bytes(b"others!")
    folder.write_result(result.model_copy(update={"ended_s": result.ended_s + 60}))
    Recorder(location).send("s", folder, ended=True)
    (again,) = away.list_runs(["s"])
    assert again.run_id == row.run_id
    assert away.fetch(again, "best.safetensors", cache).read_bytes() == b"others!"
    assert not away.has_file_here(again, "log.txt", cache)
    assert away.has_file_here(again, "best.safetensors", cache)


def test_the_leaderboard_ranks_the_runs(reader: RunReader, location: TrackingLocation, worker, tmp_path: Path) -> None:
    """From the matrices, with or without folders here."""
    Recorder(location).send("s", worker.start("alive"), ended=False)
    board = load_leaderboard(reader, ["s"], cache=tmp_path)
    assert [one.ranked.rank for one in board.trials] == [1, 2, 3]
    assert fields_of(board.to_json()) == documented_fields("leaderboard")
    shutil.rmtree(location.trials)
    assert load_leaderboard(reader, ["s"], cache=tmp_path).to_json() == board.to_json()


def test_a_second_leaderboard_reads_no_matrices_and_is_the_first(
    reader: RunReader, location: TrackingLocation, worker, tmp_path: Path
) -> None:
    """The cache changes nothing when trials, seeds or folders are added, trained again or removed."""

    def rank(cache: str = "kept") -> list:
        return load_leaderboard(reader, ["s"], cache=tmp_path / cache).to_json()

    first = rank()
    assert first[0]["configuration_result"]["seeds"] == [0, 1, 2]
    matrices = {path: (path.read_bytes(), path.stat()) for path in location.trials.glob("*/confusions.npz")}
    for path, (content, found) in matrices.items():
        path.write_bytes(bytes(len(content)))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert rank() == first
    for path, (content, _) in matrices.items():
        path.write_bytes(content)
    record(location, worker, "k9", seed=9)
    assert rank() == rank("anew 1")
    shutil.copy(location.trials / "k9" / "confusions.npz", location.trials / "k0" / "confusions.npz")
    again = rank()
    assert again == rank("anew 2")
    assert len({row["miou"] for row in again}) == 3
    shutil.rmtree(location.trials / "k1")
    assert rank() == rank("anew 3")


def test_the_leaderboard_shows_what_runs_elsewhere(reader: RunReader, location: TrackingLocation, worker, tmp_path: Path) -> None:
    """An unfinished trial without a folder here is listed, even if its run has no files."""
    Recorder(location).send("s", worker.start("away"), ended=False)
    client = MlflowClient(tracking_uri=location.uri)
    bare = {"kind": "trial", "current": "true", "key": "bare", "state": "RUNNING", "sweep": "s"}
    client.log_param(client.create_run(reader.experiment_id("s"), tags=bare).info.run_id, "seed", "7")
    shutil.rmtree(location.trials / "away")
    others = {entry.key: entry.config for entry in load_leaderboard(reader, ["s"], cache=tmp_path).others}
    assert others["away"]["train"]["epochs"] == 3
    assert others["bare"] == {"seed": "7"}


def test_a_finished_trial_without_its_files_is_reported(reader: RunReader, location: TrackingLocation, tmp_path: Path) -> None:
    """The message names run and file."""
    shutil.rmtree(location.trials)
    shutil.rmtree(location.artifacts)
    with pytest.raises(TrackingError, match=r"trial k\d.*has no file trial\.json"):
        load_leaderboard(reader, ["s"], cache=tmp_path)


def test_an_ensemble_belongs_to_the_first_sweep_named(
    reader: RunReader, location: TrackingLocation, worker, tmp_path: Path
) -> None:
    """Whatever the members' keys are; without a name, to the sweep of the trial that started last."""
    record(location, worker, "a-first-key", seed=5, sweep="other")

    def experiment_of(sweeps: list[str]) -> str:
        report = best_ensemble(reader, sweeps, EnsembleOptions(k=2), cache=tmp_path)
        return str(MlflowClient(tracking_uri=location.uri).get_run(report.run_id).info.experiment_id)

    assert experiment_of(["s", "other"]) == reader.experiment_id("s")
    later = worker.start("later", time_s=5000.0)
    worker.finish(later, best=next(row.metrics["val/miou"] for row in reader.list_runs(["s"]) if row.key == "k0"))
    for name in ("predictions.json", "predictions.zst", "predictions.labels.zst", "confusions.npz"):
        shutil.copy(location.trials / "k0" / name, later.path / name)
    Recorder(location).send("s", later, ended=True)
    assert experiment_of([]) == reader.experiment_id("s")


def test_the_best_ensemble_never_splits_groups(location: TrackingLocation, worker, tmp_path: Path) -> None:
    """Groups stored with the predictions reach cross-fitting: with a single one there is nothing to leave out."""
    record(location, worker, "k0", seed=0, groups=np.zeros(12, np.int64))
    with pytest.raises(EnsembleError, match="1 group of validation images"):
        best_ensemble(RunReader(location), ["s"], cache=tmp_path)


def test_the_best_ensemble_is_a_run_of_the_sweep(reader: RunReader, location: TrackingLocation, tmp_path: Path) -> None:
    """Its members, metrics and document are on the page, and repeating the command adds nothing."""
    report = best_ensemble(reader, ["s"], EnsembleOptions(k=2), cache=tmp_path)
    assert set(report.members) <= {"k0", "k1", "k2"}
    run = MlflowClient(tracking_uri=location.uri).get_run(report.run_id)
    assert (run.data.tags["kind"], run.info.status, run.data.metrics["val/miou"]) == ("ensemble", "FINISHED", report.miou)
    document = MlflowClient(tracking_uri=location.uri).download_artifacts(report.run_id, "ensemble.json", str(tmp_path))
    assert json.loads(Path(document).read_text())["members"] == list(report.members)
    assert best_ensemble(reader, ["s"], EnsembleOptions(k=2), cache=tmp_path) == report
    assert len(reader.list_runs(["s"])) == 3


def test_what_was_chosen_again_is_the_last_choice(reader: RunReader, location: TrackingLocation, tmp_path: Path) -> None:
    """A sweep's name stands for it although its run began before another's; the report shows it."""
    first = best_ensemble(reader, ["s"], EnsembleOptions(k=2, exactly=True), cache=tmp_path)
    assert best_ensemble(reader, ["s"], EnsembleOptions(k=1), cache=tmp_path).run_id == find_model(location, "s").run_id
    assert best_ensemble(reader, ["s"], EnsembleOptions(k=2, exactly=True), cache=tmp_path).run_id == first.run_id
    assert find_model(location, "s").run_id == first.run_id
    chosen = load_chosen(reader, "s", cache=tmp_path)
    assert chosen is not None
    assert chosen.members == first.members


def test_predictions_that_score_otherwise_are_named(reader: RunReader, location: TrackingLocation, tmp_path: Path) -> None:
    """A changed copy in the cache is detected by the score in the trial's run."""
    best_ensemble(reader, ["s"], EnsembleOptions(k=2), cache=tmp_path)
    for path in (tmp_path / "predictions").glob("*.blocks"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(EnsembleError, match=r"trial k\d \(k\d\): its predictions score"):
        best_ensemble(reader, ["s"], EnsembleOptions(k=2), cache=tmp_path)


def test_an_ensembles_document_has_the_documented_fields(reader: RunReader, tmp_path: Path) -> None:
    """With everything that options add."""
    report = best_ensemble(reader, ["s"], EnsembleOptions(k=2, exactly=True, stack=True), cache=tmp_path)
    assert fields_of(report.to_json()) == documented_fields("best-ensemble")


def test_candidates_are_narrowed_and_limited(reader: RunReader, location: TrackingLocation, worker, tmp_path: Path) -> None:
    """By their runs: only the requested seed, and no more parameters than allowed; else the message lists what there is."""
    everything = best_ensemble(reader, ["s"], EnsembleOptions(k=3, exactly=True), cache=tmp_path)
    assert len(everything.members) == 3
    limited = best_ensemble(reader, ["s"], EnsembleOptions(k=3, wanted=Wanted(max_params=14)), cache=tmp_path)
    assert (len(limited.members) <= 2, limited.num_candidates) == (True, 3)
    some = best_ensemble(reader, ["s"], EnsembleOptions(k=3, wanted=Wanted(tags=(("key", "k1"),))), cache=tmp_path)
    assert some.members == ("k1",)
    with pytest.raises(EnsembleError, match=r"architecture Unett\. Found: Unet\."):
        best_ensemble(reader, ["s"], EnsembleOptions(wanted=Wanted(archs=("Unett",))), cache=tmp_path)
    with pytest.raises(EnsembleError, match=r"No candidate is left.*latency_ms"):
        best_ensemble(reader, ["s"], EnsembleOptions(wanted=Wanted(max_latency_ms=5)), cache=tmp_path)


def test_what_was_scored_differently_is_never_combined(
    reader: RunReader, location: TrackingLocation, worker, tmp_path: Path
) -> None:
    """The message names both fingerprints and their trials."""
    record(location, worker, "foreign", seed=9, fingerprint="t" * 16)
    with pytest.raises(EnsembleError, match=r"ssss.*trial k0, trial k1, trial k2; tttt.*trial foreign"):
        best_ensemble(reader, ["s"], cache=tmp_path)


def test_a_sweep_without_finished_trials_is_refused(location: TrackingLocation, worker, tmp_path: Path) -> None:
    """The message says that there is nothing to combine."""
    Recorder(location).send("s", worker.start(), ended=False)
    with pytest.raises(EnsembleError, match="none of 1 trials is COMPLETE"):
        best_ensemble(RunReader(location), ["s"], cache=tmp_path)


def test_passwords_are_never_shown(tmp_path: Path) -> None:
    """Neither in a location's name nor in an error about it."""
    location = TrackingLocation("http://me:secret@127.0.0.1:9/", tmp_path, tmp_path, tmp_path)
    with pytest.raises(TrackingError) as caught:
        RunReader(location).list_runs(["s"])
    assert "secret" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_file_that_is_no_database_is_reported_by_name(tmp_path: Path) -> None:
    """A damaged mlflow.db names itself."""
    (tmp_path / "mlflow.db").write_text("this is not a database, however long it is" * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db.*not a database"):
        connect(TrackingLocation(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, tmp_path, tmp_path / "locks"))


def test_the_page_is_sorted_by_miou() -> None:
    """Every field that the page requires, val/miou descending."""
    url = make_url("http://host:5000/", "7")
    assert url.startswith(
        "http://host:5000/#/experiments/7/runs?searchFilter=&orderByKey=metrics.%60val%2Fmiou%60&orderByAsc=false"
    )
    assert make_url("http://host:5000/", None) == "http://host:5000"


@pytest.mark.slow
@pytest.mark.long
def test_the_page_is_served_from_the_local_database(reader: RunReader, location: TrackingLocation) -> None:
    """A real local server shows the latest sweep's runs in the order of the address."""
    page = open_page(location, browse=False)
    try:
        base, _, _ = page.url.partition("/#/")
        query = json.dumps({"experiment_ids": [reader.experiment_id("s")], "order_by": ["metrics.`val/miou` DESC"]}).encode()
        request = urllib.request.Request(f"{base}/api/2.0/mlflow/runs/search", query, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert len(json.load(answer)["runs"]) == 3
    finally:
        page.close()
