"""DataSet -> Findings: class shares, outliers, duplicates and odd images, for `data check`. Only outliers can be removed."""

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
"""Share of differing labels in the masks of two nearly identical images from which they contradict each other."""
_MAX_SATURATED = 0.25
"""Share of an image's pixels that may be black or white."""
_MAX_DEVIATIONS = 5.0
"""Largest distance of an image's mean or contrast from the set's median, in median absolute deviations scaled to sigma."""
_MIN_IMAGES = 20
"""With fewer, the median deviation is not reliable."""
_MAX_COMPARED = 12
"""Images per group whose masks are compared with each other."""


@dataclass(frozen=True)
class DuplicateGroup:
    """Nearly identical images.

    identical: all are equal in every pixel. disagreement: largest share of differing labels between two of their masks, of the
    pixels labelled in both.
    """

    indices: tuple[int, ...]
    identical: bool
    disagreement: float

    @property
    def contradicts(self) -> bool:
        return self.disagreement > _MAX_DISAGREEMENT


@dataclass(frozen=True)
class OddImage:
    """An image with unusual gray levels, and why."""

    index: int
    reason: str


@dataclass(frozen=True)
class Findings:
    """Findings by index into the data set.

    class_shares: (C,) of all labelled pixels; images_per_class: (C,) images that hold each class; all_ignored: images without
    a scored pixel; repeated_masks: sets of different images with the same intricate mask.
    """

    class_shares: tuple[float, ...]
    images_per_class: tuple[int, ...]
    outliers: tuple[Outlier, ...]
    duplicates: tuple[DuplicateGroup, ...]
    repeated_masks: tuple[tuple[int, ...], ...]
    all_ignored: tuple[int, ...]
    odd_intensities: tuple[OddImage, ...]


def inspect_dataset(data: DataSet, ignore_classes: tuple[int, ...]) -> Findings:
    """Compute all findings; ignore_classes: neither trained on nor scored."""
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


def find_odd_intensities(images: NDArray[np.uint8]) -> list[OddImage]:
    """Find, in (N, H, W, C), images that are constant, saturated, or far from the others in mean or contrast."""
    means, contrasts, saturated = (np.empty(len(images)) for _ in range(3))
    for index, image in enumerate(images):
        means[index], contrasts[index] = image.mean(), image.std()
        saturated[index] = ((image == 0) | (image == 255)).mean()
    off_mean, off_contrast = _deviate(means), _deviate(np.log1p(contrasts))
    found = []
    for index in range(len(images)):
        if contrasts[index] == 0:
            found.append(OddImage(index, f"constant, gray level {means[index]:.0f}"))
        elif saturated[index] > _MAX_SATURATED:
            found.append(OddImage(index, f"saturated, {saturated[index]:.0%} of it black or white"))
        elif abs(off_mean[index]) > _MAX_DEVIATIONS:
            found.append(OddImage(index, f"mean gray level {means[index]:.0f}, median of all {np.median(means):.0f}"))
        elif abs(off_contrast[index]) > _MAX_DEVIATIONS:
            found.append(OddImage(index, f"contrast {contrasts[index]:.1f}, median of all {np.median(contrasts):.1f}"))
    return found


def _deviate(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust deviations from the median; 0 if most values are equal or there are few."""
    off = values - np.median(values)
    scale = 1.4826 * float(np.median(np.abs(off)))  # a normal distribution's standard deviation
    return off / scale if scale > 0 and len(values) >= _MIN_IMAGES else np.zeros_like(off)


def _describe_duplicates(data: DataSet, groups: NDArray[np.int64]) -> list[DuplicateGroup]:
    found = []
    for group in np.flatnonzero(np.bincount(groups) > 1):
        members = np.flatnonzero(groups == group)
        images = data.images[members]
        identical = bool((images == images[0]).all())
        pairs = combinations(data.masks[members[:_MAX_COMPARED]], 2)
        found.append(DuplicateGroup(tuple(members.tolist()), identical, max(_measure_disagreement(*pair) for pair in pairs)))
    return found


def _measure_disagreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Share of differing labels of two masks (H, W), at pixels that both label."""
    both = (one != VOID) & (other != VOID)
    return float((one != other)[both].mean()) if both.any() else 0.0
