"""Predicting with what a sweep has trained: the same masks as in validation, under every name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble.best import EnsembleOptions, best_ensemble
from orchestrator.ensemble.predict.predict import predict
from orchestrator.ensemble.selection.strategies import SearchName
from orchestrator.errors import PredictError, TrackingError
from orchestrator.state.home import Home
from orchestrator.state.trial.outputs import read_predictions
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.runs import RunReader
from trainers.metrics import confusion_per_image
from trainers.prediction.means import Mean

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


def load_masks(path: Path) -> np.ndarray:
    """What a .npz of masks holds."""
    with np.load(path, allow_pickle=False) as stored:
        assert stored.files == ["masks"]
        masks: np.ndarray = stored["masks"]
        return masks


def predict_validation(trained, model: str, folder: Path, **options) -> np.ndarray:
    """Masks of the validation images."""
    out = folder / f"{len(list(folder.iterdir()))}.npz"
    predict(model, trained.source, out=out, home=trained.home, **options)
    return load_masks(out)


def stored_masks(trained, keys, cache: Path) -> np.ndarray:
    """The argmax of the summed probabilities that the trials kept."""
    folders = [trained.home.trial_folder(key) for key in keys]
    masks: np.ndarray = sum(read_predictions(folder, cache).astype(np.int64) for folder in folders).argmax(axis=1)
    return masks


def test_an_ensemble_reproduces_its_logged_score(trained, tmp_path: Path) -> None:
    """On the images that it was chosen on: the argmax of the stored probabilities' sum, and the in-sample mIoU."""
    masks = predict_validation(trained, str(trained.report.run_id), tmp_path)

    scored = ~np.isin(trained.masks, (0, 255))  # elsewhere nothing is stored
    assert len(set(trained.report.members)) == 3
    assert np.array_equal(masks[scored], stored_masks(trained, trained.report.members, tmp_path / "cache")[scored])
    confusions = confusion_per_image(masks, trained.masks, num_classes=5, ignore_classes=(0,))
    assert compute_miou(confusions, (0,)) == trained.report.miou_in_sample


@pytest.mark.parametrize(("search", "mean"), [("weighted", "geometric"), ("exhaustive", "vote")])
def test_weights_and_other_means_reproduce_theirs(trained, search: SearchName, mean: Mean, tmp_path: Path) -> None:
    """The run says how its members are weighed and combined, and predictions do the same."""
    home = Home(tmp_path / "home" / "mlruns")
    shutil.copytree(trained.home.root, home.root)
    report = best_ensemble(
        RunReader(TrackingLocation.of(home)), [trained.sweep], EnsembleOptions(k=3, search=search, mean=mean), cache=home.cache
    )
    out = tmp_path / "masks.npz"
    predict(str(report.run_id), trained.source, out=out, home=home)
    confusions = confusion_per_image(load_masks(out), trained.masks, num_classes=5, ignore_classes=(0,))
    assert compute_miou(confusions, (0,)) == report.miou_in_sample


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_trial_reproduces_its_validation(trained, number: int, tmp_path: Path) -> None:
    """With its own batches and flips."""
    key = trained.keys[number]
    scored = ~np.isin(trained.masks, (0, 255))
    assert np.array_equal(
        predict_validation(trained, key, tmp_path)[scored], stored_masks(trained, [key], tmp_path / "cache")[scored]
    )


def test_every_name_of_a_trial_means_the_same(trained, tmp_path: Path) -> None:
    """Its key, the beginning of it, its folder, and its checkpoint anywhere else."""
    key = trained.keys[0]
    folder = trained.home.trial_folder(key)
    elsewhere = shutil.copy(folder / "best.safetensors", tmp_path / "my model.safetensors")
    expected = predict_validation(trained, key, tmp_path)
    for name in (key[:9], str(folder), str(folder / "best.safetensors"), str(elsewhere)):
        assert np.array_equal(predict_validation(trained, name, tmp_path), expected)


def test_a_sweep_means_the_ensemble_chosen_from_it(trained, tmp_path: Path) -> None:
    """The report names it and its members."""
    report = predict(trained.sweep, trained.source, out=tmp_path / "a.npz", home=trained.home)
    assert report.to_json() == {
        "model": "ensemble of 3",
        "members": list(trained.report.members),
        "num_images": len(trained.images),
        "out": str(tmp_path / "a.npz"),
        "images_per_s": pytest.approx(report.images_per_s, abs=0.01),
    }


def test_flips_can_be_asked_for(trained, tmp_path: Path) -> None:
    """As the trial with them is validated; other flips than its own change something."""
    key = trained.keys[2]
    own = predict_validation(trained, key, tmp_path)
    assert np.array_equal(predict_validation(trained, key, tmp_path, flips="horizontal"), own)
    assert not np.array_equal(predict_validation(trained, key, tmp_path, flips="none"), own)
    turned = trained.source.with_name("turned.npz")
    np.savez(turned, test_set=trained.images[:, ::-1, ::-1])
    predict(key, turned, out=tmp_path / "t.npz", home=trained.home, flips="both")
    both = predict_validation(trained, key, tmp_path, flips="both")
    assert (load_masks(tmp_path / "t.npz")[:, ::-1, ::-1] == both).mean() > 0.999  # but for the order of a sum


