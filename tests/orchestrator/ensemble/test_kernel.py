"""The kernel counts what naive integer numpy counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.kernel import UNSCORED, are_equal, count_confusions


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sums, candidate, labels) with many ties: few different values, sizes around the tile's."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_images, num_classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    num_pixels = draw(st.sampled_from([1, 63, 64, 65, 1023, 1024, 1025, 2100]))
    levels = draw(st.sampled_from([1, 3, 256]))
    shape = (num_images, num_classes, num_pixels)
    sums = random.integers(0, levels, shape).astype(np.uint16) * draw(st.sampled_from([1, 200]))
    labels = random.choice(np.array([*range(num_classes), UNSCORED], np.uint8), (num_images, num_pixels))
    return sums.astype(np.uint16), random.integers(0, levels, shape).astype(np.uint8), labels


def count_naively(sums: np.ndarray, candidate: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the kernel must give, in plain numpy."""
    num_images, num_classes, _ = candidate.shape
    predicted = (sums.astype(np.int64) + candidate).argmax(axis=1)
    confusions = np.zeros((num_images, num_classes, num_classes), np.int64)
    for image in range(num_images):
        scored = labels[image] != UNSCORED
        np.add.at(confusions[image], (labels[image][scored], predicted[image][scored]), 1)
    return confusions


@given(cases())
@settings(max_examples=60, deadline=None)
def test_counts_equal_numpy(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Exact for any number of classes, size, ties and ignored pixels."""
    sums, candidate, labels = case
    images = np.arange(len(labels))
    assert np.array_equal(count_confusions(sums, candidate, labels, images), count_naively(sums, candidate, labels))


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_a_choice_of_images_counts_those(case: tuple[np.ndarray, np.ndarray, np.ndarray], random: object) -> None:
    """Images are counted by index, in the order asked for."""
    sums, candidate, labels = case
    images = np.array([len(labels) - 1, 0])
    assert np.array_equal(
        count_confusions(sums[images], candidate, labels, images), count_naively(sums, candidate, labels)[images]
    )


def test_a_single_member_predicts_its_stored_argmax() -> None:
    """With nothing added the winner is argmax, the lowest class on ties."""
    candidate = np.array([[[5, 9, 0], [5, 9, 0], [1, 9, 7]]], np.uint8)
    labels = np.array([[1, 1, 1]], np.uint8)
    confusions = count_confusions(np.zeros((1, 3, 3), np.uint16), candidate, labels, np.array([0]))
    assert confusions[0, 1].tolist() == [2, 0, 1]


def test_equality_looks_at_scored_pixels_only() -> None:
    """Candidates that differ where nothing is scored are equal."""
    labels = np.array([[0, UNSCORED]], np.uint8)
    first, second, third = (np.array([[[a, b], [0, 0]]], np.uint8) for a, b in ((1, 1), (1, 2), (2, 1)))
    assert are_equal(first, second, labels)
    assert not are_equal(first, third, labels)
