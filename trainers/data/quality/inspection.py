"""What a person should know of a data set before training on it: DataSet -> Findings, of which outliers alone are removed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from trainers.config import VOID
from trainers.data import checks
from trainers.data.dataset import DataSet
from trainers.data.quality.duplicates import group_images
from trainers.data.quality.outliers import Outlier, find_outliers
from trainers.data.quality.repeated_masks import find_repeated_masks

_MAX_DISAGREEMENT = 0.1
"""Of the pixels labelled in both masks of two nearly identical pictures, before it is worth telling."""
_MAX_SATURATED = 0.25
"""Of a picture's pixels may be black or white."""
_MAX_DEVIATIONS = 5.0
"""Median absolute deviations, scaled to standard deviations, that a picture's mean or contrast may be off the set's median."""
_MIN_PICTURES = 20
"""Of fewer, the median deviation says little."""
_MAX_COMPARED = 12
"""Pictures of a group whose masks are compared with each other."""


@dataclass(frozen=True)
class DuplicateGroup:
    """Nearly identical pictures.

    identical: all are equal in every pixel. disagreement: largest share of pixels, labelled in both masks, on which two of their
    masks differ; contradicts: it is large.
    """

    indices: tuple[int, ...]
    identical: bool
    disagreement: float

    @property
    def contradicts(self) -> bool:
        return self.disagreement > _MAX_DISAGREEMENT


@dataclass(frozen=True)
class OddPicture:
    """A picture whose gray levels are unlike those of the others, and in what."""

    index: int
    reason: str


@dataclass(frozen=True)
class Findings:
    """What was found, by index into the data set.

    class_shares: (C,) of all labelled pixels; images_per_class: (C,) pictures that hold each class; all_ignored: pictures
    without a pixel that is scored; repeated_masks: differing pictures under one intricate mask, a set each.
    """

    class_shares: tuple[float, ...]
    images_per_class: tuple[int, ...]
    outliers: tuple[Outlier, ...]
    duplicates: tuple[DuplicateGroup, ...]
    repeated_masks: tuple[tuple[int, ...], ...]
    all_ignored: tuple[int, ...]
    odd_intensities: tuple[OddPicture, ...]


def inspect_dataset(data: DataSet, ignore_classes: tuple[int, ...]) -> Findings:
    """Look for everything that is told of a data set; ignore_classes: neither trained on nor scored."""
    groups = group_images(data.images) if data.groups is None else data.groups
    counts = checks.count_labels(data.masks, data.num_classes)
    scored = np.delete(counts, ignore_classes, axis=1)
    return Findings(
        class_shares=tuple((counts.sum(axis=0) / max(1, counts.sum())).tolist()),
        images_per_class=tuple((counts > 0).sum(axis=0).tolist()),
        outliers=find_outliers(data.images, data.masks, groups),
        duplicates=tuple(_describe_duplicates(data, groups)),
        repeated_masks=tuple(tuple(mask.members.tolist()) for mask in find_repeated_masks(data.masks, groups)),
        all_ignored=tuple(np.flatnonzero(scored.sum(axis=1) == 0).tolist()),
        odd_intensities=tuple(find_odd_intensities(data.images)),
    )


def find_odd_intensities(images: NDArray[np.uint8]) -> list[OddPicture]:
    """Return the pictures of images (N, H, W, C) that are constant, saturated, or far from the others in mean or contrast."""
    means, contrasts, saturated = (np.empty(len(images)) for _ in range(3))
    for index, image in enumerate(images):
        means[index], contrasts[index] = image.mean(), image.std()
        saturated[index] = ((image == 0) | (image == 255)).mean()
    off_mean, off_contrast = _deviate(means), _deviate(np.log1p(contrasts))
    found = []
    for index in range(len(images)):
        if contrasts[index] == 0:
            found.append(OddPicture(index, f"constant, gray level {means[index]:.0f}"))
        elif saturated[index] > _MAX_SATURATED:
            found.append(OddPicture(index, f"saturated, {saturated[index]:.0%} of it black or white"))
        elif abs(off_mean[index]) > _MAX_DEVIATIONS:
            found.append(OddPicture(index, f"mean gray level {means[index]:.0f}, median of all {np.median(means):.0f}"))
        elif abs(off_contrast[index]) > _MAX_DEVIATIONS:
            found.append(OddPicture(index, f"contrast {contrasts[index]:.1f}, median of all {np.median(contrasts):.1f}"))
    return found


def _deviate(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust deviations from the median; zero where most values are equal, or few."""
    off = values - np.median(values)
    scale = 1.4826 * float(np.median(np.abs(off)))  # a normal distribution's standard deviation
    return off / scale if scale > 0 and len(values) >= _MIN_PICTURES else np.zeros_like(off)


def _describe_duplicates(data: DataSet, groups: NDArray[np.int64]) -> list[DuplicateGroup]:
    found = []
    for group in np.flatnonzero(np.bincount(groups) > 1):
        members = np.flatnonzero(groups == group)
        images = data.images[members]
        found.append(
            DuplicateGroup(
                indices=tuple(members.tolist()),
                identical=bool((images == images[0]).all()),
                disagreement=_measure_disagreement(data.masks[members[:_MAX_COMPARED]]),
            )
        )
    return found


def _measure_disagreement(masks: NDArray[np.uint8]) -> float:
    """Largest share of differing labels over all pairs of masks (K, H, W), at pixels where neither is void."""
    largest = 0.0
    for one, other in combinations(masks, 2):
        both = (one != VOID) & (other != VOID)
        largest = max(largest, float((one != other)[both].mean()) if both.any() else 0.0)
    return largest
