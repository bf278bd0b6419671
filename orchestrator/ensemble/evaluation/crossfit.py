"""Cross-fitting: each image is scored by what was chosen or learned on the other parts of the images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from orchestrator.analysis.results import Result
from orchestrator.analysis.stats import sum_groups
from orchestrator.ensemble.selection.pool import Pool
from orchestrator.errors import EnsembleError

_NUM_PARTS = 5

Images = NDArray[np.int64]
"""(n,) positions of images, ascending."""

Fit = Callable[[Images, Images], NDArray[np.int64]]
"""Images to choose or learn on, and other images -> confusion matrices (n, C, C) of the others."""


def make_parts(num_images: int, groups: NDArray[np.int64] | None) -> list[Images]:
    """The images of each part, in ascending order; deterministic, and no group is split.

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


def find_widening(num_parts: int, num_groups: int) -> float:
    """The factor that widens the CI of a difference between two cross-fitted choices.

    The choice for one part depends on all other parts, so the parts' scores are correlated. Resampling images with fixed choices
    misses that: for 200 sets of pure noise (12 to 100 images, 6 to 12 candidates) its CI excluded 0 in 33 to 37, this one in 4 to
    11. With few groups a percentile CI is too narrow as well, by the ratio of Student's t to the normal distribution.
    Source: Nadeau & Bengio 2003, Inference for the Generalization Error, section 3 (the corrected resampled t-test).
    """
    shared = (1 + num_parts / (num_parts - 1)) ** 0.5
    return float(shared * stdtrit(num_groups - 1, 0.975) / ndtri(0.975))


class CrossFitting:
    """One partition of a pool's images, by which every choice is scored."""

    def __init__(self, pool: Pool, groups: NDArray[np.int64] | None) -> None:
        """Partition the images. groups: (V,); None: each image is a group.

        Raises:
            EnsembleError: there are fewer than two groups.
        """
        self.pool = pool
        self.groups = groups
        self.parts = make_parts(pool.num_images, groups)
        num_groups = pool.num_images if groups is None else len(np.unique(groups))
        self.widening = find_widening(len(self.parts), num_groups)

    def score(self, fit: Fit) -> Result:
        """Score each group of images by what was fitted without its part."""
        pool = self.pool
        confusions = np.zeros((pool.num_images, pool.num_classes, pool.num_classes), np.int64)
        for part in self.parts:
            others = np.setdiff1d(np.arange(pool.num_images), part)
            confusions[part] = fit(others, part)
        return Result.of(sum_groups(confusions, self.groups), pool.ignore_classes, widening=self.widening)
