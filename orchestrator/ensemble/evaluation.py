"""What the chosen ensemble is worth on images that took no part in choosing it, beside the best single trial chosen likewise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.ensemble.search import SearchName
from orchestrator.ensemble.selection import DEFAULT_SEARCH, Pool, Search, check_size
from orchestrator.errors import EnsembleError
from orchestrator.stats import Difference, Estimate, compare, estimate_miou
from trainers.means import Mean

_NUM_PARTS = 5

_COMBINED: dict[Mean, str] = {
    "arithmetic": "the mean of the probabilities",
    "geometric": "the geometric mean of the probabilities",
    "vote": "votes, the lowest class of equals",
}


@dataclass(frozen=True)
class EnsembleReport:
    """The chosen members, and the honest figures beside the optimistic one. Estimates carry 95 % intervals over images."""

    members: tuple[str, ...]
    """Keys, in the order in which they were chosen."""
    weights: tuple[float, ...]
    miou_in_sample: float
    """On the images that the members were chosen on: optimistic."""
    cross_fitted: Estimate
    """On each part of the images, of the members chosen on the other parts."""
    gain: Difference
    """Cross-fitted, over the best single candidate, which is chosen anew in each part too."""
    trajectory: tuple[float, ...]
    """In sample, of the first 1, 2, ... members that greedy chose."""
    members_in_sample: tuple[float, ...]
    """Of each member alone."""
    best_single: str
    """The best candidate in sample, and its figure there."""
    best_single_in_sample: float
    num_candidates: int
    num_images: int
    search: SearchName
    """The one that was made."""
    reason: str
    """Why that one."""
    mean: Mean = "arithmetic"
    """How members are combined."""
    notes: tuple[str, ...] = ()
    """What else people should know, such as candidates that were left out."""
    names: tuple[str, ...] = ()
    """The members' names for people; empty where there are none but the keys."""
    run_id: str | None = None

    @property
    def miou(self) -> float:
        """The headline: cross-fitted."""
        return self.cross_fitted.value

    @property
    def ci95(self) -> tuple[float, float]:
        return self.cross_fitted.low, self.cross_fitted.high

    def to_json(self) -> dict[str, Any]:
        """The document of ``best-ensemble --json``."""
        return {
            "members": list(self.members),
            "weights": list(self.weights),
            "search": self.search,
            "mean": self.mean,
            "miou_in_sample": self.miou_in_sample,
            "miou": self.miou,
            "ci95": list(self.ci95),
            "gain_over_best_single": self.gain.value,
            "gain_ci95": [self.gain.low, self.gain.high],
            "trajectory": list(self.trajectory),
            "run_id": self.run_id,
        }

    def render(self) -> Group:
        """What ``best-ensemble`` prints for people."""
        table = Table(title=f"Best ensemble: {len(self.members)} of {self.num_candidates} candidates, {self.num_images} images")
        table.add_column("member")
        table.add_column("name", overflow="fold")
        table.add_column("weight", justify="right")
        table.add_column("alone, in sample", justify="right")
        for i, (key, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            name = self.names[i] if self.names else ""
            table.add_row(escape(key), escape(name), f"{weight:.3f}", f"{self.members_in_sample[i]:.4f}")
        return Group(table, *self._sentences())

    def _sentences(self) -> list[str]:
        low, high = self.ci95
        gain = f"{self.gain.value:+.4f} ({self.gain.low:+.4f} to {self.gain.high:+.4f})"
        steps = " ".join(f"{miou:.4f}" for miou in self.trajectory)
        return [
            *self.notes,
            f"Search: {self.search} ({self.reason}). Combined as {_COMBINED[self.mean]}.",
            f"mIoU, cross-fitted: {self.miou:.4f} (95 % interval {low:.4f} to {high:.4f})",
            f"Gain over the best single trial: {gain}: {self._verdict()}.",
            f"In sample: {self.miou_in_sample:.4f}, optimistic: the members were chosen on these images; best single trial "
            f"{self.best_single_in_sample:.4f} ({escape(self.best_single)}); greedy with 1, 2, ... members: {steps}.",
        ]

    def _verdict(self) -> str:
        if self.gain.low > 0:
            return f"positive in {self.gain.probability:.1%} of the resamples"
        if self.gain.high < 0:
            return "the ensemble is worse; take the single trial"
        return f"no evidence of a gain; positive in {self.gain.probability:.0%} of the resamples"


def evaluate(
    pool: Pool,
    *,
    k: int = 4,
    exactly: bool = False,
    groups: NDArray[np.int64] | None = None,
    search: Search = DEFAULT_SEARCH,
) -> EnsembleReport:
    """Choose members on all images, and find out by cross-fitting what such a choice is worth.

    groups: (V,) number of the group of each image; a group is never split between parts. Default: each image is its own.

    Raises:
        EnsembleError: k is impossible, or there are too few images to leave some out.
    """
    check_size(k)
    if exactly and k > len(pool.keys):
        raise EnsembleError(f"exactly {k} members asked for, but there are only {len(pool.keys)} distinct candidates.")
    every = np.arange(pool.num_images)
    chosen = pool.select(every, k=k, exactly=exactly, search=search)
    ensemble, single = _cross_fit(pool, _make_parts(pool.num_images, groups), k=k, exactly=exactly, search=search)
    singles = pool.rank_singles(every)
    best = int(np.argmax(singles))
    return EnsembleReport(
        members=tuple(pool.keys[i] for i in chosen.members),
        weights=chosen.weights,
        miou_in_sample=chosen.miou,
        cross_fitted=estimate_miou(ensemble, pool.ignore_classes),
        gain=compare(ensemble, single, pool.ignore_classes),
        trajectory=chosen.trajectory,
        members_in_sample=tuple(singles[i] for i in chosen.members),
        best_single=pool.keys[best],
        best_single_in_sample=singles[best],
        num_candidates=len(pool.keys),
        num_images=pool.num_images,
        search=chosen.search,
        reason=chosen.reason,
        mean=pool.mean,
    )


def _cross_fit(
    pool: Pool, parts: list[NDArray[np.int64]], *, k: int, exactly: bool, search: Search
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Confusion matrices (V, C, C) of the ensemble and of the best single, each image's from choices made without its part."""
    ensemble = np.zeros((pool.num_images, pool.num_classes, pool.num_classes), np.int64)
    single = np.zeros_like(ensemble)
    for part in parts:
        others = np.setdiff1d(np.arange(pool.num_images), part)
        ensemble[part] = pool.count(pool.select(others, k=k, exactly=exactly, search=search).repeated, part)
        single[part] = pool.singles[int(np.argmax(pool.rank_singles(others)))][part]
    return ensemble, single


def _make_parts(num_images: int, groups: NDArray[np.int64] | None) -> list[NDArray[np.int64]]:
    """Images of each part, in ascending order; the same for the same groups."""
    numbers, group_of = np.unique(np.arange(num_images) if groups is None else groups, return_inverse=True)
    if len(numbers) < 2:
        raise EnsembleError(
            f"{len(numbers)} group of validation images: cross-fitting needs at least 2. Validate on more images."
        )
    num_parts = min(_NUM_PARTS, len(numbers))
    shuffled = np.random.default_rng(0).permutation(len(numbers))
    part_of = np.empty(len(numbers), np.int64)
    part_of[shuffled] = np.arange(len(numbers)) % num_parts
    return [np.flatnonzero(part_of[group_of] == part) for part in range(num_parts)]
