"""What must hold when a sweep has come to its end, whatever was done to it on the way."""

from __future__ import annotations

import sqlite3
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState as OptunaState
from safetensors.numpy import load_file

from orchestrator.state.trial.folder import ARTIFACTS, TrialFile, TrialFolder
from orchestrator.state.trial.records import FLIPS
from tests.chaos.scene import Scene

TIMED = {"images_per_s", "epoch_s"}
"""Metrics that no two trainings share."""

SENT = [file for file in ARTIFACTS if not file.startswith(f"{FLIPS}/")]
"""What MLflow has of every trial, as these sweeps ask for nothing more."""


def check_document(document: Any, undisturbed: Any) -> None:
    """The same trials as undisturbed, each once, each done, with the same figures."""
    trials, expected = document["trials"], undisturbed["trials"]
    assert [trial["key"] for trial in trials] == [trial["key"] for trial in expected]
    assert {trial["state"] for trial in trials} == {"CACHED"}
    assert all(trial["run_id"] for trial in trials)
    assert [_timeless(trial["metrics"]) for trial in trials] == [_timeless(trial["metrics"]) for trial in expected]


def check_ledger(scene: Scene, keys: set[str]) -> None:
    """Every trial is COMPLETE, and nobody owns one by a lease."""
    rows = _query(scene.home.root / "ledger.db", "select key, state, lease_expires_s from ledger_trials")
    assert sorted(rows) == sorted((key, "COMPLETE", None) for key in keys)


def check_study(scene: Scene, num_configurations: int) -> None:
    """Optuna knows each configuration once, as complete."""
    storage = JournalStorage(JournalFileBackend(str(scene.home.optuna_journal)))
    trials = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    assert [trial.state for trial in trials] == [OptunaState.COMPLETE] * num_configurations
    assert len({trial.user_attrs["configuration"]["id"] for trial in trials}) == num_configurations


def check_folder(folder: TrialFolder, undisturbed: TrialFolder) -> None:
    """The same weights and predictions bit for bit; every epoch told, with the same figures, and at most the last one again."""
    expected = {event.epoch: _timeless(event.metrics) for event in undisturbed.events()[0] if event.kind == "epoch"}
    epochs = [event for event in folder.events()[0] if event.kind == "epoch"]
    assert {event.epoch for event in epochs} == set(expected)
    steps = {(later.epoch or 0) - (earlier.epoch or 0) for earlier, later in pairwise(epochs)}
    assert steps <= {0, 1}, f"{folder.path}: an attempt did not go on from the last checkpoint"
    for event in epochs:
        assert _timeless(event.metrics) == expected[event.epoch], f"{folder.path}: epoch {event.epoch} of {event.attempt}"
    files = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("[!.]*") if path.is_file()}
    assert {name for name in files if not name.startswith("tmp")} <= set(TrialFile), f"{folder.path}: a file that is not listed"
    result, other = folder.result(), undisturbed.result()
    assert result is not None
    assert other is not None
    assert result.facts["num_threads"] == other.facts["num_threads"]
    assert (result.best_epoch, result.epochs_run, result.deviation) == (other.best_epoch, other.epochs_run, None)
    assert (folder.path / TrialFile.PREDICTIONS).read_bytes() == (undisturbed.path / TrialFile.PREDICTIONS).read_bytes()
    weights, same = (load_file(one.path / TrialFile.WEIGHTS) for one in (folder, undisturbed))
    assert {name: value.tobytes() for name, value in weights.items()} == {name: value.tobytes() for name, value in same.items()}


def check_mlflow(scene: Scene, keys: set[str]) -> None:
    """One finished run a trial, with every metric of every epoch once, and every file as it is in the folder."""
    database = scene.mlflow_database
    runs = _query(
        database,
        "select tags.value, run_uuid, status, artifact_uri from runs join tags using (run_uuid) where tags.key = 'key'",
    )
    assert Counter(key for key, *_ in runs) == Counter(keys)
    assert _query(database, "select distinct status from runs") == [("FINISHED",)]
    for key, run_id, _, uri in runs:
        folder = TrialFolder(scene.home.trial_folder(key))
        _check_metrics(database, run_id, folder)
        for name in SENT:
            sent = _find_artifacts(scene, uri) / name
            assert sent.exists(), f"{key}: {name} is not in MLflow"
            assert sent.read_bytes() == (folder.path / name).read_bytes(), f"{key}: {name} differs in MLflow"


def _check_metrics(database: Path, run_id: str, folder: TrialFolder) -> None:
    rows = _query(database, "select key, step, value from metrics where run_uuid = ? and key like 'epoch/%'", run_id)
    sent = {(name.removeprefix("epoch/"), step): value for name, step, value in rows}
    assert len(sent) == len(rows), f"{folder.path}: metrics of an epoch are there twice"
    expected = {
        (name, event.epoch): value
        for event in folder.events()[0]
        if event.kind == "epoch"
        for name, value in event.metrics.items()
    }
    assert sent.keys() == expected.keys(), f"{folder.path}: metrics that differ: {sent.keys() ^ expected.keys()}"
    assert all(sent[name, step] == value for (name, step), value in expected.items() if name not in TIMED), folder.path
    result = folder.result()
    assert result is not None
    last = _query(database, "select value from latest_metrics where run_uuid = ? and key = 'val/miou'", run_id)
    assert last == [(result.metrics["val/miou"],)]


def _find_artifacts(scene: Scene, uri: str) -> Path:
    path = unquote(urlparse(uri).path)
    return Path(path) if scene.server is None else scene.server.folder / "artifacts" / path.lstrip("/")


def _timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMED}


def _query(database: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(statement, values).fetchall()
