"""Cross-fitting: every image is scored by what was chosen or learned on the parts of the images that it is not in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.selection import Pool
from orchestrator.errors import EnsembleError

_NUM_PARTS = 5

Images = NDArray[np.int64]
"""(n,) positions of images, ascending."""

Count = Callable[[Images], NDArray[np.int64]]
"""Images -> their confusion matrices (n, C, C)."""

Choose = Callable[[Images, int], tuple[int, ...]]
"""Images and a number of members at most -> positions of those chosen, each as often as it counts."""

Fit = Callable[[Images], Count]
"""Images to choose or learn on -> how what came out predicts others."""


def make_parts(num_images: int, groups: NDArray[np.int64] | None) -> list[Images]:
    """Images of each part, in ascending order; the same for the same groups, none of which is split.

    Raises:
        EnsembleError: there are fewer than two groups.
    """
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


def cross_fit(pool: Pool, parts: list[Images], fit: Fit) -> NDArray[np.int64]:
    """Confusion matrices (V, C, C), each image's by what was fitted without its part."""
    confusions = np.zeros((pool.num_images, pool.num_classes, pool.num_classes), np.int64)
    for part in parts:
        others = np.setdiff1d(np.arange(pool.num_images), part)
        confusions[part] = fit(others)(part)
    return confusions


def fit_single(pool: Pool) -> Fit:
    """Choose the candidate that is best alone."""

    def fit(images: Images) -> Count:
        best = int(np.argmax(pool.rank_singles(images)))
        return lambda part: pool.singles[best][part]

    return fit


def fit_ensemble(pool: Pool, choose: Choose, k: int) -> Fit:
    """Choose up to ``k`` members."""

    def fit(images: Images) -> Count:
        members = choose(images, k)
        return lambda part: pool.count(members, part)

    return fit
