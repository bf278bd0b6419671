"""Trials of one configuration -> one result: folds of a seed joined, seeds side by side; its estimate, differences and rank.

Leaderboard, comparison and report all take their mIoU, 95 % CIs, ranks and ties from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.confusions import Matrices, join_marks
from orchestrator.analysis.stats import (
    MetricEstimate,
    PairedDifference,
    SeedSpread,
    compute_class_iou,
    find_bounds,
    judge,
    pool_spread,
    resample_classes,
    vary_seeds,
)
from orchestrator.analysis.trials import Trial, TrialLoader, group_by, strip_seed
from orchestrator.tracking.tags import Tag

if TYPE_CHECKING:
    from orchestrator.tracking.reader.row import RunRow

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """What a configuration, a single trial or an ensemble scored. Equal ``fingerprints`` mean the same images in order.

    samples: the matrices of each seed, those of all its folds one after another. fingerprints: what each fold was scored on.
    left_out: names of trials whose seed lacks a fold or was scored on other images.
    """

    name: str
    samples: tuple[Matrices, ...]
    fingerprints: tuple[str, ...]
    keys: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    class_names: Mapping[int, str] = field(default_factory=dict)
    widening: float = 1
    """Of CIs of differences to it: 1, or more where it was chosen on these images by cross-fitting."""

    @classmethod
    def of(cls, confusions: NDArray[np.integer], ignore_classes: tuple[int, ...], *, widening: float = 1) -> Result:
        """Of matrices (V, C, C) in memory, of images or groups of them."""
        return cls("", (Matrices.of(confusions, ignore_classes),), (), widening=widening)

    @property
    def confusions(self) -> tuple[NDArray[np.integer], ...]:
        """Of each seed (V, C, C), V images or groups of them."""
        return tuple(sample.confusions for sample in self.samples)

    @property
    def ignore_classes(self) -> tuple[int, ...]:
        return self.samples[0].ignore_classes

    @property
    def mious(self) -> tuple[float, ...]:
        """Of each seed."""
        return tuple(sample.miou for sample in self.samples)

    @property
    def miou(self) -> float:
        """The mean over seeds."""
        return fmean(self.mious)

    @cached_property
    def replicates(self) -> NDArray[np.float64]:
        """The mean over seeds of each bootstrap sample of the images, (R,): paired among results on the same images."""
        drawn: NDArray[np.float64] = np.mean([sample.replicates for sample in self.samples], axis=0)
        return drawn

    def resample_classes(self) -> NDArray[np.float64]:
        """The same of each class's IoU: (R, C)."""
        drawn: NDArray[np.float64] = np.mean([resample_classes(one, self.ignore_classes) for one in self.confusions], axis=0)
        return drawn

    def class_ious(self) -> NDArray[np.float64]:
        """Of each seed, (S, C)."""
        return np.stack([compute_class_iou(one, self.ignore_classes) for one in self.confusions])


def score_trial(trial: Trial) -> Result:
    """What one finished trial scored, on its own fold if it has one."""
    assert trial.matrices is not None, f"{trial.name} is not done"
    return Result(
        name=trial.name,
        samples=(trial.matrices,),
        fingerprints=(trial.scored_fingerprint or "",),
        keys=(trial.key,),
        seeds=(trial.seed or 0,),
    )


def score_ensemble(run: RunRow, loader: TrialLoader) -> Result:
    """What an ensemble scored. The matrices of a chosen one are cross-fitted, so that choosing did not flatter it.

    Raises:
        TrackingError: its matrices cannot be fetched, or are damaged.
    """
    return Result(
        name=run.name,
        samples=(Matrices.of(*loader.load_confusions(run)),),
        fingerprints=tuple(run.tags.get(Tag.SCORED_FINGERPRINT, "").split(",")),
        seeds=(int(run.tags[Tag.SEED]),) if Tag.SEED in run.tags else (),
        widening=float(run.tags.get(Tag.WIDENING, 1)),
    )


def join_folds(trials: Iterable[Trial]) -> dict[str, Result]:
    """One result per seed, under the key by which ensembles know it. Seeds that lack a fold are left out."""

    def identify(trial: Trial) -> tuple[str, int]:
        return (name_joined(trial.configuration, trial.seed or 0), trial.fold[1]) if trial.fold else (trial.key, 1)

    joined = {}
    for (key, num_folds), found in group_by((trial for trial in trials if trial.is_done), identify).items():
        folds = {trial.fold: score_trial(trial) for trial in sorted(found, key=lambda trial: trial.fold or (0, 1))}
        if len(folds) == num_folds:
            parts = list(folds.values())
            joined[key] = replace(
                parts[0],
                samples=(Matrices.join([part.samples[0] for part in parts]),),
                fingerprints=tuple(part.fingerprints[0] for part in parts),
                keys=tuple(part.keys[0] for part in parts),
            )
    return joined


