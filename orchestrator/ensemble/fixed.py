"""The ensembles that a sweep file names: their state, what they are worth once all members are done, and their record.

No member is chosen on the images that it is scored on, so there is no cross-fitting. Only the best member, with which the mean is
compared, is chosen on them, so the gain over it is, if anything, too small.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from orchestrator.analysis.results import Result, compare_results, estimate, name_joined
from orchestrator.analysis.stats import sum_groups
from orchestrator.analysis.trials import group_by
from orchestrator.ensemble.candidates import join_predictions
from orchestrator.errors import EnsembleError, TrackingError
from orchestrator.planning.plan import Plan, PlannedEnsemble
from orchestrator.state.files import write_atomically
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.outputs import read_info, write_confusions
from orchestrator.state.trial.records import OBJECTIVE, Record, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.tags import EnsembleRecord, Tag, make_row_tags

EVALUATION_VERSION = 2
"""Raised by hand when the same predictions would give another result."""

RESULT_FILE, CONFUSIONS_FILE = "result.json", "confusions.npz"
"""In the folder of an evaluation."""


class FixedResult(Record):
    """An evaluated ensemble, on all validation images; CIs are 95 % and over images."""

    kind: Literal["fixed"] = "fixed"
    members: tuple[str, ...]
    """Keys, of equal weight: of a trial each, or with folds of a configuration and seed."""
    scored_fingerprint: str
    num_images: int
    miou: float
    ci95: tuple[float, float]
    class_iou: tuple[float, ...]
    """Of each class; NaN for a class that is not scored."""
    best_member: str
    best_member_miou: float
    gain_over_best_member: float
    gain_ci95: tuple[float, float]
    """Of the paired difference."""


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
    document |= result.model_dump(mode="json", exclude={"class_iou", "members"})
    document |= {"class_iou": outcome.class_iou, "weights": list(weights.values())}
    assert outcome.folder is not None, "an evaluation has a folder"
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return EnsembleRecord(planned.title, weights, finite, document, tags, files=(outcome.folder / CONFUSIONS_FILE,))


def _look_up(ensemble: PlannedEnsemble, members: Mapping[str, MemberTrial], cache: Path) -> EnsembleOutcome:
    """Its state by its members and by earlier evaluations; with ``folder`` if it can be evaluated."""
    if (judged := _judge_members(ensemble, members)) is not None:
        return EnsembleOutcome(ensemble, *judged)
    keys = [trial.spec.key for trial in ensemble.members]
    scored = {result.scored_fingerprint or "" for key in keys if (result := members[key].result) is not None}
    identity = {"members": sorted(keys), "scored": sorted(scored), "version": EVALUATION_VERSION}
    folder = cache / "ensembles" / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    try:
        known = FixedResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):  # it takes seconds to evaluate again
        return EnsembleOutcome(ensemble, EnsembleState.WAITING, folder=folder)
    return EnsembleOutcome(ensemble, EnsembleState.CACHED, result=known, folder=folder)


def _judge_members(ensemble: PlannedEnsemble, members: Mapping[str, MemberTrial]) -> tuple[EnsembleState, str] | None:
    """Why it cannot be evaluated (yet), with the members concerned; None if it can."""
    waiting, lost = [], [f"row {row} is not in the plan: the budget ends before it" for row in ensemble.missing]
    for trial in ensemble.members:
        member = members.get(trial.spec.key, MemberTrial(TrialState.WAITING))
        if member.state in (TrialState.FAILED, TrialState.PRUNED):
            lost.append(f"{trial.spec.name} is {member.state}" + (f" ({member.reason})" if member.reason else ""))
        elif member.state not in (TrialState.COMPLETE, TrialState.CACHED) or member.result is None:
            waiting.append(trial.spec.name)
    if lost:
        return EnsembleState.MISSING, "; ".join(lost)
    return (EnsembleState.WAITING, f"waits for {', '.join(waiting)}") if waiting else None


def _evaluate(
    outcome: EnsembleOutcome, folder: Path, *, cache: Path, find_predictions: Callable[[TrialSpec], Path]
) -> EnsembleOutcome:
    specs = [trial.spec for trial in outcome.planned.members]
    specs.sort(key=lambda spec: spec.fold.index if spec.fold else 0)  # stable: else as in the file
    by_member = group_by(specs, lambda spec: name_joined(spec.configuration, spec.seed) if spec.fold else spec.key)
    unpacked = cache / "predictions"
    try:
        result = evaluate_fixed(
            {key: join_predictions([find_predictions(spec) for spec in folds], unpacked) for key, folds in by_member.items()},
            names={key: folds[0].name for key, folds in by_member.items()},
            folder=folder,
            cache=unpacked,
        )
    except TrackingError as error:
        return EnsembleOutcome(outcome.planned, EnsembleState.MISSING, str(error))
    except EnsembleError as error:
        return EnsembleOutcome(outcome.planned, EnsembleState.REFUSED, str(error))
    return EnsembleOutcome(outcome.planned, EnsembleState.COMPLETE, result=result, folder=folder)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _bounds(pair: tuple[float, float]) -> list[float] | None:
    return list(pair) if all(math.isfinite(bound) for bound in pair) else None


def evaluate_fixed(predictions: Mapping[str, Path], *, names: Mapping[str, str], folder: Path, cache: Path) -> FixedResult:
    """Score the mean of the members' stored probabilities, and store the result in ``folder``.

    predictions: key -> folder with the member's predictions. names: key -> name, for messages. cache: for unpacked predictions.

    Raises:
        EnsembleError: the members were not scored on the same images, labels and classes, or a file is damaged.
    """
    from orchestrator.ensemble.pooling import load_pool, read_groups  # numba takes a second
    from orchestrator.ensemble.selection.pool import check_size

    keys = list(predictions)
    check_size(len(keys))
    pool = load_pool(keys, list(predictions.values()), cache, names=[names[key] for key in keys])
    every = np.arange(pool.num_images)
    mean = pool.count([pool.positions[key] for key in keys], every)
    singles = [pool.singles[pool.positions[key]] for key in keys]
    scores = pool.rank_singles(every)
    best = max(range(len(keys)), key=lambda i: scores[pool.positions[keys[i]]])  # the first of equals
    groups = read_groups(list(predictions.values()))
    ensemble, single = (Result.of(sum_groups(matrices, groups), pool.ignore_classes) for matrices in (mean, singles[best]))
    gain = compare_results(ensemble, single, None)
    result = FixedResult(
        members=tuple(keys),
        scored_fingerprint=read_info(predictions[keys[0]]).scored_fingerprint,
        num_images=pool.num_images,
        miou=ensemble.miou,
        ci95=estimate(ensemble, None).ci95,
        class_iou=tuple(ensemble.class_ious()[0].tolist()),
        best_member=keys[best],
        best_member_miou=scores[pool.positions[keys[best]]],
        gain_over_best_member=gain.value,
        gain_ci95=gain.ci95,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_confusions(folder / CONFUSIONS_FILE, ensemble.confusions[0], ignore_classes=pool.ignore_classes)
    text = result.model_dump_json(indent=1)
    write_atomically(folder / RESULT_FILE, text)  # last: its presence means that the folder is complete
    return result
