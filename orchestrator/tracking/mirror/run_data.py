"""Events and configuration of a trial -> the metrics, params and tags that MLflow shows. Needs no server.

MLflow counts points once that are equal in every field, so a point may be sent again.

MLflow's table shows the value of a metric at its highest step. So the measurements of an epoch are logged as ``epoch/<name>``.
The plain ``<name>`` is the value at the best epoch so far, logged once more when the trial has ended.
Sorting the page by ``val/miou`` therefore sorts it by the trials' results.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mlflow  # noqa: F401  whole, before its parts (see tracking/__init__.py)
from mlflow.entities import Metric

from orchestrator.state.trial.records import FLIPS, OBJECTIVE, Event, TrialResult, TrialSpec
from orchestrator.tracking.tags import SYSTEM, RunKind, Tag, legalize

_MAX_PARAM = 6000
_MAX_TAG = 1000


@dataclass(frozen=True)
class MirroredEpochs:
    """How much of a trial's metrics has been sent."""

    epoch: int = 0
    best: float | None = None


def continue_series(events: Iterable[Event], before: MirroredEpochs) -> tuple[list[Metric], MirroredEpochs]:
    """The points that ``events`` add after ``before``.

    Each epoch counts once: epochs that a resumed attempt trains again are skipped.
    """
    points: list[Metric] = []
    epoch, best = before.epoch, before.best
    for event in events:
        if event.kind != "epoch" or event.epoch is None or event.epoch <= epoch:
            continue
        epoch = event.epoch
        points += _points(event.metrics, time_s=event.time_s, step=epoch, prefix="epoch/")
        value = event.metrics.get(OBJECTIVE, math.nan)
        if value > (-math.inf if best is None else best):
            best = value
            points += _points(event.metrics, time_s=event.time_s, step=epoch)
    return points, MirroredEpochs(epoch=epoch, best=best)


def pick_up_series(sent: Iterable[Metric], events: Iterable[Event]) -> MirroredEpochs:
    """How much of a run's metrics is on the server, according to the server alone; sent: its points of ``epoch/val/miou``.

    Epochs sent by another machine stand when they are trained again here. If the last point equals one of our own events, the
    metrics are ours: they may be sent again from the start, in case a process was killed while sending.
    """
    by_step = {point.step: point for point in sent}
    own = {(event.epoch, round(event.time_s * 1000)) for event in events if event.kind == "epoch"}
    last = by_step.get(max(by_step, default=0))
    if last is None or (last.step, last.timestamp) in own:
        return MirroredEpochs()
    return MirroredEpochs(last.step, max(point.value for point in by_step.values()))


def final_points(result: TrialResult, progress: MirroredEpochs) -> list[Metric]:
    """The trial's result, as the last step of the plain metrics."""
    return _points(result.metrics, time_s=result.ended_s, step=max(result.epochs_run, progress.epoch))


def make_params(spec: TrialSpec) -> dict[str, str]:
    """The configuration under dotted names as in a sweep file; those of the data begin with ``data.``."""
    params: dict[str, str] = {}
    _flatten("", spec.train.model_dump(mode="json"), params)
    is_synthetic = spec.data.source == "synthetic"
    _flatten("data.", spec.data.model_dump(mode="json", exclude=None if is_synthetic else {"synthetic"}), params)
    params["seed"] = str(spec.seed)
    return dict(zip(legalize(params), params.values(), strict=True))


def describe_trial(sweep: str, spec: TrialSpec, *, deviation: str) -> dict[str, str]:
    """Tags that never change, except ``current``."""
    tags: dict[str, str] = {
        Tag.KIND: RunKind.TRIAL,
        Tag.SWEEP: sweep,
        Tag.KEY: spec.key,
        Tag.CONFIGURATION: spec.configuration,
        Tag.DEVIATION: deviation,
        Tag.CURRENT: "true",
        Tag.SEED: str(spec.seed),
        Tag.SOURCE_FINGERPRINT: spec.source_fingerprint,
        Tag.SCHEMA_VERSION: str(spec.schema_version),
    }
    return tags if spec.fold is None else tags | {Tag.FOLD: f"{spec.fold.index}/{spec.fold.count}"}


def describe_events(events: Iterable[Event]) -> dict[str, str]:
    """Tags about the last attempt, and about the last failed one even if a later one succeeded."""
    tags: dict[str, str] = {}
    for event in events:
        facts = dict(event.facts)
        if (origin := facts.pop("origin", None)) is not None:
            tags[Tag.RESUMED_FROM] = str(origin)[:_MAX_TAG]
        tags |= {Tag.ATTEMPT: str(event.attempt)} | describe_system(facts)
        if event.failure is not None:
            tags[Tag.LAST_FAILURE] = f"attempt {event.attempt}, {event.failure.words}: {event.reason}"[:_MAX_TAG]
    return tags


def describe_result(result: TrialResult) -> dict[str, str]:
    """Tags of a trial that has ended; a success clears the reason of an earlier failure."""
    facts = dict(result.facts)
    tags = {
        Tag.STATE: result.state,
        Tag.ATTEMPT: result.attempt,
        Tag.EPOCHS_RUN: result.epochs_run,
        Tag.BEST_EPOCH: result.best_epoch,
        Tag.SCORED_FINGERPRINT: result.scored_fingerprint,
        Tag.FAILURE: result.failure or "",
        Tag.REASON: result.reason or "",
        Tag.FLIPS: facts.pop(FLIPS, ""),  # replaces those of an earlier attempt
    }
    return {str(name): str(value)[:_MAX_TAG] for name, value in tags.items() if value is not None} | describe_system(facts)


def describe_system(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts about the machine and the model, as tags ``system.<name>``."""
    return {f"{SYSTEM}{name}": _text(value)[:_MAX_TAG] for name, value in facts.items()}


def _points(metrics: Mapping[str, float], *, time_s: float, step: int, prefix: str = "") -> list[Metric]:
    """Drops values that are not finite: MLflow would show 1.8e308 for infinity."""
    time_ms = round(time_s * 1000)
    names = legalize(prefix + key for key in metrics)
    named = zip(names, metrics.values(), strict=True)
    return [Metric(name, float(v), time_ms, step) for name, v in named if v is not None and math.isfinite(v)]


def _flatten(prefix: str, value: Mapping[str, Any], into: dict[str, str]) -> None:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            _flatten(f"{prefix}{name}.", item, into)
        else:
            into[prefix + name] = _text(item)[:_MAX_PARAM]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
