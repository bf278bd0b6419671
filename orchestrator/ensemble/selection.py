"""Candidates' predictions -> the members whose mean probabilities score best: greedy without replacement, then swaps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.kernel import MAX_MEMBERS, UNSCORED, are_equal, count_confusions
from orchestrator.errors import EnsembleError
from orchestrator.stats import compute_miou
from trainers.config import VOID


@dataclass(frozen=True)
class Selection:
    """Members of a pool, in the order in which they were chosen."""

    members: tuple[int, ...]
    """Positions in the pool."""
    miou: float
    """In sample: on the images that it was chosen on."""
    trajectory: tuple[float, ...]
    """The same of the first 1, 2, ... members that greedy chose, before swaps."""


class Pool:
    """Candidates that may be combined, scored on the same pixels; ties go to the one that comes first.

    Candidates that agree on every scored pixel count once, the first of them. Immutable; holds no copy of the predictions.
    """

    def __init__(
        self,
        keys: Sequence[str],
        predictions: Sequence[NDArray[np.uint8]],
        labels: NDArray[np.uint8],
        ignore_classes: tuple[int, ...],
    ) -> None:
        """Take predictions (V, C, H, W) uint8 each and labels (V, H, W) uint8, 255 for void.

        Raises:
            EnsembleError: shapes, keys or labels do not fit each other.
        """
        _check(keys, predictions, labels)
        num_images, self.num_classes = predictions[0].shape[:2]
        self.num_images: int = num_images
        self.ignore_classes = tuple(ignore_classes)
        self.labels = np.where(np.isin(labels, ignore_classes), np.uint8(UNSCORED), labels).reshape(num_images, -1)
        flat = [array.reshape(num_images, self.num_classes, -1) for array in predictions]
        every = np.arange(num_images)
        singles = self._count_each(self._no_sums(every), flat, every)
        first = _find_first_alike(flat, singles, self.labels)
        kept = sorted(set(first))
        self.keys = tuple(keys[i] for i in kept)
        self.positions = {key: kept.index(i) for key, i in zip(keys, first, strict=True)}
        """Of every key, also of those that count as another: where its predictions stand."""
        self.predictions = [flat[i] for i in kept]
        self.singles = np.stack([singles[i] for i in kept])
        """(M, V, C, C): each candidate's own confusion matrices."""

    def rank_singles(self, images: NDArray[np.int64]) -> list[float]:
        """MIoU of each candidate alone on these images."""
        return [self._score(confusions[images]) for confusions in self.singles]

    def count(self, members: Iterable[int], images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Confusion matrices (n, C, C) of the members' mean on these images."""
        *others, last = members
        sums = self._no_sums(images)
        for member in others:
            sums += self.predictions[member][images]
        return count_confusions(sums, self.predictions[last], self.labels, images)

    def select(self, images: NDArray[np.int64], *, k: int, exactly: bool = False) -> Selection:
        """Choose up to ``k`` distinct members on these images, or ``k`` of them where fewer would score better.

        Source: Caruana et al. 2004, Ensemble Selection from Libraries of Models, without replacement.
        """
        members, trajectory = self._choose_greedily(images, k)
        if not exactly:
            members = members[: int(np.argmax(trajectory)) + 1]
        miou = trajectory[len(members) - 1]
        if len(members) > 1:
            members, miou = self._improve_by_swaps(members, miou, images)
        return Selection(tuple(members), miou, tuple(trajectory))

    def _choose_greedily(self, images: NDArray[np.int64], k: int) -> tuple[list[int], list[float]]:
        scores = self.rank_singles(images)
        members: list[int] = []
        trajectory: list[float] = []
        sums = self._no_sums(images)
        left = list(range(len(self.keys)))
        while left and len(members) < k:
            if members:
                scores = self._score_each(sums, left, images)
            best = int(np.argmax(scores))
            trajectory.append(scores[best])
            members.append(left.pop(best))
            sums += self.predictions[members[-1]][images]
        return members, trajectory

    def _improve_by_swaps(self, members: list[int], miou: float, images: NDArray[np.int64]) -> tuple[list[int], float]:
        """Replace one member at a time by the outsider that helps most, until none helps."""
        while True:
            best, best_swap = miou, None
            outsiders = [i for i in range(len(self.keys)) if i not in members]
            for place in range(len(members)):
                sums = self._no_sums(images)
                for member in members[:place] + members[place + 1 :]:
                    sums += self.predictions[member][images]
                for outsider, score in zip(outsiders, self._score_each(sums, outsiders, images), strict=True):
                    if score > best:
                        best, best_swap = score, (place, outsider)
            if best_swap is None:
                return members, miou
            place, outsider = best_swap
            members, miou = [*members[:place], outsider, *members[place + 1 :]], best

    def _no_sums(self, images: NDArray[np.int64]) -> NDArray[np.uint16]:
        return np.zeros((len(images), self.num_classes, self.labels.shape[1]), np.uint16)

    def _score_each(self, sums: NDArray[np.uint16], candidates: Sequence[int], images: NDArray[np.int64]) -> list[float]:
        counted = self._count_each(sums, [self.predictions[i] for i in candidates], images)
        return [self._score(confusions) for confusions in counted]

    def _count_each(
        self, sums: NDArray[np.uint16], predictions: Sequence[NDArray[np.uint8]], images: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        """A candidate a thread; the kernel releases the interpreter's lock."""
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            return list(threads.map(lambda candidate: count_confusions(sums, candidate, self.labels, images), predictions))

    def _score(self, confusions: NDArray[np.int64]) -> float:
        """Below every score where nothing is scored."""
        miou = compute_miou(confusions, self.ignore_classes)
        return miou if np.isfinite(miou) else -1.0


def _find_first_alike(
    flat: Sequence[NDArray[np.uint8]], singles: Sequence[NDArray[np.int64]], labels: NDArray[np.uint8]
) -> list[int]:
    """Of each candidate the first that is like it, most often itself; only equal confusion matrices are looked at closely."""
    first: list[int] = []
    by_confusions: dict[bytes, list[int]] = {}
    for i, single in enumerate(singles):
        alike = by_confusions.setdefault(single.tobytes(), [])
        found = next((j for j in alike if are_equal(flat[i], flat[j], labels)), i)
        if found == i:
            alike.append(i)
        first.append(found)
    return first


def _check(keys: Sequence[str], predictions: Sequence[NDArray[np.uint8]], labels: NDArray[np.uint8]) -> None:
    if not predictions:
        raise EnsembleError("There are no candidates: no trial has stored predictions. Run `orchestrate sweep FILE` first.")
    if len(set(keys)) != len(predictions) or len(keys) != len(predictions):
        raise EnsembleError(
            f"{len(keys)} keys ({len(set(keys))} distinct) for {len(predictions)} predictions: expected one each."
        )
    shape = predictions[0].shape
    for key, array in zip(keys, predictions, strict=True):
        if array.ndim != 4 or array.dtype != np.uint8 or array.shape != shape:
            raise EnsembleError(
                f"{key}: predictions are {array.dtype} {array.shape}; {keys[0]} has {shape}. "
                "Expected uint8 (images, classes, height, width), alike for all candidates."
            )
    if labels.shape != (shape[0], *shape[2:]) or labels.dtype != np.uint8:
        raise EnsembleError(f"labels are {labels.dtype} {labels.shape}, expected uint8 {(shape[0], *shape[2:])}.")
    unknown = sorted({int(label) for label in np.unique(labels)} - {*range(shape[1]), VOID})
    if unknown:
        raise EnsembleError(
            f"labels hold {unknown}, but predictions have {shape[1]} classes. Expected 0..{shape[1] - 1} or {VOID}."
        )


def check_size(k: int) -> None:
    """Refuse a number of members that cannot be.

    Raises:
        EnsembleError: below 1, or more than an exact sum can hold.
    """
    if not 1 <= k <= MAX_MEMBERS:
        raise EnsembleError(f"k is {k}, expected 1..{MAX_MEMBERS}.")
