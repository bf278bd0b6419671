"""Members of an ensemble -> their disagreement, the score of an oracle over them, and what each one adds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.results import Result, compare_results
from orchestrator.analysis.stats import PairedDifference, compute_miou, sum_groups
from orchestrator.ensemble.selection.kernel import UNSCORED
from orchestrator.ensemble.selection.pool import Pool
from trainers.metrics import confusion_per_image

_PART_BYTES = 2**24
"""Bytes of one member's probabilities that are processed at a time."""


@dataclass(frozen=True)
class Diversity:
    """How much the members differ.

    disagreement: (K, K), share of scored pixels at which two members predict different classes.
    oracle_miou: mIoU of an oracle that predicts the true class wherever any member does, else the members' majority (of equals
    the lowest class). A mean rarely exceeds it; a large distance to it means that the members err at different pixels.
    """

    disagreement: tuple[tuple[float, ...], ...]
    oracle_miou: float

    @property
    def mean(self) -> float:
        """Over pairs; 0 where there is one member."""
        k = len(self.disagreement)
        return sum(map(sum, self.disagreement)) / (k * (k - 1)) if k > 1 else 0.0


def measure_diversity(pool: Pool, members: Sequence[int]) -> Diversity:
    """Compare the members' predicted classes pixel by pixel, a few images at a time."""
    differing = np.zeros((len(members), len(members)), np.int64)
    oracle = np.zeros((pool.num_classes, pool.num_classes), np.int64)
    num_scored = 0
    predictions = [pool.predictions[i] for i in members]
    step = max(1, _PART_BYTES // (pool.num_classes * pool.labels.shape[1]))
    for start in range(0, pool.num_images, step):
        labels = pool.labels[start : start + step]
        is_scored = labels != UNSCORED
        true = labels[is_scored]
        classes = (array[start : start + step].argmax(axis=1).astype(np.uint8) for array in predictions)
        predicted = np.stack([predicted[is_scored] for predicted in classes])
        num_scored += true.size
        for i in range(len(members)):
            for j in range(i):
                differing[i, j] += np.count_nonzero(predicted[i] != predicted[j])
        votes = np.stack([(predicted == c).sum(axis=0) for c in range(pool.num_classes)])
        best = np.where((predicted == true).any(axis=0), true, votes.argmax(axis=0))
        oracle += confusion_per_image(best[None, None], true[None, None], num_classes=pool.num_classes, ignore_classes=())[0]
    shares = (differing + differing.T) / max(num_scored, 1)
    return Diversity(tuple(map(tuple, shares.tolist())), compute_miou(oracle[None], pool.ignore_classes))


def drop_each(pool: Pool, members: Sequence[int], groups: NDArray[np.int64] | None) -> tuple[PairedDifference, ...]:
    """What each member, repeated by its weight, adds to the mean of the others, in sample; empty for a single member."""
    distinct = dict.fromkeys(members)
    if len(distinct) < 2:
        return ()
    every = np.arange(pool.num_images)

    def score(some: Sequence[int]) -> Result:
        return Result.of(sum_groups(pool.count(some, every), groups), pool.ignore_classes)

    whole, without = score(members), ([member for member in members if member != dropped] for dropped in distinct)
    return tuple(compare_results(whole, score(rest), None) for rest in without)
