"""A trial's confusion matrices as results take them: read only when a value is not cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.cache import ValueCache, make_mark
from orchestrator.analysis.stats import compute_miou, resample

T = TypeVar("T")
Content = tuple[NDArray[np.integer], tuple[int, ...]]
"""Matrices (V, C, C) of images, or of groups of them added up; and the classes that are not scored."""


class Matrices:
    """The matrices of one seed: of one trial, or of all its folds. Used by one thread.

    read: called at most once, when the first value has to be computed. mark: equal as long as what ``read`` returns is the same.
    cache: values of earlier commands; without it or a mark nothing is cached.
    """

    def __init__(self, read: Callable[[], Content], *, mark: str | None = None, cache: ValueCache | None = None) -> None:
        self._read = read
        self._cache = cache
        self.mark = mark if cache is not None else None

    @classmethod
    def of(cls, confusions: NDArray[np.integer], ignore_classes: tuple[int, ...] = ()) -> Matrices:
        """Of matrices that are in memory."""
        return cls(lambda: (confusions, ignore_classes))

    @classmethod
    def join(cls, parts: Sequence[Matrices]) -> Matrices:
        """Of several folds, one after another."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            lambda: (np.concatenate([part.confusions for part in parts]), parts[0].ignore_classes),
            mark=join_marks(parts),
            cache=parts[0]._cache,
        )

    @property
    def confusions(self) -> NDArray[np.integer]:
        return self._content[0]

    @cached_property
    def ignore_classes(self) -> tuple[int, ...]:
        return tuple(self.recall("ignored", self.mark, lambda: self._content[1]))

    @cached_property
    def miou(self) -> float:
        return self.recall("miou", self.mark, lambda: compute_miou(self.confusions, self.ignore_classes))

    @cached_property
    def replicates(self) -> NDArray[np.float64]:
        """Of the mIoU, as ``resample`` draws them: (R,)."""

        def draw() -> NDArray[np.float64]:
            return resample(self.confusions, self.ignore_classes)

        return draw() if self._cache is None or self.mark is None else self._cache.recall_drawn(self.mark, draw)

    def recall(self, what: str, mark: str | None, compute: Callable[[], T]) -> T:
        """Any other value that follows from what ``mark`` names. JSON turns tuples into lists."""
        return compute() if self._cache is None or mark is None else self._cache.recall(what, mark, compute)

    @cached_property
    def _content(self) -> Content:
        return self._read()


def join_marks(parts: Sequence[Matrices], *more: object) -> str | None:
    """The mark of what follows from these together and from ``more``; None where one of them has none."""
    marks = [part.mark for part in parts]
    return None if None in marks else make_mark(*marks, *more)
