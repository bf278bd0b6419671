"""Run id, trial key or sweep name -> the trials that a model consists of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.errors import TrackingError
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.row import RunRow
from orchestrator.tracking.reader.source import RunSource, open_source
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
    source = open_source(location)
    with translate_errors(location):
        if _RUN_ID.fullmatch(name) and (run := source.find_run(name)) is not None:
            return _make_model(location, run)
        experiment = source.find_experiment(name)
        if experiment is not None:
            return _make_model(location, _find_latest_ensemble(location, source, name, experiment))
        experiments = source.list_experiments()
        query = f"{match_trials()} and tags.{Tag.KEY} LIKE '{name}%'"
        runs = source.search([found.experiment_id for found in experiments], query) if _KEY.fullmatch(name) else []
        keys = sorted({run.key for run in runs})
        if len(keys) > 1:
            some = ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else "")
            raise TrackingError(
                f"{location}: {name!r} is the beginning of {len(keys)} trials' keys: {some}. Give more characters."
            )
        if not keys:
            sweeps = sorted(found.name for found in experiments if is_sweep(found.tags))
            raise TrackingError(
                f"{location}: {describe_unknown(name, sweeps, 'sweep')} It is not a run id, a trial key (see "
                "`orchestrate leaderboard --json`) or the path of a checkpoint either."
            )
        return _make_model(location, next((run for run in runs if run.state == TrialState.COMPLETE), runs[0]))


def _make_model(location: TrackingLocation, run: RunRow) -> FoundModel:
    flips: dict[str, str] = {}
    if run.tags.get(Tag.KIND) == RunKind.ENSEMBLE:
        weights, flips = read_weights(run.params), read_flips(run.params)
    elif run.tags.get(Tag.KIND) == RunKind.TRIAL:
        weights = {run.key: 1.0}
    else:
        raise TrackingError(f"{location}: run {run.run_id} ({run.name}) is neither a trial nor an ensemble of `orchestrate`.")
    if run.state != TrialState.COMPLETE:
        raise TrackingError(
            f"{location}: {run.name} ({run.run_id}) is {run.state or 'unfinished'}; only a COMPLETE one can predict. "
            "Let its sweep finish, or give the path of its checkpoint."
        )
    return FoundModel(run.name, weights, run.run_id, run.tags.get(Tag.MEAN, "arithmetic"), flips)


def _find_latest_ensemble(location: TrackingLocation, source: RunSource, sweep: str, experiment: str) -> RunRow:
    runs = source.search([experiment], match_tags({Tag.KIND: RunKind.ENSEMBLE, Tag.STATE: TrialState.COMPLETE}))
    chosen = [run for run in runs if Tag.ROW not in run.tags]  # of fixed ensembles none is the latest
    if not chosen:
        fixed = "".join(f" Row {run.tags[Tag.ROW]} is run {run.run_id}." for run in runs)
        raise TrackingError(
            f"{location}: no ensemble was chosen from sweep {sweep} yet. Run `orchestrate best-ensemble {sweep}` "
            f"first, or name one of its runs.{fixed}"
        )
    return max(chosen, key=lambda run: float(run.tags.get(Tag.CHOSEN, run.start_s)))
