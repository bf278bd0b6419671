"""A second set of predictions, with test-time flips: stored by the worker, mirrored, chosen, used for prediction."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble.best import EnsembleOptions, best_ensemble
from orchestrator.ensemble.evaluation.report import EnsembleReport
from orchestrator.ensemble.predict.export import export
from orchestrator.ensemble.predict.predict import predict
from orchestrator.launchers.worker.contract import ExitCode, Slot
from orchestrator.launchers.worker.main import work
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.outputs import read_confusions, read_info, read_predictions
from orchestrator.state.trial.records import FLIPS, FLIPS_MIOU
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.lookup import find_model
from orchestrator.tracking.reader.runs import RunReader
from trainers.data import open_dataset, split_dataset
from trainers.device import limited_threads
from trainers.metrics import confusion_per_image
from trainers.prediction.ensemble import Ensemble, read_members

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # mlflow 3.17, SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),  # mlflow's own, while it is imported
]

SMALL = {"arch": "Unet", "encoder": "timm-mobilenetv3_small_100", "arch_options": {"decoder_channels": [16, 16, 8, 8, 8]}}

Train = Callable[..., TrialFolder]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the trials were validated with: sums of one order give equal bits."""
    with limited_threads(1):
        yield


@pytest.fixture(scope="module")
def train(make_trial: Callable[..., TrialFolder]) -> Train:
    """Works a tiny trial off, in a home."""

    def work_off(home: Home, *, keep_flips: str, number: int = 1, **fields: object) -> TrialFolder:
        scratch = make_trial(home.trials / "scratch", **SMALL, **fields)
        trial = TrialFolder(home.trial_folder(scratch.spec().key))
        if trial.path.exists():
            shutil.rmtree(scratch.path)
        else:
            scratch.path.rename(trial.path)
        trial.write_attempt(trial.attempt().model_copy(update={"keep_flips": keep_flips, "number": number}))
        trial.discard_result()
        assert work(trial.path, Slot("cpu-0", "", 1), lambda: False) is ExitCode.COMPLETE
        return trial

    return work_off


