"""A pool of candidates -> the report: chosen members, and their cross-fitted gain over the best single candidate."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.results import Result, compare_class_results, compare_results, estimate
from orchestrator.ensemble.evaluation.crossfit import CrossFitting, Fit
from orchestrator.ensemble.evaluation.diversity import drop_each, measure_diversity
from orchestrator.ensemble.evaluation.report import NO_LABELS, CandidateLabels, EnsembleReport, LearnedCombination, TrajectoryStep
from orchestrator.ensemble.selection.pool import DEFAULT_RULES, Pool, SelectionRules, check_size

_EACH = 8
"""Up to so many members, the trajectory has a step for each number; above, for each doubling."""


def evaluate(
    pool: Pool,
    *,
    k: int = 4,
    exactly: bool = False,
    groups: NDArray[np.int64] | None = None,
    rules: SelectionRules = DEFAULT_RULES,
    stack: bool = False,
    labels: CandidateLabels = NO_LABELS,
) -> EnsembleReport:
    """Choose members on all images, and estimate by cross-fitting what such a choice is worth.

    groups: (V,) number of the group of each image; a group is never split between parts, and drawn as a whole. Default: each
    image is a group. stack: whether learned combinations are evaluated too. labels: for the report.

    Raises:
        EnsembleError: k is impossible, or there are too few images to leave some out.
    """
    check_size(k)
    every = np.arange(pool.num_images)
    chosen = pool.select(every, k=k, exactly=exactly, rules=rules)
    crossed = CrossFitting(pool, groups)
    fitted = _fit_sizes(crossed, min(k, len(pool.keys)), exactly=exactly, rules=rules)
    ensemble, single = fitted[max(fitted)], fitted[1]
    singles = pool.rank_singles(every, rules.limits)
    best = int(np.argmax(singles))
    return EnsembleReport(
        members=tuple(pool.keys[i] for i in chosen.members),
        weights=chosen.weights,
        miou_in_sample=chosen.miou,
        cross_fitted=estimate(ensemble, None),
        gain=compare_results(ensemble, single, None),
        trajectory=chosen.trajectory,
        steps=_make_steps(fitted),
        members_in_sample=tuple(singles[i] for i in chosen.members),
        contributions=drop_each(pool, chosen.repeated, groups),
        diversity=measure_diversity(pool, chosen.members),
        class_gains=compare_class_results(ensemble, single),
        class_iou={c: iou for c, iou in enumerate(ensemble.class_ious()[0].tolist()) if math.isfinite(iou)},
        best_single=pool.keys[best],
        best_single_in_sample=singles[best],
        stacks=tuple(_try_stacks(crossed, ensemble, single)) if stack else (),
        num_candidates=len(pool.keys),
        num_images=pool.num_images,
        search=chosen.search,
        reason=chosen.reason,
        mean=pool.mean,
        confusions=ensemble.confusions[0],
        widening=crossed.widening,
        labels=labels,
    )


def _fit_sizes(crossed: CrossFitting, k: int, *, exactly: bool, rules: SelectionRules) -> dict[int, Result]:
    """The cross-fitted result of at most 1, 2, ..., 8, 16, 32, ..., k members."""
    pool = crossed.pool

    def fit(size: int) -> Fit:
        if size == 1:
            return lambda images, part: pool.singles[int(np.argmax(pool.rank_singles(images, rules.limits)))][part]
        return lambda images, part: pool.count(pool.select(images, k=size, exactly=exactly, rules=rules).repeated, part)

    doubled = {_EACH * 2**i for i in range(1, k.bit_length()) if _EACH * 2**i < k}
    return {size: crossed.score(fit(size)) for size in sorted({*range(1, min(k, _EACH) + 1), *doubled, k})}


def _try_stacks(crossed: CrossFitting, chosen: Result, single: Result) -> Iterator[LearnedCombination]:
    from orchestrator.ensemble.evaluation.stacking import STACKS, fit_stack  # scipy.optimize takes a second

    for name, learn in STACKS.items():
        result = crossed.score(fit_stack(crossed.pool, learn))
        gains = (compare_results(result, other, None) for other in (single, chosen))
        yield LearnedCombination(name, estimate(result, None), *gains)


def _make_steps(fitted: dict[int, Result]) -> tuple[TrajectoryStep, ...]:
    steps: list[TrajectoryStep] = []
    for size, result in fitted.items():
        last = compare_results(result, fitted[steps[-1].k], None) if steps else None
        steps.append(TrajectoryStep(size, estimate(result, None), compare_results(result, fitted[1], None), last))
    return tuple(steps)
