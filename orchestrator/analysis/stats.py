"""Confusion matrices per image -> mIoU, its interval, and whether two results differ; knows no runs.

Wherever images belong together (a scene, near duplicates), ``sum_groups`` first: a group is then drawn as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainers.metrics import class_iou, mean_iou

NUM_REPLICATES = 2000
_LEVEL = 95.0


@dataclass(frozen=True)
class Estimate:
    """A figure and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much higher a first value is than a second one on the same images, with its 95 % interval."""

    value: float
    low: float
    high: float
    probability: float
    """Share of the replicates in which the first is higher; ties count half."""

    @property
    def has_evidence(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Spread:
    """How far seeds of one configuration lie apart: a standard deviation, and the degrees of freedom that it was found with."""

    value: float
    degrees: int


def compute_miou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> float:
    """The figure of merit: mean IoU of the matrix summed over all images.

    confusions: (V, C, C) counts, rows true, columns predicted. NaN where no class is scored.
    """
    return float(mean_iou(confusions.sum(axis=0, dtype=np.int64), ignore_classes))


def compute_each_miou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> NDArray[np.float64]:
    """The same of several matrices, each summed over all images already: (n,) of (n, C, C)."""
    return mean_iou(confusions, ignore_classes)


def compute_class_iou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> NDArray[np.float64]:
    """IoU of each class, (C,), of the matrix summed over all images, (V, C, C); NaN for a class without a score."""
    return class_iou(confusions.sum(axis=0, dtype=np.int64), ignore_classes)


def sum_groups(confusions: NDArray[np.integer], groups: NDArray[np.int64] | None) -> NDArray[np.integer]:
    """Add up the matrices (V, C, C) of images that belong together: (G, C, C), in the order of the groups' numbers.

    groups: (V,), equal for images of one group; None: each image is its own. A bootstrap over the sums draws whole groups.
    """
    if groups is None:
        return confusions
    numbers, group_of = np.unique(groups, return_inverse=True)
    summed = np.zeros((len(numbers), *confusions.shape[1:]), np.int64)
    np.add.at(summed, group_of, confusions)
    return summed


def resample(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...], *, seed: int = 0) -> NDArray[np.float64]:
    """Draw the figure of merit of NUM_REPLICATES bootstrap samples of the images: (R,).

    With the same number of images and the same seed the samples are the same, so that differences of two results are paired.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """
    values: NDArray[np.float64] = mean_iou(_resample_sums(confusions, seed), ignore_classes)
    return values


def resample_classes(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...], *, seed: int = 0) -> NDArray[np.float64]:
    """Draw the IoU of each class from the same samples: (R, C), NaN where a sample has none of it."""
    return class_iou(_resample_sums(confusions, seed), ignore_classes)


def pool_spread(results: Iterable[Sequence[float]]) -> Spread | None:
    """What configurations say together of how far seeds lie apart; None where none has two.

    results: of each configuration the figures of its seeds.
    """
    squares, degrees = 0.0, 0
    for figures in results:
        squares += float(np.var(figures)) * len(figures)
        degrees += len(figures) - 1
    return _round(Spread((squares / degrees) ** 0.5, degrees)) if degrees > 0 else None


def _round(spread: Spread) -> Spread:
    """Where many seeds say it, to half the standard error that it has anyway: one seed more leaves known intervals as they are.

    A normal distribution's standard deviation of n degrees has one of 1 in sqrt(2n); Student's t hardly changes above 64.
    """
    if spread.degrees < 64 or spread.value == 0:
        return spread
    degrees = 2 ** (spread.degrees.bit_length() - 1)
    step = math.log1p((2 * degrees) ** -0.5)
    return Spread(math.exp(round(math.log(spread.value) / step) * step), degrees)


def vary_seeds(spread: Spread | None, num_seeds: Iterable[int], *, seed: int = 0) -> NDArray[np.float64]:
    """Draw what other seeds would have added to a mean, or to a difference of means, over these numbers of seeds: (R,).

    Two or three seeds are too few to be resampled: their bootstrap is too narrow. So this draws from Student's t around 0.
    Zeros where nothing is known of seeds.
    Source: Student 1908, The Probable Error of a Mean; pooled as in the two-sample test.
    """
    if spread is None:
        return np.zeros(NUM_REPLICATES)
    added: NDArray[np.float64] = _draw_t(spread.degrees, seed) * spread.value * sum(1 / number for number in num_seeds) ** 0.5
    return added


def find_bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval that replicates make; those in which nothing is scored are left out."""
    scored = values[np.isfinite(values)]
    if scored.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(scored, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return float(low), float(high)


def estimate_miou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...], *, seed: int = 0) -> Estimate:
    """Compute mIoU with a bootstrap interval over images."""
    low, high = find_bounds(resample(confusions, ignore_classes, seed=seed))
    return Estimate(compute_miou(confusions, ignore_classes), low, high)


