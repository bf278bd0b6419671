"""Confusion matrices per image -> mIoU, its interval, and whether two trials differ; knows no runs."""

from __future__ import annotations

from collections.abc import Sequence
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


def compute_miou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> float:
    """The figure of merit: mean IoU of the matrix summed over all images.

    confusions: (V, C, C) counts, rows true, columns predicted. NaN where no class is scored.
    """
    return float(mean_iou(confusions.sum(axis=0, dtype=np.int64), ignore_classes))


def compute_class_iou(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...]) -> NDArray[np.float64]:
    """IoU of each class, (C,), of the matrix summed over all images, (V, C, C); NaN for a class without a score."""
    return class_iou(confusions.sum(axis=0, dtype=np.int64), ignore_classes)


def resample(confusions: NDArray[np.integer], ignore_classes: tuple[int, ...], *, seed: int = 0) -> NDArray[np.float64]:
    """Draw the figure of merit of NUM_REPLICATES bootstrap samples of the images: (R,).

    With the same number of images and the same seed the samples are the same, so that differences of two results are paired.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """
    num_images, num_classes, _ = confusions.shape
    flat = confusions.reshape(num_images, -1).astype(np.float64)  # float64 multiplies fast, and is exact up to 2**53 pixels
    summed = (_draw(num_images, seed) @ flat).reshape(NUM_REPLICATES, num_classes, num_classes)
    values: NDArray[np.float64] = mean_iou(summed, ignore_classes)
    return values


@lru_cache(maxsize=1)
def _draw(num_images: int, seed: int) -> NDArray[np.float64]:
    """How often each image is in each sample: (R, V); the same for all trials of a leaderboard, and most of the work."""
    shares = np.full(num_images, 1 / num_images)
    draws: NDArray[np.float64] = np.random.default_rng(seed).multinomial(num_images, shares, NUM_REPLICATES).astype(np.float64)
    draws.flags.writeable = False
    return draws


def resample_mean(several: Sequence[NDArray[np.integer]], ignore_classes: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw the mean figure of merit of several results, each (V, C, C) of the same images, from paired samples: (R,)."""
    values: NDArray[np.float64] = np.mean([resample(confusions, ignore_classes) for confusions in several], axis=0)
    return values


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
    first: NDArray[np.integer], second: NDArray[np.integer], ignore_classes: tuple[int, ...], *, seed: int = 0
) -> Difference:
    """Subtract the mIoU of ``second`` from that of ``first``, both (V, C, C) of the same images in order: paired bootstrap."""
    assert first.shape == second.shape, (first.shape, second.shape)
    differences = resample(first, ignore_classes, seed=seed) - resample(second, ignore_classes, seed=seed)
    low, high = find_bounds(differences)
    value = compute_miou(first, ignore_classes) - compute_miou(second, ignore_classes)
    return Difference(value, low, high, float(np.mean(differences > 0) + np.mean(differences == 0) / 2))
