"""Events and configuration of a trial -> the metrics, params and tags that MLflow shows; knows no server.

MLflow's table shows of every metric the value at the highest step. So what an epoch measured is logged as ``epoch/<name>``,
while the plain ``<name>`` is what it was at the best epoch so far: ``val/miou`` rises in steps, and its last value, logged once
more when the trial has ended, is the trial's. Sorting the page by ``val/miou`` is sorting by the figure of merit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.state.trial.records import FLIPS, OBJECTIVE, Event, TrialResult, TrialSpec
from orchestrator.tracking.tags import SYSTEM, RunKind, Tag, legalize

_MAX_PARAM = 6000
_MAX_TAG = 1000


@dataclass(frozen=True)
class Point:
    """One value of one metric; points that are equal in every field count once in MLflow."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Progress:
    """How far a trial's series has been told."""

    epoch: int = 0
    best: float | None = None


def continue_series(events: Iterable[Event], before: Progress) -> tuple[list[Point], Progress]:
    """The points that ``events`` add after ``before``.

    An epoch counts once: what a resumed attempt trains again after its checkpoint is passed over.
    """
    points: list[Point] = []
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
    return points, Progress(epoch=epoch, best=best)


def pick_up_series(told: Iterable[Point], events: Iterable[Event]) -> Progress:
    """How far a run's series has been told, of which only the server knows; told: the points of ``epoch/val/miou``.

    What another machine told of an epoch stands when it is trained again here. A series that ends as our own events do is ours:
    it may be told again from its beginning, in case somebody was killed while he told it.
    """
    by_step = {point.step: point for point in told}
    own = {(event.epoch, round(event.time_s * 1000)) for event in events if event.kind == "epoch"}
    last = by_step.get(max(by_step, default=0))
    if last is None or (last.step, last.time_ms) in own:
        return Progress()
    return Progress(last.step, max(point.value for point in by_step.values()))


def headline(result: TrialResult, progress: Progress) -> list[Point]:
    """The trial's own figures, as the last step of the plain metrics."""
    return _points(result.metrics, time_s=result.ended_s, step=max(result.epochs_run, progress.epoch))


def make_params(spec: TrialSpec) -> dict[str, str]:
    """The configuration with dotted names, as a sweep file spells them; data with ``data.`` before."""
    params: dict[str, str] = {}
    _flatten("", spec.train.model_dump(mode="json"), params)
    is_synthetic = spec.data.source == "synthetic"
    _flatten("data.", spec.data.model_dump(mode="json", exclude=None if is_synthetic else {"synthetic"}), params)
    params["seed"] = str(spec.seed)
    return dict(zip(legalize(params), params.values(), strict=True))


def describe_trial(sweep: str, spec: TrialSpec, *, deviation: str) -> dict[str, str]:
    """Tags that never change, but for ``current``."""
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
    """Tags about the last attempt; and about the last that failed, though a later one may have come to its end."""
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
    """Tags of a trial that has ended, and of what it left; a success takes the reason of an earlier failure away."""
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


def _points(metrics: Mapping[str, float], *, time_s: float, step: int, prefix: str = "") -> list[Point]:
    """Without what is not finite: MLflow would show 1.8e308 for infinity."""
    time_ms = round(time_s * 1000)
    names = legalize(prefix + key for key in metrics)
    named = zip(names, metrics.values(), strict=True)
    return [Point(name, float(v), time_ms, step) for name, v in named if v is not None and math.isfinite(v)]


def _flatten(prefix: str, value: Mapping[str, Any], into: dict[str, str]) -> None:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            _flatten(f"{prefix}{name}.", item, into)
        else:
            into[prefix + name] = _text(item)[:_MAX_PARAM]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
