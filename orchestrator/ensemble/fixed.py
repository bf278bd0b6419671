"""The ensembles that a sweep file names: their state, their evaluation once all members are done, and their record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.analysis.results import name_joined
from orchestrator.ensemble.candidates import join_predictions
from orchestrator.ensemble.fixed_evaluation import FixedResult, evaluate_fixed, evaluation_folder, find_evaluation
from orchestrator.errors import EnsembleError, TrackingError
from orchestrator.planning.plan import Plan, PlannedEnsemble
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.tags import EnsembleRecord, Tag, make_row_tags

DONE = (TrialState.COMPLETE, TrialState.CACHED)


class EnsembleState(StrEnum):
    """State of a fixed ensemble. CACHED: evaluated by an earlier run of the sweep."""

    WAITING = "WAITING"
    """For members that are still to be trained."""
    COMPLETE = "COMPLETE"
    CACHED = "CACHED"
    MISSING = "MISSING"
    """A member has failed, was not planned, or has lost its predictions."""
    REFUSED = "REFUSED"
    """The members cannot be combined."""


@dataclass(frozen=True)
class MemberTrial:
    """State of a member's trial. result: if it is done."""

    state: TrialState
    result: TrialResult | None = None
    reason: str | None = None


@dataclass(frozen=True)
class EnsembleOutcome:
    """State and result of a fixed ensemble. folder: of its evaluation."""

    planned: PlannedEnsemble
    state: EnsembleState
    reason: str | None = None
    result: FixedResult | None = None
    folder: Path | None = None

    @property
    def keys(self) -> list[str]:
        """Of the planned members."""
        return [trial.spec.key for trial in self.planned.members]

    @property
    def class_iou(self) -> dict[str, float]:
        """Class name -> IoU, of the classes that have one."""
        pairs = zip(self.planned.class_names, self.result.class_iou, strict=True) if self.result else ()
        return {name: iou for name, iou in pairs if math.isfinite(iou)}

    def to_json(self) -> dict[str, Any]:
        """Members and state, as in ``sweep --plan --json``."""
        return {
            "id": self.planned.id,
            "name": self.planned.title,
            "rows": list(self.planned.rows),
            "members": self.keys,
            "seed": self.planned.seed,
            "state": self.state,
            "reason": self.reason,
        }

    def to_json_with_result(self, run_id: str | None) -> dict[str, Any]:
        """The same with the result, as in ``sweep --json``; null where it is not evaluated."""
        result = self.result
        return self.to_json() | {
            "miou": _finite(result.miou) if result else None,
            "ci95": _bounds(result.ci95) if result else None,
            "class_iou": self.class_iou,
            "best_member": result.best_member if result else None,
            "gain_over_best_member": _finite(result.gain_over_best_member) if result else None,
            "gain_ci95": _bounds(result.gain_ci95) if result else None,
            "reported": self.planned.reported,
            "run_id": run_id,
        }


def look_up_ensembles(plan: Plan, home: Home) -> list[EnsembleOutcome]:
    """The ensembles of a plan with their state; evaluates nothing."""
    members = {}
    for trial in plan.trials:
        result = TrialFolder(home.trial_folder(trial.spec.key)).result()
        members[trial.spec.key] = MemberTrial(trial.state, result, result.reason if result else None)
    return [_look_up(ensemble, members, home.cache) for ensemble in plan.ensembles]


def evaluate_ensembles(
    plan: Plan, members: Mapping[str, MemberTrial], *, cache: Path, find_predictions: Callable[[TrialSpec], Path]
) -> list[EnsembleOutcome]:
    """Evaluate every ensemble whose members are all done, unless an earlier run of the sweep has.

    members: key -> its trial. cache: folder for evaluations and unpacked predictions. find_predictions: finds the folder with a
    finished trial's predictions; may raise TrackingError.
    """
    found = []
    for ensemble in plan.ensembles:
        outcome = _look_up(ensemble, members, cache)
        if outcome.state is EnsembleState.WAITING and outcome.folder is not None:
            outcome = _evaluate(outcome, outcome.folder, cache=cache, find_predictions=find_predictions)
        found.append(outcome)
    return found


