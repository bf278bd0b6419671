"""What the chosen ensemble is worth on images that took no part in choosing it, beside the best single trial chosen likewise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.crossfit import Choose, cross_fit, fit_ensemble, fit_single, make_parts
from orchestrator.ensemble.diversity import drop_each, measure_diversity
from orchestrator.ensemble.report import EnsembleReport, Step
from orchestrator.ensemble.selection import Pool, check_size
from orchestrator.errors import EnsembleError
from orchestrator.stats import compare, compare_classes, compute_class_iou, estimate_miou, sum_groups

_EACH = 8
"""Up to so many members the trajectory has a step for each number of them, from there on at each doubling."""


def evaluate(pool: Pool, *, k: int = 4, exactly: bool = False, groups: NDArray[np.int64] | None = None) -> EnsembleReport:
    """Choose members on all images, and find out by cross-fitting what such a choice is worth.

    groups: (V,) number of the group of each image; a group is never split between parts, and drawn as a whole. Default: each
    image is its own.

    Raises:
        EnsembleError: k is impossible, or there are too few images to leave some out.
    """
    check_size(k)
    if exactly and k > len(pool.keys):
        raise EnsembleError(f"exactly {k} members asked for, but there are only {len(pool.keys)} distinct candidates.")
    every = np.arange(pool.num_images)
    chosen = pool.select(every, k=k, exactly=exactly)
    sizes = _list_sizes(min(k, len(pool.keys)))
    fitted = _cross_fit_each(pool, lambda images, size: pool.select(images, k=size, exactly=exactly).members, sizes, groups)
    ensemble, single = fitted[max(fitted)], fitted[1]
    singles = pool.rank_singles(every)
    best = int(np.argmax(singles))
    return EnsembleReport(
        members=tuple(pool.keys[i] for i in chosen.members),
        weights=(1 / len(chosen.members),) * len(chosen.members),
        miou_in_sample=chosen.miou,
        cross_fitted=estimate_miou(ensemble, pool.ignore_classes),
        gain=compare(ensemble, single, pool.ignore_classes),
        trajectory=chosen.trajectory,
        steps=_make_steps(fitted, pool.ignore_classes),
        members_in_sample=tuple(singles[i] for i in chosen.members),
        contributions=drop_each(pool, chosen.members, groups),
        diversity=measure_diversity(pool, chosen.members),
        class_gains=compare_classes(ensemble, single, pool.ignore_classes),
        class_iou=_find_class_iou(ensemble, pool.ignore_classes),
        best_single=pool.keys[best],
        best_single_in_sample=singles[best],
        num_candidates=len(pool.keys),
        num_images=pool.num_images,
        confusions=ensemble,
    )


def _list_sizes(k: int) -> list[int]:
    """1, 2, ..., 8, 16, 32, ..., k."""
    doubled = [_EACH * 2**i for i in range(1, k.bit_length()) if _EACH * 2**i < k]
    return sorted({*range(1, min(k, _EACH) + 1), *doubled, k})


def _cross_fit_each(
    pool: Pool, choose: Choose, sizes: list[int], groups: NDArray[np.int64] | None
) -> dict[int, NDArray[np.integer]]:
    """Number of members at most -> matrices (G, C, C), by group, of the ensemble so chosen; 1 is the best single candidate."""
    parts = make_parts(pool.num_images, groups)
    fits = {size: fit_single(pool) if size == 1 else fit_ensemble(pool, choose, size) for size in sizes}
    return {size: sum_groups(cross_fit(pool, parts, fit), groups) for size, fit in fits.items()}


def _find_class_iou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> dict[int, float]:
    ious = compute_class_iou(confusions, ignore_classes)
    return {int(c): float(ious[c]) for c in np.flatnonzero(np.isfinite(ious))}


def _make_steps(fitted: dict[int, NDArray[np.integer]], ignore_classes: tuple[int, ...]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for size, confusions in fitted.items():
        figure = estimate_miou(confusions, ignore_classes)
        gain = compare(confusions, fitted[1], ignore_classes)
        last = compare(confusions, fitted[steps[-1].k], ignore_classes) if steps else None
        steps.append(Step(size, figure, gain, last))
    return tuple(steps)
