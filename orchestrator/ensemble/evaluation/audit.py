"""What the stored bytes cost: the chosen members' mean again, from what was kept in 16 bits on request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble.selection.kernel import MAX_MEMBERS
from orchestrator.state.trial.outputs import read_info, read_labels, read_predictions, read_u16
from trainers.metrics import confusion_per_image
from trainers.prediction.means import Mean, to_addends


@dataclass(frozen=True)
class Audit:
    """The members' figures in 8 and in 16 bits, in sample; or who lacks the 16 bits, and no figures."""

    lacking: tuple[str, ...] = ()
    """Names of trials."""
    miou_u8: float | None = None
    miou_u16: float | None = None
    largest_difference: float | None = None
    """Between the combined probabilities of a class at a scored pixel, 0..1."""
    num_changed: int | None = None
    """Scored pixels at which another class wins."""
    num_pixels: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "lacking": list(self.lacking)}

    def describe(self) -> str:
        """One line for people."""
        if self.lacking:
            return (
                f"Audit: not possible, for want of predictions in 16 bits: {', '.join(self.lacking)}. Set "
                "`keep: {predictions: u16}`, and train them again with `orchestrate retry SWEEP --trial KEY`."
            )
        return (
            f"Audit, in sample: mIoU {self.miou_u16:.6f} in 16 bits, {self.miou_u8:.6f} in 8; largest difference of a combined "
            f"probability {self.largest_difference:.6f}; another class wins at {self.num_changed} of {self.num_pixels} pixels."
        )


def audit_members(
    folders: Sequence[Sequence[Path]], cache: Path, *, weights: Sequence[float], mean: Mean, miou_u8: float
) -> Audit:
    """Combine members, one image at a time, from their predictions in 16 bits, which all must have, and see what 8 bits changed.

    folders: of each member, with folds those of all folds, in the same order for all; weights: of each, as a selection gives
    them; miou_u8: what the selection found on all images.

    Raises:
        EnsembleError: a file is missing or damaged.
    """
    repeats = _make_whole(weights)
    info = read_info(folders[0][0])
    confusion = np.zeros((info.shape[1],) * 2, np.int64)
    largest, num_changed = 0.0, 0
    for part in zip(*folders, strict=True):  # of the same images
        labels = read_labels(part[0], cache)
        stored, finer = [read_predictions(path, cache) for path in part], [read_u16(path, cache) for path in part]
        for i, truth in enumerate(labels):
            coarse = _combine([array[i] for array in stored], repeats, mean)
            fine = _combine([array[i] for array in finer], repeats, mean)
            is_scored = (truth < len(confusion)) & ~np.isin(truth, info.ignore_classes)
            winner = fine.argmax(axis=0)
            confusion += confusion_per_image(
                winner[None], truth[None], num_classes=len(confusion), ignore_classes=info.ignore_classes
            )[0]
            largest = max(largest, float(np.abs(fine - coarse)[:, is_scored].max(initial=0)))
            num_changed += int((winner != coarse.argmax(axis=0))[is_scored].sum())
    miou_u16 = compute_miou(confusion[None], info.ignore_classes)
    return Audit((), miou_u8, miou_u16, largest, num_changed, int(confusion.sum()))


def _make_whole(weights: Sequence[float]) -> list[int]:
    fractions = [Fraction(weight).limit_denominator(MAX_MEMBERS) for weight in weights]
    unit = math.lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * unit) for fraction in fractions]


def _combine(members: Sequence[NDArray[Any]], repeats: Sequence[int], mean: Mean) -> NDArray[np.float64]:
    """What members (C, H, W) of stored probabilities come to, in 0..1; the sums of an arithmetic mean are exact.

    Of a geometric mean a stored 0 is taken for half a step, as in the selection.
    """
    largest = 1 if mean == "vote" else int(np.iinfo(members[0].dtype).max)
    combined = np.zeros(members[0].shape)
    for array, repeat in zip(members, repeats, strict=True):
        if mean == "geometric":
            combined += repeat * np.log(np.maximum(array, 0.5) / largest)
        else:
            combined += repeat * (to_addends(array[None], mean)[0].astype(np.float64))
    combined /= sum(repeats)
    return np.exp(combined) if mean == "geometric" else combined / largest