def test_weights_come_from_the_server_where_the_folder_is_gone(trained, tmp_path: Path) -> None:
    """Another machine of the team predicts the same."""
    home = shutil.copytree(trained.home.root, tmp_path / "mlruns")
    shutil.rmtree(home / "trials")
    other = type(trained.home)(home)
    out = tmp_path / "a.npz"
    predict(str(trained.report.run_id), trained.source, out=out, home=other)
    assert (home / "cache" / "files").exists()
    assert np.array_equal(load_masks(out), predict_validation(trained, trained.sweep, tmp_path))


def test_a_folder_of_images_keeps_names_and_sizes(trained, tmp_path: Path) -> None:
    """Of differing sizes, kinds and colours; a gray model sees gray."""
    pictures, random = tmp_path / "photos" / "images", np.random.default_rng(0)
    pictures.mkdir(parents=True)
    gray = random.integers(0, 256, (40, 70), dtype=np.uint8)
    Image.fromarray(gray).save(pictures / "b gray.png")
    Image.fromarray(np.stack([gray] * 3, axis=2)).save(pictures / "a same in colour.tif")
    Image.fromarray(random.integers(0, 256, (33, 65, 3), dtype=np.uint8)).save(pictures / "жук.JPG")
    report = predict(trained.keys[0], tmp_path / "photos", out=tmp_path / "masks", home=trained.home)

    assert report.num_images == 3
    masks = {path.name: Image.open(path) for path in (tmp_path / "masks").iterdir()}
    assert {name: mask.size for name, mask in masks.items()} == {
        "a same in colour.png": (70, 40), "b gray.png": (70, 40), "жук.png": (65, 33)
    }  # fmt: skip
    assert {mask.mode for mask in masks.values()} == {"P"}
    assert max(int(np.max(mask)) for mask in masks.values()) < 5
    assert np.array_equal(np.asarray(masks["a same in colour.png"]), np.asarray(masks["b gray.png"]))


def test_a_model_trained_at_one_size_is_shown_that_size(trained, tmp_path: Path) -> None:
    """If data.size resized the training images; the mask has the image's own size."""
    folder = tmp_path / "trial"
    folder.mkdir()
    own = trained.home.trial_folder(trained.keys[0])
    shutil.copy(own / "best.safetensors", folder)
    spec = json.loads((own / "trial.json").read_text())
    spec["data"]["size"] = [32, 64]
    (folder / "trial.json").write_text(json.dumps(spec))
    large = np.stack([cv2.resize(image, (192, 96), interpolation=cv2.INTER_NEAREST) for image in trained.images])
    np.savez(tmp_path / "large.npz", test_set=large)
    predict(str(folder), tmp_path / "large.npz", out=tmp_path / "masks.npz", home=trained.home)

    masks = load_masks(tmp_path / "masks.npz")
    assert masks.shape == (len(trained.images), 96, 192)
    assert (masks[:, 1::3, 1::3] == predict_validation(trained, str(own), tmp_path)).mean() > 0.99


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tyni", "'tyni' is not a known sweep. Known: tiny. Did you mean 'tiny'"),
        ("0" * 32, "is not a known sweep"),
        ("no/such/folder", "no/such holds nothing. A trial's folder holds best.safetensors"),
    ],
)
def test_an_unknown_model_is_answered_with_what_is_known(trained, name: str, message: str, tmp_path: Path) -> None:
    """And nothing is written."""
    with pytest.raises((PredictError, TrackingError), match=message):
        predict(name, trained.source, out=tmp_path / "a.npz", home=trained.home)
    assert not list(tmp_path.iterdir())


def test_a_broken_image_leaves_no_output(trained, tmp_path: Path) -> None:
    """Though others were predicted before it was met."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "abcdefgh":
        Image.fromarray(trained.images[0]).save(folder / f"{name}.bmp")
    (folder / "h.bmp").write_bytes((folder / "h.bmp").read_bytes()[:1500])
    with pytest.raises(PredictError, match=r"h\.bmp: cannot be read as an image"):
        predict(trained.keys[0], folder, out=tmp_path / "masks", home=trained.home)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_missing_device_is_reported(trained, tmp_path: Path) -> None:
    """With what is there."""
    with pytest.raises(PredictError, match="device 'cuda:77' cannot be used"):
        predict(trained.keys[0], trained.source, out=tmp_path / "a.npz", home=trained.home, device="cuda:77")


@pytest.mark.slow
@pytest.mark.long
def test_the_command_prints_one_document(trained, tmp_path: Path) -> None:
    """On standard output, with progress on standard error; a mistake is one line and exit code 2."""
    environment = os.environ | {"ORCHESTRATE_HOME": str(trained.home.root), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        "predict",
        trained.sweep,
        str(trained.source),
        "--out",
        "a.csv",
        "--json",
    ]
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, **options)
    again = subprocess.run(command, **options)

    assert json.loads(done.stdout)["num_images"] == len(trained.images)
    assert f"{len(trained.images)}/{len(trained.images)}" in done.stderr
    assert (tmp_path / "a.csv").read_text().count("\n") == 1 + len(trained.images)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: a.csv: exists already. Name another file, or remove it first.\n"
