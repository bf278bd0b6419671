"""Members combined from 16 bits, beside what was chosen by bytes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble.evaluation.audit import Audit, audit_members
from orchestrator.state.trial.outputs import write_predictions
from trainers.metrics import confusion_per_image
from trainers.prediction.means import Mean
from trainers.prediction.predict import quantize, quantize_u16

LABELS = np.random.default_rng(0).integers(0, 3, (6, 8, 8)).astype(np.uint8)
SCORED = LABELS != 0


def make_probabilities(seed: int) -> np.ndarray:
    """Of three classes that a byte can hardly tell apart, (6, 3, 8, 8) float32."""
    random = np.random.default_rng(seed)
    scores = 1 + random.uniform(0, 0.02, (6, 3, 8, 8)) + 0.005 * np.stack([c == LABELS for c in range(3)], axis=1)
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def store(folder: Path, probabilities: np.ndarray, part: slice) -> Path:
    """Some images of a member, as a trial leaves them."""
    folder.mkdir(parents=True)
    write_predictions(
        folder,
        quantize(probabilities[part]),
        LABELS[part],
        ignore_classes=(0,),
        scored_fingerprint="fp",
        predictions_u16=quantize_u16(probabilities[part]),
    )
    return folder


def score(combined: np.ndarray) -> float:
    """MIoU of combined probabilities."""
    return compute_miou(confusion_per_image(combined.argmax(axis=1), LABELS, num_classes=3, ignore_classes=(0,)), (0,))


@pytest.mark.parametrize("mean", ["arithmetic", "geometric", "vote"])
@pytest.mark.parametrize("cuts", [(0, 6), (0, 2, 6)], ids=["whole", "folds"])
def test_the_audit_is_what_16_bits_come_to(tmp_path: Path, mean: Mean, cuts: tuple[int, ...]) -> None:
    """Score, largest difference and changed pixels of members of unequal weight, as whole arrays give them, folds or not."""
    probabilities = [make_probabilities(seed) for seed in range(2)]
    slices = [slice(start, stop) for start, stop in pairwise(cuts)]
    folders = [[store(tmp_path / f"{i}-{part.start}", member, part) for part in slices] for i, member in enumerate(probabilities)]
    found = audit_members(folders, tmp_path / "cache", weights=(0.4, 0.6), mean=mean, miou_u8=0.5)
    coarse, fine = (
        combine([make(member).astype(np.float64) / largest for member in probabilities], mean)
        for make, largest in ((quantize, 255), (quantize_u16, 65535))
    )
    changed = (coarse.argmax(axis=1) != fine.argmax(axis=1))[SCORED].sum()
    largest = np.abs(fine - coarse).transpose(0, 2, 3, 1)[SCORED].max()
    assert found.largest_difference == pytest.approx(largest, abs=1e-12)
    assert found == Audit((), 0.5, score(fine), found.largest_difference, int(changed), int(SCORED.sum()))
    assert bool(changed) == (mean != "vote")  # a vote knows the winners alone, which both keep


def combine(members: list[np.ndarray], mean: Mean) -> np.ndarray:
    """Two members, of which the second weighs half as much again."""
    first, second = members
    if mean == "vote":
        first, second = (np.eye(3)[member.argmax(axis=1)].transpose(0, 3, 1, 2) for member in members)
    if mean == "geometric":
        return np.exp((2 * np.log(first) + 3 * np.log(second)) / 5)
    return np.round(65535 * 255 * (2 * first + 3 * second)) / (65535 * 255 * 5)
