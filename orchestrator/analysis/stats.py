"""Confusion matrices per image -> mIoU, its 95 % CI, and whether two results differ; knows no runs.

Where images belong together (a scene, near duplicates), call ``sum_groups`` first: the bootstrap then draws whole groups.
"""

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
class MetricEstimate:
    """A metric and the bounds of its 95 % CI."""

    value: float
    low: float
    high: float

    @property
    def ci95(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True)
class PairedDifference:
    """How much higher a first value is than a second one on the same images, with its 95 % CI."""

    value: float
    low: float
    high: float
    probability: float
    """Share of the replicates in which the first is higher; ties count half."""

    @property
    def is_significant(self) -> bool:
        """Whether the CI excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def ci95(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True)
class SeedSpread:
    """The standard deviation between seeds of one configuration, and the degrees of freedom of that estimate."""

    value: float
    degrees: int


def compute_miou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> float:
    """Mean IoU of the matrix summed over all images.

    confusions: (V, C, C) counts, rows true, columns predicted. NaN where no class is scored.
    """
    return float(mean_iou(confusions.sum(axis=0, dtype=np.int64), ignore_classes))


def compute_class_iou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> NDArray[np.float64]:
    """IoU of each class, (C,), of the matrix summed over all images, (V, C, C); NaN for a class without a score."""
    return class_iou(confusions.sum(axis=0, dtype=np.int64), ignore_classes)


def sum_groups(confusions: NDArray[np.integer], groups: NDArray[np.int64] | None) -> NDArray[np.integer]:
    """Add up the matrices (V, C, C) of images that belong together: (G, C, C), in the order of the groups' numbers.

    groups: (V,), equal for images of one group; None: each image is a group.
    """
    if groups is None:
        return confusions
    numbers, group_of = np.unique(groups, return_inverse=True)
    summed = np.zeros((len(numbers), *confusions.shape[1:]), np.int64)
    np.add.at(summed, group_of, confusions)
    return summed


def resample(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw the mIoU of NUM_REPLICATES bootstrap samples of the images: (R,).

    The same number of images gives the same samples, so that differences of two results are paired.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """
    return mean_iou(_resample_sums(confusions), ignore_classes)


def resample_classes(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw the IoU of each class from the same samples: (R, C), NaN where a sample has none of it."""
    return class_iou(_resample_sums(confusions), ignore_classes)


def pool_spread(results: Iterable[Sequence[float]]) -> SeedSpread | None:
    """Pool the standard deviation between the seeds of each result; None where none has two seeds."""
    squares, degrees = 0.0, 0
    for values in results:
        squares += float(np.var(values)) * len(values)
        degrees += len(values) - 1
    return _round(SeedSpread((squares / degrees) ** 0.5, degrees)) if degrees > 0 else None


def _round(spread: SeedSpread) -> SeedSpread:
    """From 64 degrees on, round to half the standard error, which is 1 / sqrt(2 n): one more seed leaves cached CIs valid."""
    if spread.degrees < 64 or spread.value == 0:
        return spread
    degrees = 2 ** (spread.degrees.bit_length() - 1)
    step = math.log1p((2 * degrees) ** -0.5)
    return SeedSpread(math.exp(round(math.log(spread.value) / step) * step), degrees)


def vary_seeds(spread: SeedSpread | None, num_seeds: Iterable[int]) -> NDArray[np.float64]:
    """Draw what other seeds would add to a mean, or to a difference of means, over these numbers of seeds: (R,).

    A bootstrap of two or three seeds would be too narrow, so this draws from Student's t around 0. Without a spread: zeros.
    Source: Student 1908, The Probable Error of a Mean; pooled as in the two-sample test.
    """
    if spread is None:
        return np.zeros(NUM_REPLICATES)
    return _draw_t(spread.degrees) * spread.value * float(sum(1 / number for number in num_seeds) ** 0.5)


def find_bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % CI of replicates; those in which nothing is scored are left out."""
    scored = values[np.isfinite(values)]
    if scored.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(scored, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return float(low), float(high)


def judge(value: float, replicates: NDArray[np.float64]) -> PairedDifference:
    """A difference with the CI of its replicates (R,); those in which nothing is scored are left out."""
    scored = replicates[np.isfinite(replicates)]
    above = np.mean(scored > 0) + np.mean(scored == 0) / 2 if scored.size else np.nan
    return PairedDifference(value, *find_bounds(replicates), float(above))


def _resample_sums(confusions: NDArray[np.integer]) -> NDArray[np.float64]:
    """Matrices (R, C, C), each summed over one sample of the images."""
    num_images, num_classes, _ = confusions.shape
    flat = confusions.reshape(num_images, -1).astype(np.float64)  # float64 multiplies fast, and is exact up to 2**53 pixels
    summed: NDArray[np.float64] = _draw(num_images) @ flat
    return summed.reshape(NUM_REPLICATES, num_classes, num_classes)


@lru_cache(maxsize=2)  # a leaderboard draws from one set of images hundreds of times, and drawing takes longest
def _draw(num_images: int) -> NDArray[np.float64]:
    """How often each image is in each sample: (R, V)."""
    draws = np.random.default_rng(0).multinomial(num_images, np.full(num_images, 1 / num_images), size=NUM_REPLICATES)
    drawn = draws.astype(np.float64)
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=2)  # the same for all results of a leaderboard
def _draw_t(degrees: int) -> NDArray[np.float64]:
    draws = np.random.default_rng([0, 1]).standard_t(degrees, NUM_REPLICATES)
    draws.flags.writeable = False
    return draws
