"""A trial retried with another deviation: one run per deviation, one of them current."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from mlflow.entities import Run

from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Attempt, Event, TrialState
from orchestrator.tracking.client import all_experiments, connect, search_runs
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from tests.orchestrator.tracking.conftest import Worker

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

CUT = "batch of 32 in 2 parts after CUDA out of memory"


def runs_of(location: TrackingLocation, key: str = "k1") -> dict[str, Run]:
    """Its runs by their deviation."""
    client = connect(location)
    experiments = [str(experiment.experiment_id) for experiment in all_experiments(client)]
    runs = search_runs(client, experiments, f"tags.key = '{key}'")
    found = {run.data.tags["deviation"]: run for run in runs}
    assert len(found) == len(runs), "two runs on the same terms"
    return found


def tags_of(run: Run, *names: str) -> Mapping[str, Any]:
    """Some of its tags."""
    return {name: run.data.tags.get(name) for name in names}


@pytest.fixture
def retried(location: TrackingLocation) -> TrialFolder:
    """A trial that trained an epoch, ran out of memory, and is being trained with a smaller batch."""
    worker = Worker(location.trials)
    folder = worker.start()
    worker.epoch(folder, 1, 0.3)
    recorder = Recorder(location)
    recorder.send("a", folder, ended=False)
    folder.append(
        Event(
            kind="attempt_ended",
            time_s=1002,
            attempt=1,
            state=TrialState.FAILED,
            reason="OutOfMemoryError: CUDA out of memory",
            failure=FailureKind.CUDA_OUT_OF_MEMORY,
        )
    )
    folder.write_attempt(Attempt(number=2, data_folder="/nowhere", accumulate=2, deviation=CUT))
    folder.append(Event(kind="attempt_started", time_s=1003, attempt=2))
    worker.epoch(folder, 2, 0.4, attempt=2)
    recorder.send("a", folder, ended=False)
    return folder


def test_another_deviation_is_another_run(location: TrackingLocation, retried: TrialFolder) -> None:
    """It has every epoch, is current and RUNNING; the first is closed and gives the reason."""
    runs = runs_of(location)
    assert tags_of(runs[""], "current", "state", "reason") == {
        "current": "false",
        "state": "FAILED",
        "reason": f"retried as: {CUT}",
    }
    assert runs[""].info.status == "FAILED"
    assert runs[CUT].info.status == "RUNNING"
    assert runs[CUT].data.tags["current"] == "true"
    assert "OutOfMemoryError" in runs[CUT].data.tags["last_failure"]
    history = connect(location).get_metric_history(runs[CUT].info.run_id, "epoch/val/miou")
    assert [(point.step, point.value) for point in history] == [(1, 0.3), (2, 0.4)]


def test_the_result_goes_to_the_current_run(location: TrackingLocation, retried: TrialFolder) -> None:
    """Without mirror.json that run is found again; nothing is sent twice, and no third run is created."""
    result = Worker(location.trials).finish(retried)
    retried.write_result(result.model_copy(update={"attempt": 2, "deviation": CUT}))
    for _ in range(2):
        Recorder(location).send("a", retried, ended=True)
        (retried.path / "mirror.json").unlink(missing_ok=True)
    runs = runs_of(location)
    assert set(runs) == {"", CUT}
    assert (runs[CUT].info.status, runs[CUT].data.tags["state"]) == ("FINISHED", "COMPLETE")
    assert runs[""].info.status == "FAILED"


def test_a_trial_that_returns_to_its_first_deviation_returns_to_its_first_run(
    location: TrackingLocation, retried: TrialFolder
) -> None:
    """As after `orchestrate retry`: it is current again, and the other one is closed."""
    retried.write_attempt(Attempt(number=3, data_folder="/nowhere"))
    Recorder(location).send("a", retried, ended=False)
    runs = runs_of(location)
    assert tags_of(runs[""], "current", "state") == {"current": "true", "state": "RUNNING"}
    assert runs[""].info.status == "RUNNING"
    assert tags_of(runs[CUT], "current", "state") == {"current": "false", "state": "FAILED"}


def test_another_sweep_refers_to_the_run_that_was_completed(location: TrackingLocation, retried: TrialFolder) -> None:
    """With the deviation, and one current run in its own experiment."""
    result = Worker(location.trials).finish(retried).model_copy(update={"attempt": 2, "deviation": CUT})
    retried.write_result(result)
    recorder = Recorder(location)
    run_id = recorder.send("a", retried, ended=True)
    recorder.send("b", retried, ended=True)
    client = connect(location)
    experiments = [str(e.experiment_id) for e in all_experiments(client)]
    [referring] = search_runs(client, experiments, "tags.key = 'k1' and tags.sweep = 'b'")
    assert tags_of(referring, "deviation", "current", "cached_from") == {
        "deviation": CUT,
        "current": "true",
        "cached_from": run_id,
    }