def compare(
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    ignore_classes: tuple[int, ...],
    *,
    seed: int = 0,
    widening: float = 1,
) -> Difference:
    """Subtract the mIoU of ``second`` from that of ``first``, both (V, C, C) of the same images in order: paired bootstrap.

    widening: as ``judge`` takes it.
    """
    assert first.shape == second.shape, (first.shape, second.shape)
    value = compute_miou(first, ignore_classes) - compute_miou(second, ignore_classes)
    drawn = resample(first, ignore_classes, seed=seed) - resample(second, ignore_classes, seed=seed)
    return judge(value, drawn, widening=widening)


def compare_classes(
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    ignore_classes: tuple[int, ...],
    *,
    seed: int = 0,
    widening: float = 1,
) -> dict[int, Difference]:
    """The same of each class's IoU, of the classes that both have; differences of one sample belong together."""
    assert first.shape == second.shape, (first.shape, second.shape)
    values = compute_class_iou(first, ignore_classes) - compute_class_iou(second, ignore_classes)
    drawn = resample_classes(first, ignore_classes, seed=seed) - resample_classes(second, ignore_classes, seed=seed)
    return {int(c): judge(float(values[c]), drawn[:, c], widening=widening) for c in np.flatnonzero(np.isfinite(values))}


def judge(value: float, differences: NDArray[np.float64], *, widening: float = 1) -> Difference:
    """A difference with the interval that its replicates (R,) make; those in which nothing is scored are left out.

    widening: by how much replicates lie farther from the value than the images alone would have them.
    """
    differences = differences if widening == 1 else value + widening * (differences - value)
    low, high = find_bounds(differences)
    scored = differences[np.isfinite(differences)]
    above = np.mean(scored > 0) + np.mean(scored == 0) / 2 if scored.size else np.nan
    return Difference(value, low, high, float(above))


def _resample_sums(confusions: NDArray[np.integer], seed: int) -> NDArray[np.float64]:
    """Matrices (R, C, C), each summed over one sample of the images."""
    num_images, num_classes, _ = confusions.shape
    flat = confusions.reshape(num_images, -1).astype(np.float64)  # float64 multiplies fast, and is exact up to 2**53 pixels
    summed: NDArray[np.float64] = _draw(num_images, seed) @ flat
    return summed.reshape(NUM_REPLICATES, num_classes, num_classes)


@lru_cache(maxsize=2)  # a leaderboard draws from one set of images hundreds of times, and drawing is what takes long
def _draw(num_images: int, seed: int) -> NDArray[np.float64]:
    """How often each image is in each sample: (R, V)."""
    draws = np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), size=NUM_REPLICATES)
    drawn = draws.astype(np.float64)
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=2)  # the same for all results of a leaderboard
def _draw_t(degrees: int, seed: int) -> NDArray[np.float64]:
    draws = np.random.default_rng([seed, 1]).standard_t(degrees, NUM_REPLICATES)
    draws.flags.writeable = False
    return draws