@pytest.fixture(scope="module")
def home(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three trials of one sweep, each with horizontal flips too; with different batches, so that no two score the same."""
    home = Home(tmp_path_factory.mktemp("home") / "mlruns")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        recorder = Recorder(TrackingLocation.of(home))
        for seed in range(3):
            recorder.send("s", train(home, keep_flips="horizontal", seed=seed, batch_size=3 + seed), ended=True)
    return home


@pytest.fixture(scope="module")
def report(home: Home) -> EnsembleReport:
    """The three of them together."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        return best_ensemble(RunReader(TrackingLocation.of(home)), ["s"], EnsembleOptions(k=3, exactly=True), cache=home.cache)


def test_the_second_set_changes_nothing_of_the_first(train: Train, tmp_path: Path) -> None:
    """The same trial with and without: equal values and bytes; the second set scores what the result says, on the same images."""
    plain = train(Home(tmp_path / "plain"), keep_flips="none")
    flipped = train(Home(tmp_path / "flipped"), keep_flips="both")
    results = plain.result(), flipped.result()
    assert results[0] is not None
    assert results[1] is not None
    assert plain.spec().key == flipped.spec().key
    scores = [{name: v for name, v in result.metrics.items() if name.startswith("val/")} for result in results]
    worth = scores[1].pop(FLIPS_MIOU)
    assert scores[0] == scores[1]
    assert (results[0].facts.get("flips"), results[1].facts["flips"]) == (None, "both")
    assert not (plain.path / FLIPS).exists()

    first, second = read_info(flipped.path), read_info(flipped.path / FLIPS)
    assert first == read_info(plain.path)
    assert second.model_copy(update={"predictions_sha256": first.predictions_sha256}) == first
    assert second.predictions_sha256 != first.predictions_sha256
    assert worth == compute_miou(*read_confusions(flipped.path / FLIPS / "confusions.npz"))


def test_flips_of_its_own_or_of_an_earlier_attempt_are_no_second_set(train: Train, tmp_path: Path) -> None:
    """Flips of the validation need no second set; a set that is no longer asked for is removed."""
    home = Home(tmp_path)
    own = train(home, keep_flips="horizontal", test_time_flips="horizontal")
    assert not (own.path / FLIPS).exists()
    other = train(home, keep_flips="both", test_time_flips="horizontal", seed=1)
    assert (other.path / FLIPS).exists()
    recorder = Recorder(TrackingLocation.of(home))
    recorder.send("s", other, ended=True)
    recorder.send("s", train(home, keep_flips="none", test_time_flips="horizontal", seed=1, number=2), ended=True)
    assert not (other.path / FLIPS).exists()
    (row,) = RunReader(TrackingLocation.of(home)).list_runs(["s"])
    assert row.tags["flips"] == ""


def test_the_run_has_the_second_set_and_says_what_it_is_worth(home: Home, tmp_path: Path) -> None:
    """A tag, a metric, and files in a folder, from which another machine chooses the same."""
    rows = RunReader(TrackingLocation.of(home)).list_runs(["s"])
    assert {row.tags["flips"] for row in rows} == {"horizontal"}
    results = {row.key: TrialFolder(home.trial_folder(row.key)).result() for row in rows}
    assert all(row.metrics[FLIPS_MIOU] == results[row.key].metrics[FLIPS_MIOU] for row in rows)

    here = best_ensemble(RunReader(TrackingLocation.of(home)), ["s"], EnsembleOptions(k=2), cache=tmp_path / "here")
    reader = RunReader(replace(TrackingLocation.of(home), trials=tmp_path / "nothing"))
    there = best_ensemble(reader, ["s"], EnsembleOptions(k=2), cache=tmp_path / "there")
    assert there == here
    fetched = {path.parent.parent.name for path in (tmp_path / "there" / "files").glob("*/flips/predictions.zst")}
    assert fetched == {row.run_id for row in rows}


def test_a_model_is_a_member_with_flips_or_without(home: Home, report: EnsembleReport) -> None:
    """Six candidates of three models; the run says which are flipped, and who reads names can see it."""
    assert (report.num_candidates, len(report.members)) == (6, 3)
    assert len({keys for keys in report.trials.values()}) == 3
    assert report.flips, "choose other seeds: none is better with flips"
    assert set(report.flips) == {key for key in report.members if key.endswith("+horizontal")}
    assert report.to_json()["flips"] == [report.flips.get(key) for key in report.members]
    named = dict(zip(report.members, report.names, strict=True))
    assert all(("with horizontal flips" in name) == (key in report.flips) for key, name in named.items())
    assert "3 of 6 candidates use test-time flips" in report.labels.notes[-1]
    found = find_model(TrackingLocation.of(home), str(report.run_id))
    assert found.flips == {report.trials[key][0]: flips for key, flips in report.flips.items()}
    assert set(found.weights) == {keys[0] for keys in report.trials.values()}


def test_predictions_and_exports_flip_whom_the_ensemble_flips(
    home: Home, report: EnsembleReport, tiny_data: Path, tmp_path: Path
) -> None:
    """For the images that it was chosen on: the masks of the stored sets' sum, and the logged in-sample score."""
    data = open_dataset(tiny_data)
    first = TrialFolder(home.trial_folder(report.trials[report.members[0]][0]))
    val = split_dataset(data, first.spec().data, None).split.val
    images, labels = np.asarray(data.images[val]), np.asarray(data.masks[val])
    np.savez(tmp_path / "val.npz", test_set=images[..., 0])
    predict(str(report.run_id), tmp_path / "val.npz", out=tmp_path / "masks.npz", home=home, device="cpu")
    masks = np.load(tmp_path / "masks.npz")["masks"]

    folders = [TrialFolder(home.trial_folder(report.trials[key][0])) for key in report.members]
    sets = [one.path / FLIPS if key in report.flips else one.path for key, one in zip(report.members, folders, strict=True)]
    expected = sum(read_predictions(folder, tmp_path / "cache").astype(np.int64) for folder in sets).argmax(axis=1)
    scored = ~np.isin(labels, (0, 255))  # elsewhere nothing is stored
    assert np.array_equal(masks[scored], expected[scored])
    confusions = confusion_per_image(masks, labels, num_classes=5, ignore_classes=(0,))
    assert compute_miou(confusions, (0,)) == report.miou_in_sample

    export(str(report.run_id), home=home, out=tmp_path / "model")
    (exported,) = (tmp_path / "model").rglob("members.json")
    members, mean = read_members(exported.parent)
    assert np.array_equal(Ensemble(members, mean=mean, device="cpu").predict(images), masks)