def make_record(outcome: EnsembleOutcome) -> EnsembleRecord:
    """What the ensemble's run records, even if it could not be evaluated."""
    planned, result = outcome.planned, outcome.result
    optional = {Tag.SEED: planned.seed, Tag.ROWS: ",".join(map(str, planned.rows))}
    if result is not None:
        optional |= {Tag.SCORED_FINGERPRINT: result.scored_fingerprint, Tag.BEST_MEMBER: result.best_member}
    tags = make_row_tags(str(planned.id), planned.reported)
    tags |= {name: str(value) for name, value in optional.items() if value is not None}
    weights = {key: 1 / len(outcome.keys) for key in outcome.keys}
    document: dict[str, Any] = {"row": planned.id, "rows": list(planned.rows), "seed": planned.seed, "members": outcome.keys}
    if result is None:
        reason = outcome.reason or "not evaluated"
        return EnsembleRecord(planned.title, weights, {}, document | {"reason": reason}, tags, reason=reason)
    metrics = {OBJECTIVE: result.miou, "gain_over_best_member": result.gain_over_best_member}
    metrics |= {f"val/iou/{name}": iou for name, iou in outcome.class_iou.items()}
    document |= result.model_dump(mode="json", exclude={"class_iou"})
    document |= {"class_iou": outcome.class_iou, "weights": list(weights.values())}
    assert outcome.folder is not None, "an evaluation has a folder"
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return EnsembleRecord(planned.title, weights, finite, document, tags, files=(outcome.folder / "confusions.npz",))


def _look_up(ensemble: PlannedEnsemble, members: Mapping[str, MemberTrial], cache: Path) -> EnsembleOutcome:
    """Its state by its members and by earlier evaluations; with ``folder`` if it can be evaluated."""
    if (judged := _judge_members(ensemble, members)) is not None:
        return EnsembleOutcome(ensemble, *judged)
    keys = [trial.spec.key for trial in ensemble.members]
    results = [result for key in keys if (result := members[key].result) is not None]
    folder = evaluation_folder(cache, keys, [result.scored_fingerprint or "" for result in results])
    known = find_evaluation(folder, keys)
    state = EnsembleState.WAITING if known is None else EnsembleState.CACHED
    return EnsembleOutcome(ensemble, state, result=known, folder=folder)


def _judge_members(ensemble: PlannedEnsemble, members: Mapping[str, MemberTrial]) -> tuple[EnsembleState, str] | None:
    """Why it cannot be evaluated (yet), with the members concerned; None if it can."""
    unplanned = [f"row {row} is not in the plan: the budget ends before it" for row in ensemble.missing]
    waiting, lost = [], unplanned
    for trial in ensemble.members:
        member = members.get(trial.spec.key, MemberTrial(TrialState.WAITING))
        if member.state in (TrialState.FAILED, TrialState.PRUNED):
            lost.append(f"{trial.spec.name} is {member.state}" + (f" ({member.reason})" if member.reason else ""))
        elif member.state not in DONE or member.result is None:
            waiting.append(trial.spec.name)
    if lost:
        return EnsembleState.MISSING, "; ".join(lost)
    return (EnsembleState.WAITING, f"waits for {', '.join(waiting)}") if waiting else None


def _evaluate(
    outcome: EnsembleOutcome, folder: Path, *, cache: Path, find_predictions: Callable[[TrialSpec], Path]
) -> EnsembleOutcome:
    members = _join_folds([trial.spec for trial in outcome.planned.members])
    unpacked = cache / "predictions"
    try:
        result = evaluate_fixed(
            {key: join_predictions([find_predictions(spec) for spec in specs], unpacked) for key, specs in members.items()},
            names={key: specs[0].name for key, specs in members.items()},
            folder=folder,
            cache=unpacked,
        )
    except TrackingError as error:
        return EnsembleOutcome(outcome.planned, EnsembleState.MISSING, str(error))
    except EnsembleError as error:
        return EnsembleOutcome(outcome.planned, EnsembleState.REFUSED, str(error))
    result = result.model_copy(update={"members": tuple(outcome.keys)})
    return EnsembleOutcome(outcome.planned, EnsembleState.COMPLETE, result=result, folder=folder)


def _join_folds(specs: Sequence[TrialSpec]) -> dict[str, list[TrialSpec]]:
    """Key of a member -> its trials: one, or all folds of a configuration and seed in order."""
    members: dict[str, list[TrialSpec]] = {}
    for spec in sorted(specs, key=lambda spec: spec.fold.index if spec.fold else 0):  # stable: else as in the file
        key = name_joined(spec.configuration, spec.seed) if spec.fold else spec.key
        members.setdefault(key, []).append(spec)
    return members


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bounds(pair: tuple[float, float]) -> list[float] | None:
    return list(pair) if all(math.isfinite(bound) for bound in pair) else None
