from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainers.config import VOID
from trainers.metrics import class_iou, confusion_per_image, mean_iou

NUM_CLASSES = 4
masks = arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 3, VOID]))
predictions = arrays(np.uint8, (2, 3, 4), elements=st.integers(0, NUM_CLASSES - 1))
ignored_classes = st.sets(st.integers(0, NUM_CLASSES - 1), max_size=3).map(sorted)


def test_confusion_counts_pairs_by_hand() -> None:
    """Rows are the truth, columns the prediction, one matrix per image."""
    target = np.array([[[0, 1], [2, 2]], [[1, 1], [0, 2]]], dtype=np.uint8)
    pred = np.array([[[0, 2], [2, 1]], [[1, 1], [1, 2]]])
    found = confusion_per_image(pred, target, num_classes=3, ignore_classes=())
    assert found.dtype == np.int64
    assert found.tolist() == [[[1, 0, 0], [0, 0, 1], [0, 1, 1]], [[0, 1, 0], [0, 2, 0], [0, 0, 1]]]


def test_void_and_ignored_truth_is_not_counted() -> None:
    """A pixel whose true class is void or ignored appears in no cell."""
    target = np.array([[[0, VOID], [1, 1]]], dtype=np.uint8)
    pred = np.array([[[1, 1], [1, 0]]])
    found = confusion_per_image(pred, target, num_classes=2, ignore_classes=(0,))
    assert found.tolist() == [[[0, 0], [1, 1]]]


def test_predicted_ignored_class_is_a_miss() -> None:
    """Of two pixels of class 1, one called 0 (ignored): IoU 1/2."""
    found = class_iou(np.array([[0, 0], [1, 1]]), (0,))
    np.testing.assert_array_equal(found, [np.nan, 0.5])


def test_iou_and_mean_by_hand() -> None:
    """2x2 by hand: intersections 3 and 4, unions 3+1+2 and 4+1+2."""
    confusion = np.array([[3, 1], [2, 4]])
    np.testing.assert_allclose(class_iou(confusion, ()), [3 / 6, 4 / 7])
    assert mean_iou(confusion, ()) == (3 / 6 + 4 / 7) / 2


def test_class_without_true_and_predicted_pixel_is_left_out() -> None:
    """The mean is over the other classes."""
    confusion = np.array([[2, 0, 0], [0, 0, 0], [1, 0, 1]])
    np.testing.assert_allclose(class_iou(confusion, ()), [2 / 3, np.nan, 1 / 2])
    assert mean_iou(confusion, ()) == (2 / 3 + 1 / 2) / 2


def test_predicted_but_absent_class_counts_as_zero() -> None:
    """A class that is predicted somewhere and true nowhere has IoU 0, not none."""
    np.testing.assert_allclose(class_iou(np.array([[1, 1], [0, 0]]), ()), [1 / 2, 0])


def test_rows_of_ignored_classes_do_not_count_even_if_given() -> None:
    """A matrix counted under another rule gives the same IoU as one counted under this rule."""
    counted, cleaned = np.array([[9, 5], [1, 4]]), np.array([[0, 0], [1, 4]])
    np.testing.assert_array_equal(class_iou(counted, (0,)), class_iou(cleaned, (0,)))


def test_nothing_scored_gives_nan_without_warning() -> None:
    """The mean over no class is not a number."""
    assert np.isnan(mean_iou(np.zeros((2, 2)), ()))


def test_leading_axes_are_kept() -> None:
    """Matrices in a (2, 3) arrangement give (2, 3) means."""
    assert mean_iou(np.ones((2, 3, 4, 4), dtype=np.int64), (1,)).shape == (2, 3)


@settings(max_examples=50, deadline=None)
@given(pred=predictions, target=masks, ignored=ignored_classes)
def test_iou_lies_between_0_and_1(pred: np.ndarray, target: np.ndarray, ignored: list[int]) -> None:
    """Every IoU that exists is a share, and the mean lies between the least and the greatest."""
    total = confusion_per_image(pred, target, num_classes=NUM_CLASSES, ignore_classes=ignored).sum(axis=0)
    iou = class_iou(total, ignored)
    present = iou[~np.isnan(iou)]
    assert ((present >= 0) & (present <= 1)).all()
    mean = mean_iou(total, ignored)
    assert np.isnan(mean) if len(present) == 0 else present.min() - 1e-12 <= mean <= present.max() + 1e-12


@settings(max_examples=50, deadline=None)
@given(pred=predictions, target=masks, ignored=ignored_classes, order=st.permutations(range(NUM_CLASSES)))
def test_renaming_the_classes_renames_the_ious(
    pred: np.ndarray, target: np.ndarray, ignored: list[int], order: list[int]
) -> None:
    """IoU does not depend on the numbers that classes happen to have, nor on the order of the images."""
    rename = np.arange(256, dtype=np.uint8)
    rename[:NUM_CLASSES] = order
    renamed_ignored = [order[c] for c in ignored]
    before = class_iou(confusion_per_image(pred, target, num_classes=NUM_CLASSES, ignore_classes=ignored).sum(axis=0), ignored)
    after = class_iou(
        confusion_per_image(
            rename[pred][::-1], rename[target][::-1], num_classes=NUM_CLASSES, ignore_classes=renamed_ignored
        ).sum(axis=0),
        renamed_ignored,
    )
    np.testing.assert_array_equal(after[order], before)


@settings(max_examples=50, deadline=None)
@given(pred=predictions, target=masks, ignored=ignored_classes)
def test_every_scored_pixel_is_counted_once(pred: np.ndarray, target: np.ndarray, ignored: list[int]) -> None:
    """The matrix of an image sums to its scored pixels."""
    found = confusion_per_image(pred, target, num_classes=NUM_CLASSES, ignore_classes=ignored)
    scored = (target != VOID) & ~np.isin(target, ignored)
    assert found.sum(axis=(1, 2)).tolist() == scored.sum(axis=(1, 2)).tolist()


def test_module_loads_no_torch() -> None:
    """The statistics can use the objective without loading torch."""
    code = "import sys, trainers.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
