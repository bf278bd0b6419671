"""Trials of one configuration -> one result that can be compared: folds of a seed joined, its seeds side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.confusions import Matrices, join_marks
from orchestrator.analysis.stats import (
    Difference,
    Estimate,
    Spread,
    compute_class_iou,
    find_bounds,
    judge,
    pool_spread,
    resample_classes,
    vary_seeds,
)
from orchestrator.analysis.trials import Entry, strip_seed


@dataclass(frozen=True)
class Scored:
    """What a configuration, a single trial or an ensemble scored. Equal ``fingerprints`` mean the same images in order.

    samples: of each seed its matrices, those of all folds one after another.
    fingerprints: of what each fold was scored on. left_out: names of trials that lack a fold or have no matrices.
    """

    name: str
    samples: tuple[Matrices, ...]
    fingerprints: tuple[str, ...]
    keys: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    class_names: Mapping[int, str] = field(default_factory=dict)
    widening: float = 1
    """Of intervals of differences to it: 1, or more where it was chosen on these images by cross-fitting."""

    @property
    def confusions(self) -> tuple[NDArray[np.integer], ...]:
        """Of each seed (V, C, C), V images or groups of them."""
        return tuple(sample.confusions for sample in self.samples)

    @property
    def ignore_classes(self) -> tuple[int, ...]:
        return self.samples[0].ignore_classes

    @property
    def mious(self) -> tuple[float, ...]:
        """Of each seed."""
        return tuple(sample.miou for sample in self.samples)

    @property
    def miou(self) -> float:
        """The mean over seeds."""
        return fmean(self.mious)

    @cached_property
    def replicates(self) -> NDArray[np.float64]:
        """The mean over seeds, drawn from bootstrap samples of the images, (R,): paired among results on the same images."""
        drawn: NDArray[np.float64] = np.mean([sample.replicates for sample in self.samples], axis=0)
        return drawn

    def resample_classes(self) -> NDArray[np.float64]:
        """Draw each class's IoU in the same way: (R, C)."""
        drawn: NDArray[np.float64] = np.mean([resample_classes(one, self.ignore_classes) for one in self.confusions], axis=0)
        return drawn

    def class_ious(self) -> NDArray[np.float64]:
        """Of each seed, (S, C)."""
        return np.stack([compute_class_iou(one, self.ignore_classes) for one in self.confusions])


def score_trial(entry: Entry) -> Scored | None:
    """What one trial scored, be it a fold or not; None where its matrices were not kept."""
    if not entry.is_done or entry.matrices is None:
        return None
    return Scored(
        name=entry.name,
        samples=(entry.matrices,),
        fingerprints=(entry.scored_fingerprint or "",),
        keys=(entry.key,),
        seeds=(entry.seed or 0,),
    )


def join_trials(entries: Sequence[Entry]) -> Scored | None:
    """What finished trials of one configuration scored together; None where no seed has all its folds."""
    by_seed: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.is_done and entry.matrices is not None:
            by_seed[entry.seed or 0].append(entry)
    whole = {seed: _in_order(folds) for seed, folds in sorted(by_seed.items()) if _is_whole(folds)}
    if not whole:
        return None
    scored_on = Counter(tuple(e.scored_fingerprint or "" for e in folds) for folds in whole.values())
    fingerprints = max(scored_on, key=lambda prints: (scored_on[prints], prints))
    kept = {seed: folds for seed, folds in whole.items() if tuple(e.scored_fingerprint or "" for e in folds) == fingerprints}
    used = [entry for folds in kept.values() for entry in folds]
    keys = {entry.key for entry in used}
    return Scored(
        name=strip_seed(used[0].name),
        samples=tuple(Matrices.join([e.matrices for e in folds if e.matrices is not None]) for folds in kept.values()),
        fingerprints=fingerprints,
        keys=tuple(entry.key for entry in used),
        seeds=tuple(kept),
        left_out=tuple(entry.name for entry in entries if entry.key not in keys),
    )


def find_spread(results: Iterable[Scored]) -> Spread | None:
    """How far seeds lie apart, by all these results together."""
    return pool_spread([result.mious for result in results])


def estimate(result: Scored, spread: Spread | None) -> Estimate:
    """The mean over seeds with its interval over images and, where ``spread`` knows of them, seeds."""
    mark = join_marks(result.samples, spread)
    low, high = result.samples[0].recall(
        "ci95", mark, lambda: find_bounds(result.replicates + vary_seeds(spread, [len(result.samples)]))
    )
    return Estimate(result.miou, low, high)


def compare_results(first: Scored, second: Scored, spread: Spread | None) -> Difference:
    """Subtract the second mean over seeds from the first, both on the same images: paired over images, not over seeds."""
    assert first.fingerprints == second.fingerprints, (first.fingerprints, second.fingerprints)
    widening = max(first.widening, second.widening)

    def find() -> tuple[float, float, float, float]:
        seeds = vary_seeds(spread, [len(first.samples), len(second.samples)])
        value, drawn = first.miou - second.miou, first.replicates - second.replicates
        return astuple(judge(value, value + widening * (drawn - value) + seeds))

    mark = join_marks((*first.samples, *second.samples), len(first.samples), spread, widening)
    return Difference(*first.samples[0].recall("difference", mark, find))


def compare_class_results(first: Scored, second: Scored) -> dict[int, Difference]:
    """The same of each class's IoU, of the classes that both have; seeds of a class lie as far apart as these two say."""
    assert first.fingerprints == second.fingerprints, (first.fingerprints, second.fingerprints)
    ious = [result.class_ious() for result in (first, second)]
    values = ious[0].mean(axis=0) - ious[1].mean(axis=0)
    drawn = values + max(first.widening, second.widening) * (first.resample_classes() - second.resample_classes() - values)
    found = {}
    for c in np.flatnonzero(np.isfinite(values)).tolist():
        spread = pool_spread([seeds[:, c].tolist() for seeds in ious])
        found[c] = judge(float(values[c]), drawn[:, c] + vary_seeds(spread, [len(seeds) for seeds in ious]))
    return found


def _is_whole(folds: Sequence[Entry]) -> bool:
    """Whether a seed has each of its folds once; without folds there is just one trial."""
    count = folds[0].fold[1] if folds[0].fold else 1
    return len(folds) == count and len({entry.fold for entry in folds}) == count


def _in_order(folds: Sequence[Entry]) -> list[Entry]:
    return sorted(folds, key=lambda entry: entry.fold or (0, 1))


def name_joined(configuration: str, seed: str | int) -> str:
    """The key of all folds of a configuration and seed together."""
    return f"{configuration}-{seed}"