def join_seeds(results: Sequence[Result]) -> Result:
    """Results of one seed each -> one over all seeds that were scored on the same images, by majority."""
    scored_on = Counter(result.fingerprints for result in results)
    fingerprints = max(scored_on, key=lambda prints: (scored_on[prints], prints))
    kept = sorted((result for result in results if result.fingerprints == fingerprints), key=lambda result: result.seeds)
    return replace(
        kept[0],
        samples=tuple(result.samples[0] for result in kept),
        keys=tuple(key for result in kept for key in result.keys),
        seeds=tuple(seed for result in kept for seed in result.seeds),
    )


def join_trials(trials: Sequence[Trial]) -> Result | None:
    """What the finished trials of one configuration scored together; None where no seed has all its folds."""
    seeds = list(join_folds(trials).values())
    if not seeds:
        return None
    joined = join_seeds(seeds)
    left_out = tuple(trial.name for trial in trials if trial.key not in joined.keys)
    return replace(joined, name=strip_seed(joined.name), left_out=left_out)


def join_configurations(trials: Iterable[Trial]) -> list[Result]:
    """The result of each configuration that has one."""
    by_configuration = group_by(trials, lambda trial: trial.configuration or trial.key)
    return [result for found in by_configuration.values() if (result := join_trials(found)) is not None]


def pool_spread_of(results: Iterable[Result], fingerprints: tuple[str, ...]) -> SeedSpread | None:
    """The spread between seeds, pooled over the results that were scored on these images; None where none has several."""
    return pool_spread([result.mious for result in results if result.fingerprints == fingerprints and len(result.samples) > 1])


def estimate(result: Result, spread: SeedSpread | None) -> MetricEstimate:
    """The mean over seeds, with its 95 % CI over images and, where ``spread`` is known, seeds."""
    low, high = result.samples[0].recall(
        "ci95",
        join_marks(result.samples, spread),
        lambda: find_bounds(result.replicates + vary_seeds(spread, [len(result.samples)])),
    )
    return MetricEstimate(result.miou, low, high)


def compare_results(
    first: Result, second: Result, spread: SeedSpread | None, *, is_paired_by_seed: bool = False
) -> PairedDifference:
    """Subtract the second mean over seeds from the first, both on the same images: paired over images.

    spread: of the seeds of one result; with ``is_paired_by_seed``, of the differences between the two at the same seed.
    """
    assert first.fingerprints == second.fingerprints, (first.fingerprints, second.fingerprints)
    num_seeds = [len(first.samples)] if is_paired_by_seed else [len(first.samples), len(second.samples)]

    def find() -> tuple[float, float, float, float]:
        value = first.miou - second.miou
        drawn = _widen(np.array(value), first.replicates - second.replicates, first, second)
        return astuple(judge(value, drawn + vary_seeds(spread, num_seeds)))

    marked = (len(first.samples), num_seeds, spread, max(first.widening, second.widening))
    mark = join_marks((*first.samples, *second.samples), *marked)
    return PairedDifference(*first.samples[0].recall("difference", mark, find))


def compare_class_results(first: Result, second: Result) -> dict[int, PairedDifference]:
    """The same of the IoU of each class that both have. The spread of a class's seeds is that of these two results."""
    assert first.fingerprints == second.fingerprints, (first.fingerprints, second.fingerprints)
    ious = [result.class_ious() for result in (first, second)]
    values = ious[0].mean(axis=0) - ious[1].mean(axis=0)
    drawn = _widen(values, first.resample_classes() - second.resample_classes(), first, second)
    found = {}
    for c in np.flatnonzero(np.isfinite(values)).tolist():
        spread = pool_spread([seeds[:, c].tolist() for seeds in ious])
        found[c] = judge(float(values[c]), drawn[:, c] + vary_seeds(spread, [len(seeds) for seeds in ious]))
    return found


def _widen(value: NDArray[np.float64], drawn: NDArray[np.float64], first: Result, second: Result) -> NDArray[np.float64]:
    """Move replicates of a difference away from its value, where one of the two was chosen by cross-fitting."""
    factor = max(first.widening, second.widening)
    return drawn if factor == 1 else value + factor * (drawn - value)


def name_joined(configuration: str, seed: str | int) -> str:
    """The key of all folds of a configuration and seed together."""
    return f"{configuration}-{seed}"


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
    ranked = []
    for block in make_blocks(results, lambda result: result.fingerprints):
        best_first = sorted(block, key=lambda result: (-result.miou, result.keys))
        best, spread = best_first[0], pool_spread_of(results if pool is None else pool, block[0].fingerprints)
        ranked.append(
            [
                RankedResult(
                    result=result,
                    rank=rank,
                    ci95=estimate(result, spread).ci95,
                    is_tied=result is best or not compare_results(best, result, spread).is_significant,
                )
                for rank, result in enumerate(best_first, start=1)
            ]
        )
    return ranked


def make_blocks(items: Iterable[T], identify: Callable[[T], Hashable]) -> list[list[T]]:
    """Items of equal identity together, the largest block first."""
    blocks = group_by(items, identify).items()
    return [block for _, block in sorted(blocks, key=lambda pair: (-len(pair[1]), str(pair[0])))]
