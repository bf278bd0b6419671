"""Run id, trial key or sweep -> a model's trials; unknown names are answered with what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.errors import TrackingError
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.client import connect, ensure_experiment
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.lookup import find_model

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

KEY, NEAR = "abcd000011112222", "abcd000033334444"


@pytest.fixture
def client(location: TrackingLocation) -> MlflowClient:
    """To read the records, and to add what other tools leave there."""
    return connect(location)


def log_ensemble(client: MlflowClient, location: TrackingLocation, weights: dict[str, float], **tags: str) -> str:
    """A finished ensemble of sweep ``s``, as best-ensemble leaves it."""
    experiment = ensure_experiment(client, location, "s")
    run = client.create_run(
        experiment, run_name="both", tags={"kind": "ensemble", "state": "COMPLETE", "current": "true", **tags}
    )
    for key, weight in weights.items():
        client.log_param(run.info.run_id, f"weight.{key}", f"{weight:.6g}")
    return str(run.info.run_id)


def test_a_trial_is_found_by_run_and_key(location: TrackingLocation, worker) -> None:
    """In full, or by a unique beginning."""
    run_id = Recorder(location).send("s", worker.train(KEY)[0], ended=True)
    for name in (run_id, KEY, KEY[:4]):
        found = find_model(location, name)
        assert (found.name, found.weights, found.run_id) == (f"trial {KEY}", {KEY: 1.0}, run_id)


def test_a_beginning_of_several_keys_is_refused(location: TrackingLocation, worker) -> None:
    """With all of them."""
    for key in (KEY, NEAR):
        Recorder(location).send("s", worker.train(key)[0], ended=True)
    assert find_model(location, KEY[:9]).weights == {KEY: 1.0}
    with pytest.raises(TrackingError, match=f"'abcd00' is the beginning of 2 trials' keys: {KEY}, {NEAR}. Give more"):
        find_model(location, "abcd00")


def test_a_key_that_several_sweeps_share_is_one_trial(location: TrackingLocation, worker) -> None:
    """A run that refers to the first is the same model."""
    folder = worker.train(KEY)[0]
    Recorder(location).send("s", folder, ended=True)
    Recorder(location).send("other", folder, ended=True)
    assert find_model(location, KEY[:6]).weights == {KEY: 1.0}


def test_a_trial_that_failed_predicts_nothing(location: TrackingLocation, worker) -> None:
    """The message says what it is."""
    folder = worker.start(KEY)
    worker.finish(folder, state=TrialState.FAILED)
    Recorder(location).send("s", folder, ended=True)
    with pytest.raises(TrackingError, match="is FAILED; only a COMPLETE one can predict"):
        find_model(location, KEY)


def test_a_sweep_stands_for_its_last_chosen_ensemble(location: TrackingLocation, client: MlflowClient) -> None:
    """Not for the fixed ensembles of its table, which can be named by their run ids."""
    fixed = log_ensemble(client, location, {KEY: 0.5, NEAR: 0.5}, row="37")
    with pytest.raises(TrackingError, match=f"Run `orchestrate best-ensemble s` first.*Row 37 is run {fixed}"):
        find_model(location, "s")
    log_ensemble(client, location, {KEY: 1.0})
    last = log_ensemble(client, location, {KEY: 2 / 3, NEAR: 1 / 3})
    found = find_model(location, "s")
    assert (found.run_id, found.weights) == (last, {KEY: 0.666667, NEAR: 0.333333})
    assert find_model(location, fixed).weights == {KEY: 0.5, NEAR: 0.5}


def test_a_run_of_another_tool_is_refused(location: TrackingLocation, client: MlflowClient) -> None:
    """A run that orchestrate did not make."""
    run = client.create_run(client.create_experiment("foreign", artifact_location=Path("/nowhere").as_uri()))
    with pytest.raises(TrackingError, match="neither a trial nor an ensemble"):
        find_model(location, run.info.run_id)


def test_an_unknown_name_is_answered_with_the_sweeps(location: TrackingLocation, client: MlflowClient) -> None:
    """And with the nearest of them; quotes in it do no harm."""
    for name in ("losses", "table1"):
        ensure_experiment(client, location, name)
    with pytest.raises(TrackingError, match=r"Known: losses, table1\. Did you mean 'losses'"):
        find_model(location, "looses")
    for name in ("f" * 32, "ffff", 'it\'s "quoted"'):
        with pytest.raises(TrackingError, match="is not a known sweep"):
            find_model(location, name)
