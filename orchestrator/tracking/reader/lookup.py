"""Run id, trial key or sweep name -> the trials that a model consists of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.errors import TrackingError
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.client import all_experiments, connect, find_experiment, search_everywhere, search_runs
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.tags import RunKind, Tag, is_sweep, match_tags, match_trials, read_flips, read_weights
from trainers.config import describe_unknown

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-f]{4,16}")


@dataclass(frozen=True)
class FoundModel:
    """A trial, or an ensemble of several.

    weights: key of each member -> its weight; mean: how they are combined; flips: key -> flips, of members that use other flips
    than they were validated with.
    """

    name: str
    weights: dict[str, float]
    run_id: str
    mean: str = "arithmetic"
    flips: Mapping[str, str] = field(default_factory=dict)


def find_model(location: TrackingLocation, name: str) -> FoundModel:
    """Find a model by run id, trial key (or its beginning) or sweep name; a sweep stands for its last chosen ensemble.

    Raises:
        TrackingError: there is none, or several; the message says what there is.
    """
    client = connect(location)
    with translate_errors(location):
        if _RUN_ID.fullmatch(name) and (run := _get_run(client, name)) is not None:
            return _take(location, run)
        experiment = find_experiment(client, name)
        if experiment is not None:
            return _take(location, _latest_ensemble(location, client, name, experiment))
        query = f"{match_trials()} and tags.{Tag.KEY} LIKE '{name}%'"
        runs = search_everywhere(client, query) if _KEY.fullmatch(name) else []
        keys = sorted({run.data.tags[Tag.KEY] for run in runs})
        if len(keys) > 1:
            some = ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
            raise TrackingError(
                f"{location}: {name!r} is the beginning of {len(keys)} trials' keys: {some}. Give more characters."
            )
        if not keys:
            raise _unknown(location, client, name)
        return _take(location, next((run for run in runs if run.data.tags.get(Tag.STATE) == TrialState.COMPLETE), runs[0]))


def _take(location: TrackingLocation, run: Run) -> FoundModel:
    tags, name = run.data.tags, run.info.run_name or run.info.run_id
    flips: dict[str, str] = {}
    if tags.get(Tag.KIND) == RunKind.ENSEMBLE:
        weights, flips = read_weights(run), read_flips(run)
    elif tags.get(Tag.KIND) == RunKind.TRIAL:
        weights = {tags[Tag.KEY]: 1.0}
    else:
        raise TrackingError(f"{location}: run {run.info.run_id} ({name}) is neither a trial nor an ensemble of `orchestrate`.")
    if tags.get(Tag.STATE) != TrialState.COMPLETE:
        raise TrackingError(
            f"{location}: {name} ({run.info.run_id}) is {tags.get(Tag.STATE, 'unfinished')}; only a COMPLETE one can predict. "
            "Let its sweep finish, or give the path of its checkpoint."
        )
    return FoundModel(name, weights, run_id=run.info.run_id, mean=tags.get(Tag.MEAN, "arithmetic"), flips=flips)


def _get_run(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _latest_ensemble(location: TrackingLocation, client: MlflowClient, sweep: str, experiment: str) -> Run:
    runs = search_runs(client, [experiment], match_tags({Tag.KIND: RunKind.ENSEMBLE, Tag.STATE: TrialState.COMPLETE}))
    chosen = [run for run in runs if Tag.ROW not in run.data.tags]  # of fixed ensembles none is the latest
    if not chosen:
        fixed = "".join(f" Row {run.data.tags[Tag.ROW]} is run {run.info.run_id}." for run in runs)
        raise TrackingError(
            f"{location}: no ensemble was chosen from sweep {sweep} yet. Run `orchestrate best-ensemble {sweep}` "
            f"first, or name one of its runs.{fixed}"
        )
    return max(chosen, key=lambda run: float(run.data.tags.get(Tag.CHOSEN, (run.info.start_time or 0) / 1000)))


def _unknown(location: TrackingLocation, client: MlflowClient, name: str) -> TrackingError:
    sweeps = sorted(found.name for found in all_experiments(client) if is_sweep(found.tags))
    return TrackingError(
        f"{location}: {describe_unknown(name, sweeps, 'sweep')} It is not a run id, a trial key (see "
        "`orchestrate leaderboard --json`) or the path of a checkpoint either."
    )
