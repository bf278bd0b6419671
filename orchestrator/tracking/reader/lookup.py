"""What a person calls a model (run id, trial key, sweep) -> the trials that it is made of, as the records know them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingError
from orchestrator.state.trial.records import FLIPS, TrialState
from orchestrator.tracking.client import all_experiments, connect, find_experiment, search_runs
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import CHOSEN, MEAN, read_params, read_weights
from trainers.config import check_known

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-f]{4,16}")
_FLIPS = f"{FLIPS}."


@dataclass(frozen=True)
class FoundModel:
    """A trial, or an ensemble of several.

    weights: key of each member's trial -> its weight; mean: how they are combined; flips: key of each that is averaged over other
    mirror images than it was validated with -> over which.
    """

    name: str
    weights: dict[str, float]
    run_id: str
    mean: str = "arithmetic"
    flips: Mapping[str, str] = field(default_factory=dict)


def find_model(location: TrackingLocation, name: str) -> FoundModel:
    """Find a model by the id of a run, the key of a trial or the beginning of one, or a sweep's name.

    A sweep stands for the ensemble that ``best-ensemble`` chose of it last.

    Raises:
        TrackingError: there is none, or several; the message says what is known.
    """
    client = connect(location)
    with translate_errors(location):
        if _RUN_ID.fullmatch(name) and (run := _get_run(client, name)) is not None:
            return _take(location, run)
        experiment = find_experiment(client, name)
        if experiment is not None:
            return _take(location, _latest_ensemble(location, client, name, experiment))
        runs = _find_trials(client, name) if _KEY.fullmatch(name) else []
        keys = sorted({run.data.tags["key"] for run in runs})
        if len(keys) > 1:
            raise TrackingError(
                f"{location}: {name!r} is the beginning of {len(keys)} trials' keys: {_some(keys)}. Give more of it."
            )
        if not keys:
            raise _unknown(location, client, name)
        return _take(location, next((run for run in runs if run.data.tags.get("state") == TrialState.COMPLETE), runs[0]))


def _take(location: TrackingLocation, run: Run) -> FoundModel:
    tags, name = run.data.tags, run.info.run_name or run.info.run_id
    flips: dict[str, str] = {}
    if tags.get("kind") == "ensemble":
        weights, flips = read_weights(run), read_params(run, _FLIPS)
    elif tags.get("kind") == "trial":
        weights = {tags["key"]: 1.0}
    else:
        raise TrackingError(f"{location}: run {run.info.run_id} ({name}) is neither a trial nor an ensemble of `orchestrate`'s.")
    if tags.get("state") != TrialState.COMPLETE:
        raise TrackingError(
            f"{location}: {name} ({run.info.run_id}) is {tags.get('state', 'unfinished')}; only what is COMPLETE predicts. "
            "Let its sweep finish, or give the path of its checkpoint."
        )
    return FoundModel(name, weights, run_id=run.info.run_id, mean=tags.get(MEAN, "arithmetic"), flips=flips)


def _get_run(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _latest_ensemble(location: TrackingLocation, client: MlflowClient, sweep: str, experiment: str) -> Run:
    runs = search_runs(client, [experiment], "tags.kind = 'ensemble' and tags.state = 'COMPLETE'")
    chosen = [run for run in runs if "row" not in run.data.tags]  # fixed ones are several, and none is the latest
    if not chosen:
        fixed = "".join(f" Row {run.data.tags['row']} is run {run.info.run_id}." for run in runs)
        raise TrackingError(
            f"{location}: no ensemble was chosen from sweep {sweep} yet. Run `orchestrate best-ensemble {sweep}` "
            f"first, or name one of its runs.{fixed}"
        )
    return max(chosen, key=lambda run: float(run.data.tags.get(CHOSEN, (run.info.start_time or 0) / 1000)))


def _find_trials(client: MlflowClient, key: str) -> list[Run]:
    experiments = [str(found.experiment_id) for found in all_experiments(client)]
    return search_runs(client, experiments, f"tags.key LIKE '{key}%' and tags.kind = 'trial'")


def _unknown(location: TrackingLocation, client: MlflowClient, name: str) -> TrackingError:
    sweeps = sorted(found.name for found in all_experiments(client) if found.tags.get("orchestrate") == "sweep")
    try:
        check_known(name, sweeps, "sweep")
    except ValueError as error:
        return TrackingError(
            f"{location}: {error} Nor is it a run's id, a trial's key (`orchestrate leaderboard --json` shows them), or a "
            "checkpoint's path."
        )
    raise AssertionError(f"{name} is a sweep")  # and would have been found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
