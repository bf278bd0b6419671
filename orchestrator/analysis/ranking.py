"""Results -> ranks, 95 % CIs and ties; the leaderboard and the report rank by this alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.analysis.results import Result, compare_results, estimate, pool_spread_of
from orchestrator.analysis.trials import group_by

T = TypeVar("T")


@dataclass(frozen=True)
class RankedResult:
    """A result's place among those that were scored on the same images."""

    result: Result
    rank: int
    ci95: tuple[float, float]
    """Over images and, where some of these results have several seeds, over seeds."""
    is_tied: bool
    """There is no evidence that it differs from the best; the best is tied with itself."""

    @property
    def mark(self) -> str:
        """``1``, ``2=``."""
        return f"{self.rank}{'=' if self.is_tied and self.rank > 1 else ''}"


def rank_results(results: Sequence[Result], *, pool: Sequence[Result] | None = None) -> list[list[RankedResult]]:
    """Rank results in blocks that were scored on the same images, the largest block first.

    pool: the results over which the spread between seeds is pooled; default: those that are ranked.
    """
    return [
        _rank_block(block, results if pool is None else pool)
        for block in make_blocks(results, lambda result: result.fingerprints)
    ]


def make_blocks(items: Iterable[T], identify: Callable[[T], Hashable]) -> list[list[T]]:
    """Items of equal identity together, the largest block first."""
    blocks = group_by(items, identify).items()
    return [block for _, block in sorted(blocks, key=lambda pair: (-len(pair[1]), str(pair[0])))]


def _rank_block(block: Sequence[Result], pool: Sequence[Result]) -> list[RankedResult]:
    best_first = sorted(block, key=lambda result: (-result.miou, result.keys))
    best, spread = best_first[0], pool_spread_of(pool, block[0].fingerprints)
    return [
        RankedResult(
            result=result,
            rank=rank,
            ci95=estimate(result, spread).ci95,
            is_tied=result is best or not compare_results(best, result, spread).is_significant,
        )
        for rank, result in enumerate(best_first, start=1)
    ]
