"""The report out of a real MLflow, wherever its files lie, and what the command refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis.report.ensemble_section import load_chosen
from orchestrator.analysis.report.report import load_picture, load_table, make_report
from orchestrator.ensemble import select_ensemble
from orchestrator.errors import SpecError, TrackingError
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Attempt, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.ensembles import log_ensemble
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.runs import RunReader
from orchestrator.tracking.tags import EnsembleRecord, RunLabel
from trainers.config import DataConfig, TrainConfig
from trainers.pictures import encode_png, make_palette

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

METRICS = {"val/miou": 0.5, "val/iou/soil": 0.6, "val/iou/rock (big)": 0.4}
MATRICES = np.full((4, 3, 3), 5, np.int32)


def write_confusions(path: Path) -> Path:
    """Matrices of three classes, the first ignored."""
    np.savez(path, confusions=MATRICES, ignore_classes=np.array([0]))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where one trial, row 1 of sweep s, and an ensemble of it were recorded, and the trial's folder is gone."""
    home = Home(tmp_path_factory.mktemp("home"))
    folder = TrialFolder(home.trial_folder("k1"))
    folder.create(
        TrialSpec(
            key="k1", configuration="c1", name="row 1", train=TrainConfig(), data=DataConfig(), seed=0, source_fingerprint="f"
        )
    )
    folder.write_attempt(Attempt(number=1, data_folder="/nowhere"))
    write_confusions(folder.path / TrialFile.CONFUSIONS)
    (folder.path / "samples.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    folder.write_result(
        TrialResult(
            key="k1", state=TrialState.COMPLETE, metrics=METRICS, scored_fingerprint="s", attempt=1, started_s=1.0, ended_s=2.0
        )
    )
    recorder = Recorder(TrackingLocation.of(home))
    recorder.send("s", folder, ended=True, label=RunLabel("1: small", "1", 0.25))
    tags = {"row": "2", "rows": "1", "best_member": "k1", "scored_fingerprint": "s"}
    matrices = write_confusions(home.root / "confusions.npz")
    recorder.log_table("s", [EnsembleRecord("2: alone", {"k1": 1.0}, METRICS, {"members": ["k1"]}, tags, (matrices,))])
    shutil.rmtree(folder.path)
    return home


@pytest.fixture(scope="module")
def reader(home: Home) -> RunReader:
    """Of that home."""
    return RunReader(TrackingLocation.of(home))


def test_the_table_is_read_from_the_server(home: Home, reader: RunReader) -> None:
    """Classes in the order of their ids and under their own names, rows under their labels."""
    table = load_table(reader, "s", cache=home.cache)
    assert table.class_names == ("soil", "rock (big)")
    single, ensemble = table.lines
    assert (single.row, single.name, single.reported, dict(single.class_iou)) == (
        "1",
        "small",
        0.25,
        {"soil": 0.6, "rock (big)": 0.4},
    )
    assert (ensemble.row, ensemble.members, ensemble.gain.value if ensemble.gain else None) == ("2", ("1",), 0.0)


def test_the_sample_picture_has_a_legend(home: Home, reader: RunReader) -> None:
    """In the colours that the worker drew the classes in."""
    picture = load_picture(reader, load_table(reader, "s", cache=home.cache), cache=home.cache)
    assert picture is not None
    assert picture.png.startswith(b"\x89PNG")
    palette = make_palette(3)
    assert picture.legend == tuple((name, "#" + bytes(palette[c]).hex()) for name, c in (("soil", 1), ("rock (big)", 2)))


def test_the_latest_sweep_is_reported_by_default(home: Home, reader: RunReader, tmp_path: Path) -> None:
    """And written as a whole, over an older page too."""
    (tmp_path / "page.html").write_text("old")
    report = make_report(reader, None, out=tmp_path / "page.html", cache=home.cache)
    assert report.table.sweep == "s"
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(("out", "message"), [("table.pdf", r"ends in \.html"), ("nowhere/table.html", "cannot be written")])
def test_a_page_that_cannot_be_written_is_reported(home: Home, reader: RunReader, tmp_path: Path, out: str, message: str) -> None:
    """With what is allowed."""
    with pytest.raises(SpecError, match=message):
        make_report(reader, "s", out=tmp_path / out, cache=home.cache)


def test_an_unknown_sweep_is_reported(home: Home, reader: RunReader) -> None:
    """With the known ones."""
    with pytest.raises(TrackingError, match=r"'t' is not a known sweep\. Known: s"):
        make_report(reader, "t", out=None, cache=home.cache)


def test_the_page_shows_what_was_chosen_last(home: Home, reader: RunReader, tmp_path: Path) -> None:
    """With its verdict; a document of an earlier version, which lacks fields, is skipped."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (20, 8, 8)).astype(np.uint8)
    truth = np.stack([labels == c for c in range(3)], axis=1)
    predictions = [(truth * 80 + random.uniform(0, 175, truth.shape)).astype(np.uint8) for _ in range(3)]
    found = select_ensemble(predictions, labels, k=2, keys=["a <b>", "b <b>", "c <b>"])
    document = {name: value for name, value in found.to_json().items() if name != "run_id"}
    log_ensemble(reader.location, "s", EnsembleRecord("old", {"k1": 1.0}, {}, {"members": ["k1"]}))
    assert load_chosen(reader, "s", cache=home.cache) is None
    log_ensemble(reader.location, "s", EnsembleRecord("chosen", {"k1": 1.0}, {}, document))
    make_report(reader, "s", out=tmp_path / "page.html", cache=home.cache)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert " &lt;b&gt;" in page
    assert "a significant gain" in page
