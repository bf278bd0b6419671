"""CIs and paired tests from per-image confusion matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis.results import Result, compare_results, estimate
from orchestrator.analysis.stats import MetricEstimate, PairedDifference, SeedSpread, compute_miou, pool_spread, resample


def make_confusions(seed: int, *, accuracy: float = 0.6, num_images: int = 40) -> np.ndarray:
    """(V, 3, 3): about ``accuracy`` of 100 pixels a class right."""
    random = np.random.default_rng(seed)
    wrong = (1 - accuracy) / 2
    rows = [[accuracy if t == p else wrong for p in range(3)] for t in range(3)]
    return np.stack([[random.multinomial(random.integers(50, 150), row) for row in rows] for _ in range(num_images)])


def estimate_miou(confusions: np.ndarray) -> MetricEstimate:
    """Of one result alone."""
    return estimate(Result.of(confusions, ()), None)


def compare(first: np.ndarray, second: np.ndarray) -> PairedDifference:
    """Two results on the same images."""
    return compare_results(Result.of(first, ()), Result.of(second, ()), None)


def test_miou_of_a_matrix_made_by_hand() -> None:
    """Class 1: 2 of 4; class 2: 1 of 3; class 0 is ignored but a prediction of it is a miss."""
    confusions = np.array([[[9, 9, 9], [1, 2, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [1, 1, 1]]])
    assert compute_miou(confusions, (0,)) == pytest.approx((2 / 4 + 1 / 3) / 2)


def test_the_ci_contains_the_value_and_is_deterministic() -> None:
    """Seeded, and around the value."""
    found = estimate_miou(make_confusions(0))
    assert found.low < found.value < found.high
    assert estimate_miou(make_confusions(0)) == found


def test_a_class_absent_from_a_resample_is_left_out() -> None:
    """A class that only one image has leaves no NaN behind."""
    confusions = make_confusions(1, num_images=4)
    confusions[1:, 2, :] = 0
    confusions[1:, :, 2] = 0
    assert np.isfinite(resample(confusions, ())).all()


def test_a_result_is_tied_with_itself() -> None:
    """No difference, no evidence, even chances."""
    confusions = make_confusions(2)
    difference = compare(confusions, confusions)
    assert (difference.value, difference.low, difference.high, difference.probability) == (0, 0, 0, 0.5)
    assert not difference.is_significant


def test_a_clear_difference_is_evidence_and_antisymmetric() -> None:
    """Much better on the same images: the CI excludes 0, in both directions."""
    good, bad = make_confusions(3, accuracy=0.8), make_confusions(3, accuracy=0.6)
    forward, backward = compare(good, bad), compare(bad, good)
    assert forward.low > 0
    assert forward.probability == 1
    assert (backward.value, backward.low, backward.high) == pytest.approx((-forward.value, -forward.high, -forward.low))


def test_a_paired_test_finds_what_two_cis_cannot() -> None:
    """A small gain on every image is significant although the two CIs overlap."""
    first = make_confusions(4, num_images=30)
    second = first.copy()
    second[:, 1, 1] += 5
    one, two = estimate_miou(first), estimate_miou(second)
    assert two.low < one.high
    assert compare(second, first).low > 0


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_replicates_lie_between_0_and_1(seed: int, num_images: int) -> None:
    """For any number of images."""
    values = resample(make_confusions(seed, num_images=num_images), (0,))
    assert ((values >= 0) & (values <= 1)).all()


def test_the_spread_of_many_seeds_is_as_exact_as_it_is_known() -> None:
    """Within half its standard error; among thousands a few more hardly ever change it, of few every digit counts."""
    rng = np.random.default_rng(0)
    results = rng.normal(0, 0.02, (3000, 2)).tolist()
    for num in (40, 64, 500, 3000):
        spread = pool_spread(results[:num])
        assert spread is not None
        right = float(np.mean([np.var(figures, ddof=1) for figures in results[:num]])) ** 0.5
        assert abs(spread.value / right - 1) <= (0.51 * (2 * spread.degrees) ** -0.5 if num >= 64 else 1e-12)
        assert spread.degrees <= num
    assert len({pool_spread(results[:num]) for num in range(2100, 3000, 10)}) < 10
    assert pool_spread([[0.5, 0.5]] * 100) == SeedSpread(0.0, 100)  # nothing to round
