"""Members and candidates -> confusion matrices, on all cores and cached."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.selection.blocks import BlockLayout, Blocks
from orchestrator.ensemble.selection.kernel import add_up_runs, count_arithmetic, count_by_table
from orchestrator.state.machine import count_cores
from trainers.prediction.means import Mean, make_table

_TILE = 2**17
"""Bytes of a candidate that a core processes at a time: with the members' deficits they fit its second-level cache."""

_CACHED = 2**28
"""Bytes of cached counts: swaps and the parts of a cross-fit ask for the same members again."""

Members = tuple[int, ...]
"""Numbers of candidates; one that is named several times weighs as much."""


class CandidateCounter:
    """Counts which class wins how often once a candidate is added to some members. Used by one thread, runs on all cores.

    The counts are integers, so neither the number of threads nor any order changes them.
    """

    def __init__(self, layout: BlockLayout, blocks: Sequence[Blocks], mean: Mean) -> None:
        """Count in these blocks, which must have this layout; they are not copied and must not change."""
        self._layout = layout
        self._blocks = blocks  # keeps their addresses valid
        self._addresses = np.array([array.ctypes.data for array in blocks], np.int64)
        self._classes = (0,) * layout.num_classes
        self._table = make_table(mean)
        self._mean = mean
        self._counts: OrderedDict[tuple[Members, int], NDArray[np.uint16]] = OrderedDict()
        self._num_cached = 0  # bytes
        self._threads = ThreadPoolExecutor(max_workers=count_cores())
        self._tiles = _make_tiles(layout)

    def narrow(self, candidates: Sequence[int]) -> CandidateCounter:
        """A counter of some of the candidates, with the counts of each one alone cached."""
        narrowed = CandidateCounter(self._layout, [self._blocks[i] for i in candidates], self._mean)
        narrowed._cache(((), 0), self.count_additions(())[list(candidates)])
        return narrowed

    def count_additions(self, members: Members, start: int = 0) -> NDArray[np.uint16]:
        """How often each class wins in each run, (M - start, R, C), once each from ``start`` on is added to these members."""
        key = (tuple(sorted(members)), start)
        if key in self._counts:
            self._counts.move_to_end(key)
            return self._counts[key]
        counts = self.count(members, np.arange(start, len(self._addresses)))
        self._cache(key, counts)
        return counts

    def _cache(self, key: tuple[Members, int], counts: NDArray[np.uint16]) -> None:
        self._counts[key] = counts
        self._num_cached += counts.nbytes
        while self._num_cached > _CACHED and len(self._counts) > 1:
            self._num_cached -= self._counts.popitem(last=False)[1].nbytes

    def count(self, members: Members, candidates: NDArray[np.int64]) -> NDArray[np.uint16]:
        """The same for some candidates, (n, R, C)."""
        repeats = Counter(members)
        addresses = self._addresses[list(repeats)]
        weights = np.array(list(repeats.values()), np.int32)
        chosen = np.ascontiguousarray(self._addresses[candidates])
        layout = self._layout
        counts = np.empty((len(chosen), len(layout.image_of_run), layout.num_classes), np.uint16)

        def work(runs: tuple[int, int]) -> None:
            if self._mean == "arithmetic":
                count_arithmetic(chosen, addresses, weights, self._classes, layout.run_start, runs, counts)
            else:
                is_vote = self._mean == "vote"
                count_by_table(chosen, addresses, weights, self._table, is_vote, self._classes, layout.run_start, runs, counts)

        list(self._threads.map(work, self._tiles))
        counts[:, :, 0] -= layout.padding
        return counts

    def add_up(self, counts: NDArray[np.uint16], images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts (n, R, C) -> confusion matrices (n, C, C), summed over some images."""
        layout = self._layout
        is_wanted = np.zeros(layout.num_images, np.bool_)
        is_wanted[images] = True
        confusions = np.zeros((len(counts), layout.num_classes, layout.num_classes), np.int64)
        add_up_runs(counts, layout.class_of_run, np.flatnonzero(is_wanted[layout.image_of_run]), confusions)
        return confusions

    def split_by_image(self, counts: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Counts (n, R, C) -> confusion matrices (n, V, C, C) of each image."""
        layout = self._layout
        confusions = np.zeros((len(counts), layout.num_images, layout.num_classes, layout.num_classes), np.int32)
        for candidate, found in zip(counts, confusions, strict=True):
            np.add.at(found, (layout.image_of_run, layout.class_of_run), candidate)
        return confusions


def _make_tiles(layout: BlockLayout) -> list[tuple[int, int]]:
    """Ranges of consecutive runs (start, stop) of about _TILE bytes."""
    most = max(1, math.ceil(_TILE / (math.prod(layout.shape[1:]))))
    cuts = [0]
    for run in range(len(layout.image_of_run)):
        if layout.run_start[run + 1] - layout.run_start[cuts[-1]] > most and run > cuts[-1]:
            cuts.append(run)
    cuts.append(len(layout.image_of_run))
    return [(start, stop) for start, stop in pairwise(cuts) if stop > start]
