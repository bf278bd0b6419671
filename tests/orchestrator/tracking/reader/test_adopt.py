"""Adopting: results of another machine are copied into this machine's folders, completely or not at all."""

from __future__ import annotations

import logging
import shutil

import pytest
from filelock import FileLock
from mlflow import MlflowClient

from orchestrator.search import read_epochs
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.adopt import adopt_finished
from orchestrator.tracking.reader.runs import RunReader

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1


@pytest.fixture
def away(location: TrackingLocation, worker) -> TrialFolder:
    """A trial that another machine has finished and mirrored."""
    folder, _ = worker.train()
    Recorder(location).send("s", folder, ended=True)
    moved = folder.path.with_name("away")
    folder.path.rename(moved)
    return TrialFolder(moved)


@pytest.fixture
def home(location: TrackingLocation) -> Home:
    """This machine, with the same server."""
    return Home(location.trials.parent)


def states(location: TrackingLocation, sweep: str) -> list[tuple[str, bool]]:
    """State of each of the sweep's runs, and whether it refers to another."""
    client = MlflowClient(tracking_uri=location.uri)
    experiment = client.get_experiment_by_name(sweep)
    runs = client.search_runs([experiment.experiment_id])
    return [(run.data.tags["state"], "cached_from" in run.data.tags) for run in runs]


def test_a_finished_trial_is_adopted_and_referred_to(home: Home, location: TrackingLocation, away: TrialFolder) -> None:
    """Its result is here, and the sweep that needed it shows a run that names the first one."""
    assert adopt_finished(home, [away.spec()]) == ["k1"]
    here = TrialFolder(location.trials / "k1")
    assert here.result() == away.result()
    Recorder(location).send("second", here, ended=True)
    assert states(location, "second") == [("COMPLETE", True)]


def test_its_history_comes_with_it(home: Home, location: TrackingLocation, away: TrialFolder, worker) -> None:
    """Pruners see every epoch, and the referring run shows the same curve; epochs of this machine's attempt are gone."""
    failed = worker.start()
    worker.epoch(failed, 1, 0.9)
    worker.finish(failed, state=TrialState.FAILED)
    adopt_finished(home, [away.spec()])
    assert read_epochs(home, away.spec()) == {1: 0.2, 2: 0.5, 3: 0.4}
    referring = Recorder(location).send("second", failed, ended=True)
    curve = MlflowClient(tracking_uri=location.uri).get_metric_history(referring, "epoch/val/miou")
    assert [(point.step, point.value) for point in curve] == [(1, 0.2), (2, 0.5), (3, 0.4)]


def test_a_local_failure_is_replaced(home: Home, location: TrackingLocation, away: TrialFolder, worker) -> None:
    """The result comes from the server, and nothing of the failed attempt counts as the adopted trial's."""
    failed = worker.start()
    worker.finish(failed, state=TrialState.FAILED)
    Recorder(location).send("second", failed, ended=True)
    assert adopt_finished(home, [away.spec()]) == ["k1"]
    assert failed.result() == away.result()
    assert (failed.path / TrialFile.CONFUSIONS).read_bytes() == (away.path / TrialFile.CONFUSIONS).read_bytes()
    assert not (failed.path / "best.safetensors").exists()
    Recorder(location).send("second", failed, ended=True)
    Recorder(location).send("s", failed, ended=True)
    assert (states(location, "s"), states(location, "second")) == ([("COMPLETE", False)], [("COMPLETE", True)])


def test_what_was_sent_is_forgotten_first(home: Home, location: TrackingLocation, away: TrialFolder, worker) -> None:
    """A kill in between must not leave how much was sent of a file that is written anew."""
    failed = worker.start()
    worker.finish(failed, state=TrialState.FAILED)
    Recorder(location).send("second", failed, ended=True)
    assert (failed.path / TrialFile.SENT).exists()
    (failed.path / TrialFile.PROGRESS).rename(failed.path / "moved")
    (failed.path / TrialFile.PROGRESS).mkdir()  # which stops the adoption there
    with pytest.raises(OSError, match=TrialFile.PROGRESS.value):
        adopt_finished(home, [away.spec()])
    assert not (failed.path / TrialFile.SENT).exists()


def test_an_adopted_result_is_replaced_by_a_later_one(home: Home, location: TrackingLocation, away: TrialFolder) -> None:
    """If the trial was trained again elsewhere, its files come from the server, not from the earlier adoption."""
    adopt_finished(home, [away.spec()])
    result = away.result()
    assert result is not None
    adopted = (location.trials / "k1").rename(location.trials / "adopted")
    away.path.rename(location.trials / "k1")
    again = TrialFolder(location.trials / "k1")
    again.write_result(result.model_copy(update={"ended_s": result.ended_s + 60}))
    (again.path / TrialFile.CONFUSIONS).write_bytes(b"later")
    Recorder(location).send("s", again, ended=True)
    shutil.rmtree(again.path)
    adopted.rename(again.path)
    reader = RunReader(location)
    (row,) = reader.list_runs(["s"])
    assert reader.fetch(row, "confusions.npz", home.cache / "files").read_bytes() == b"later"


def test_a_trial_without_its_files_is_left_to_be_trained(
    home: Home, location: TrackingLocation, away: TrialFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are adopted, and a warning names it."""
    shutil.rmtree(location.artifacts)
    with caplog.at_level(logging.WARNING):
        assert adopt_finished(home, [away.spec()]) == []
    assert "trial k1 is COMPLETE" in caplog.text
    assert not (location.trials / "k1").exists()


def test_a_folder_that_a_process_works_in_is_skipped(home: Home, away: TrialFolder, worker) -> None:
    """A worker that still trains the trial keeps its files."""
    folder = worker.start()
    with FileLock(folder.path / TrialFile.LOCK):
        assert adopt_finished(home, [away.spec()]) == []
    assert folder.result() is None


def test_a_failure_here_never_undoes_a_success_elsewhere(location: TrackingLocation, away: TrialFolder, worker) -> None:
    """In the same sweep the finished run stays as it is."""
    failed = worker.start()
    worker.finish(failed, state=TrialState.FAILED)
    Recorder(location).send("s", failed, ended=True)
    assert states(location, "s") == [("COMPLETE", False)]
