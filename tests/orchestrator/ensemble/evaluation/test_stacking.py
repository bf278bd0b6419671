"""Learned combinations: what they learn, that they learn nothing from the images they are judged on, and that they say it."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from orchestrator.ensemble.evaluation import stacking
from orchestrator.ensemble.evaluation.crossfit import CrossFitting, make_parts
from orchestrator.ensemble.evaluation.evaluate import evaluate
from orchestrator.ensemble.evaluation.stacking import STACKS, draw_sample, fit_stack, learn_linear, learn_weights
from orchestrator.ensemble.selection.pool import Pool

SHAPE = (20, 8, 8)


def make_pool(seed: int, strengths: tuple[int, ...], *, swapped: bool = False) -> Pool:
    """Candidates that see the truth through noise, more or less; swapped: each takes class 1 for class 2 and the reverse."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, SHAPE).astype(np.uint8)
    seen = np.array([0, 2, 1])[labels] if swapped else labels
    truth = np.stack([seen == c for c in range(3)], axis=1)
    arrays = [(truth * s + random.uniform(0, 255 - s, truth.shape)).astype(np.uint8) for s in strengths]
    return Pool([f"k{i}" for i in range(len(arrays))], arrays, labels, (0,))


def test_weights_are_convex_and_know_who_is_worth_something() -> None:
    """A candidate that sees the truth gets nearly all, those of pure noise next to nothing."""
    pool = make_pool(0, (200, 0, 0))
    weights = learn_weights(*draw_sample(pool, [0, 1, 2], np.arange(20)))[:, 1, 1]
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (weights >= 0).all()
    assert weights[0] > 0.9


def test_the_linear_model_learns_what_no_mean_can() -> None:
    """Candidates that take two classes for each other score nothing alone, and nearly everything once that is learned."""
    pool = make_pool(1, (160, 160), swapped=True)
    report = evaluate(pool, k=2, stack=True)
    linear = next(stack for stack in report.stacks if stack.name == "linear at each pixel")
    assert report.miou < 0.2
    assert linear.miou.value > 0.8
    assert linear.over_chosen.low > 0
    console = Console(width=100)
    with console.capture() as captured:
        console.print(report.render())
    assert "Significantly better than the chosen members: linear at each pixel" in captured.get()


def test_with_nothing_to_learn_from_the_linear_model_is_the_plain_mean() -> None:
    """It is drawn towards that."""
    matrices = learn_linear(np.empty((0, 2, 3), np.float32), np.empty(0, np.int64))
    assert matrices == pytest.approx(np.tile(np.eye(3) * matrices[0, 0, 0], (2, 1, 1)))


@pytest.mark.parametrize("name", STACKS)
def test_the_truth_of_a_part_is_never_learned_from(name: str) -> None:
    """The images of a part are combined in the same way, whatever their labels are."""
    pool, parts = make_pool(2, (60, 40, 20)), make_parts(20, None)
    part, others = parts[0], np.concatenate(parts[1:])
    before = fit_stack(pool, STACKS[name])(np.sort(others), part)
    labels = pool.labels.reshape(SHAPE).copy()
    labels[part] = np.where(labels[part] == 255, 255, 3 - labels[part])
    arrays = [np.asarray(pool.predictions[i]).reshape(20, 3, 8, 8) for i in range(3)]
    after = fit_stack(Pool(pool.keys, arrays, labels, (0,)), STACKS[name])(np.sort(others), part)
    assert (before[:, [1, 2]] == after[:, [2, 1]]).all()


def test_learning_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more pixels and candidates than said; rare classes are drawn more often than they are there."""
    monkeypatch.setattr(stacking, "NUM_PIXELS", 100)
    pool = make_pool(3, (90,) * 14)
    _, true = draw_sample(pool, [0, 1], np.arange(20))
    assert 100 <= len(true) <= 103
    asked: list[int] = []

    def learn(probabilities: np.ndarray, true: np.ndarray) -> np.ndarray:
        asked.append(probabilities.shape[1])
        return learn_weights(probabilities, true)

    CrossFitting(pool, None).score(fit_stack(pool, learn))
    assert asked == [stacking.MAX_CANDIDATES] * 5
