"""Folds of a configuration as one candidate: real trainings on two folds, their ensemble, and what it predicts with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis.compare import compare_runs
from orchestrator.analysis.leaderboard import load_leaderboard
from orchestrator.ensemble.best import EnsembleOptions, best_ensemble
from orchestrator.ensemble.candidates import join_predictions, list_candidates
from orchestrator.ensemble.predict.predict import predict
from orchestrator.errors import EnsembleError
from orchestrator.launchers.worker.contract import Slot
from orchestrator.launchers.worker.main import work
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.outputs import read_info, read_predictions, write_predictions
from orchestrator.state.trial.records import Attempt, TrialSpec, make_key
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.lookup import find_model
from orchestrator.tracking.reader.row import RunRow
from orchestrator.tracking.reader.runs import RunReader
from trainers.config import Fold

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

SMALL = {"arch": "Unet", "encoder": "timm-mobilenetv3_small_100", "arch_options": {"decoder_channels": [16, 16, 8, 8, 8]}}


def with_fold(spec: TrialSpec, name: str, index: int) -> TrialSpec:
    """The trial on one of two folds."""
    fold = Fold(index=index, count=2)
    identity = {"source_fingerprint": spec.source_fingerprint, "code": {}}
    key = make_key(spec.train, spec.data, seed=0, fold=fold, **identity)
    return spec.model_copy(update={"key": key, "fold": fold, "name": f"{name} fold {index + 1}/2"})


@pytest.fixture(scope="module")
def home(make_spec: Callable[..., TrialSpec], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where two configurations were trained on two folds each, and a third on one fold only."""
    home = Home(tmp_path_factory.mktemp("home"))
    planned = [(name, lr, index) for name, lr in (("slow", 0.001), ("fast", 0.01)) for index in (0, 1)] + [("half", 0.1, 0)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        recorder = Recorder(TrackingLocation.of(home))
        for name, lr, index in planned:
            spec = with_fold(make_spec(**SMALL, optimizer={"name": "adamw", "lr": lr}), name, index)
            folder = TrialFolder(home.trial_folder(spec.key))
            folder.create(spec)
            folder.write_attempt(Attempt(number=1, data_folder=str(tiny_data)))
            work(folder.path, Slot("cpu-0", "", 1), lambda: False)
            recorder.send("folded", folder, ended=True)
    return home


@pytest.mark.long
def test_a_member_is_a_configuration_on_the_images_of_all_folds(home: Home) -> None:
    """Sixteen images, half a configuration left out; its run names the folds' trials in equal parts, and these predict."""
    reader = RunReader(TrackingLocation.of(home))
    report = best_ensemble(reader, ["folded"], EnsembleOptions(k=2, exactly=True), cache=home.cache)
    assert (report.num_candidates, report.num_images) == (2, 16)
    assert sorted(report.names) == ["fast seed 0", "slow seed 0"]
    trials = [key for keys in report.trials.values() for key in keys]
    assert find_model(TrackingLocation.of(home), report.run_id).weights == dict.fromkeys(trials, 0.25)

    board = load_leaderboard(reader, ["folded"], cache=home.cache)
    of_members = {row.result.name: row.result.miou for row in board.configurations}
    named = dict(zip(report.names, report.members_in_sample, strict=True))
    assert named == pytest.approx({f"{name} seed 0": miou for name, miou in of_members.items()})

    found = compare_runs(reader, (report.run_id, "slow"), cache=home.cache)
    assert found.first.fingerprints == found.second.fingerprints
    assert found.first.miou == pytest.approx(report.miou)

    np.savez(home.root / "test.npz", test_set=np.zeros((2, 32, 64), np.uint8))
    predicted = predict(report.run_id, home.root / "test.npz", out=home.root / "masks.npz", home=home, device="cpu")
    assert sorted(predicted.members) == sorted(trials)


def make_row(key: str, *, fold: str | None, configuration: str = "c", seed: str = "0") -> RunRow:
    """A finished trial's run."""
    tags = {"configuration": configuration, "seed": seed} | ({} if fold is None else {"fold": fold})
    part = "" if fold is None else f" fold {int(fold[0]) + 1}/{fold[2:]}"
    return RunRow("r" + key, "1", f"dice seed {seed}{part}", {}, {}, tags | {"sweep": "s", "key": key, "state": "COMPLETE"}, 0.0)


def test_a_seed_of_a_configuration_is_a_candidate_where_it_is_whole() -> None:
    """Two seeds are two candidates, a seed that lacks a fold is none; a trial without folds is one."""
    rows = [make_row(f"{seed}{i}", fold=f"{i}/2", seed=seed) for seed in ("0", "1") for i in (1, 0)]
    found = list_candidates([*rows, make_row("x", fold="0/2", configuration="d"), make_row("single", fold=None)])
    assert [candidate.key for candidate in found] == ["c-0", "c-1", "single"]
    assert [row.key for row in found[0].rows] == ["00", "01"]
    assert found[0].share(0.5) == {"00": 0.25, "01": 0.25}
    with pytest.raises(EnsembleError, match="1 of 2 of dice"):
        list_candidates(rows[:1])


def test_flips_that_all_folds_have_kept_are_another_candidate() -> None:
    """Not those that one fold lacks; they weigh and predict by the same trials."""
    rows = [make_row(f"{seed}{i}", fold=f"{i}/2", seed=seed) for seed in ("0", "1") for i in (0, 1)]
    for row in rows[:3]:
        row.tags["flips"] = "horizontal"
    found = list_candidates(rows)
    assert [(one.key, one.model, one.flips) for one in found] == [
        ("c-0", "c-0", None), ("c-0+horizontal", "c-0", "horizontal"), ("c-1", "c-1", None)
    ]  # fmt: skip
    assert found[1].name == f"{found[0].name} with horizontal flips"
    assert found[1].share(1) == found[0].share(1)
    assert found[1].list_files(["a"]) == ["flips/a"]


def store(folder: Path, seed: int, *, groups: list[int] | None = None) -> Path:
    """A fold's predictions."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, (4, 2, 3)).astype(np.uint8)
    predictions = random.integers(0, 256, (4, 3, 2, 3)).astype(np.uint8)
    numbers = None if groups is None else np.array(groups, np.int64)
    write_predictions(folder, predictions, labels, ignore_classes=(), scored_fingerprint=f"fold{seed}", groups=numbers)
    return folder


def test_folds_are_joined_once(tmp_path: Path) -> None:
    """One after another, with groups that no two folds share; the second time the same folder is found."""
    folders = [store(tmp_path / "a", 0, groups=[5, 5, 9, 9]), store(tmp_path / "b", 1)]
    joined = join_predictions(folders, tmp_path / "cache")
    info = read_info(joined)
    assert (info.shape[0], info.scored_fingerprint, info.groups) == (8, "fold0,fold1", (0, 0, 1, 1, 2, 3, 4, 5))
    parts = [read_predictions(folder, tmp_path / "cache") for folder in folders]
    assert (read_predictions(joined, tmp_path / "cache") == np.concatenate(parts)).all()
    assert join_predictions(folders, tmp_path / "cache") == joined


def test_the_same_images_twice_are_no_folds(tmp_path: Path) -> None:
    """Out-of-fold means that each image is predicted once."""
    folder = store(tmp_path / "a", 0)
    with pytest.raises(EnsembleError, match="different images for each fold"):
        join_predictions([folder, folder], tmp_path / "cache")
