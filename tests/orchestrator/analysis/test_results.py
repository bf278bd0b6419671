"""Seeds and folds of one configuration as one result, and what may be said of two of them."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.results import compare_class_results, compare_results, join_trials, pool_spread_of, score_trial
from orchestrator.analysis.stats import compute_miou, pool_spread, sum_groups, vary_seeds
from orchestrator.analysis.trials import Trial, strip_seed


def make_matrices(seed: int, *, accuracy: float = 0.7, num_images: int = 30) -> np.ndarray:
    """(V, 2, 2): about ``accuracy`` of the pixels right."""
    random = np.random.default_rng(seed)
    rows = [[accuracy, 1 - accuracy], [1 - accuracy, accuracy]]
    return np.stack([[random.multinomial(200, row) for row in rows] for _ in range(num_images)])


def make_trial(matrices: np.ndarray, *, seed: int = 0, fold: tuple[int, int] | None = None, state: str = "COMPLETE") -> Trial:
    """A trial of configuration ``c``; each fold was scored on different images."""
    part = f" fold {fold[0] + 1}/{fold[1]}" if fold else ""
    return Trial(
        key=f"k{seed}{part}", name=f"dice seed {seed}{part}", configuration="c", state=state, run_id=f"r{seed}{part}", attempts=1,
        config={}, metrics={"val/miou": 0.5}, scored_fingerprint=f"images{part}", seed=seed, fold=fold,
        matrices=Matrices.of(matrices),
    )  # fmt: skip


def test_folds_of_a_seed_are_one_set_of_images() -> None:
    """In the order of their numbers, for any input order; mIoU is of all images together, not a mean of means."""
    parts = [make_matrices(i, accuracy=accuracy) for i, accuracy in enumerate((0.5, 0.9))]
    folds = [make_trial(matrices, fold=(i, 2)) for i, matrices in enumerate(parts)]
    result = join_trials(folds[::-1])
    assert result is not None
    assert (result.name, result.fingerprints, result.seeds) == ("dice", ("images fold 1/2", "images fold 2/2"), (0,))
    assert (result.confusions[0] == np.concatenate(parts)).all()
    assert result.miou == compute_miou(np.concatenate(parts), ())


def test_a_seed_that_lacks_a_fold_is_left_out() -> None:
    """And named; a configuration without any whole seed is no result, while one fold alone is."""
    folds = [make_trial(make_matrices(i), seed=seed, fold=(i, 2)) for seed, i in ((0, 0), (0, 1), (1, 0))]
    result = join_trials(folds)
    assert result is not None
    assert (result.seeds, result.left_out) == ((0,), ("dice seed 1 fold 1/2",))
    assert join_trials([folds[0], folds[2]]) is None
    alone = score_trial(folds[2])
    assert alone is not None
    assert alone.name == "dice seed 1 fold 1/2"


def test_seeds_widen_the_ci() -> None:
    """With one seed each the difference is significant; two seeds that differ as much as the configurations make it not so."""
    first = [make_trial(make_matrices(0, accuracy=a), seed=i) for i, a in enumerate((0.70, 0.80))]
    second = [make_trial(make_matrices(0, accuracy=a), seed=i) for i, a in enumerate((0.62, 0.72))]
    alone = [score_trial(side[0]) for side in (first, second)]
    groups = [join_trials(side) for side in (first, second)]
    assert all(result is not None for result in (*alone, *groups))
    assert compare_results(alone[0], alone[1], pool_spread_of(alone, ("images",))).is_significant
    spread = pool_spread_of(groups, ("images",))
    assert spread is not None
    assert spread.degrees == 2
    assert not compare_results(groups[0], groups[1], spread).is_significant


def test_results_that_share_their_seeds_are_paired_by_seed() -> None:
    """A gain that is the same at each seed is significant, however much the seeds differ."""
    accuracies = (0.60, 0.75, 0.90)
    ensemble = join_trials([make_trial(make_matrices(0, accuracy=a + 0.05), seed=i) for i, a in enumerate(accuracies)])
    member = join_trials([make_trial(make_matrices(0, accuracy=a), seed=i) for i, a in enumerate(accuracies)])
    assert ensemble is not None
    assert member is not None
    gains = pool_spread([[e - m for e, m in zip(ensemble.mious, member.mious, strict=True)]])
    assert compare_results(ensemble, member, gains, is_paired_by_seed=True).is_significant
    assert not compare_results(ensemble, member, pool_spread_of([ensemble, member], ("images",))).is_significant


def test_what_seeds_add_is_students_t() -> None:
    """The pooled deviation of two groups by hand, and the 97.5th percentile of t with 2 degrees of freedom, 4.303."""
    spread = pool_spread([[0.5, 0.7], [0.1, 0.1], [0.9]])
    assert spread is not None
    assert (spread.value, spread.degrees) == (pytest.approx(0.1), 2)
    drawn = vary_seeds(spread, [2, 2])
    assert np.percentile(drawn, 97.5) == pytest.approx(0.1 * 4.303, rel=0.25)
    assert not vary_seeds(None, [1, 1]).any()


def test_classes_are_compared_one_by_one() -> None:
    """If only class 1 differs, only its CI excludes 0 clearly."""
    first = make_matrices(3)
    second = first.copy()
    second[:, 1, 1] -= 60  # its pixels are lost to a class of no other true pixel
    second = np.pad(second, ((0, 0), (0, 1), (0, 1)))
    first = np.pad(first, ((0, 0), (0, 1), (0, 1)))
    second[:, 1, 2] += 60
    sides = [score_trial(make_trial(matrices)) for matrices in (first, second)]
    assert sides[0] is not None
    assert sides[1] is not None
    found = compare_class_results(sides[0], sides[1])
    assert found[1].low > 0.1
    assert found[0].value == pytest.approx(0)


def test_images_that_belong_together_are_drawn_together() -> None:
    """Thirty copies of four images, as groups, add up to the four images' matrices."""
    four = make_matrices(4, num_images=4)
    copies = np.repeat(four, 30, axis=0)
    summed = sum_groups(copies, np.repeat([7, 3, 5, 1], 30))
    assert (summed == 30 * four[[3, 1, 2, 0]]).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dice seed 3", "dice"),
        ("dice seed 3 fold 1/5", "dice"),
        ("dice fold 10/10 again nightly", "dice again nightly"),
        ("row 7", "row 7"),
    ],
)
def test_a_configuration_is_called_as_its_trials_without_seed_and_fold(name: str, expected: str) -> None:
    """Whatever a name says of them."""
    assert strip_seed(name) == expected
