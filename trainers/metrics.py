"""Predicted and true masks -> confusion matrices -> mIoU, the objective. numpy only; the statistics reuse it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_per_image(
    pred: NDArray[Any], target: NDArray[Any], *, num_classes: int, ignore_classes: Sequence[int]
) -> NDArray[np.int64]:
    """Compute a confusion matrix per image.

    pred: (N, H, W) integers in 0..num_classes-1; target: (N, H, W) uint8. Pixels whose true class is in ``ignore_classes`` or is
    not below ``num_classes`` (void) are not counted. Returns (N, C, C) int64, rows true, columns predicted.
    """
    assert pred.shape == target.shape, f"pred {pred.shape} and target {target.shape} differ"
    num_images = len(pred)
    row_of = np.full(256, num_classes, dtype=np.int64)  # an extra row takes the pixels that are not scored
    scored = [c for c in range(num_classes) if c not in ignore_classes]
    row_of[scored] = scored
    cells = (num_classes + 1) * num_classes
    index = row_of[target] * num_classes
    index += pred
    index += np.arange(num_images).reshape(-1, 1, 1) * cells
    counts = np.bincount(index.ravel(), minlength=num_images * cells)
    return counts.reshape(num_images, num_classes + 1, num_classes)[:, :num_classes]


def class_iou(confusion: NDArray[Any], ignore_classes: Sequence[int]) -> NDArray[np.float64]:
    """Intersection over union of each class.

    confusion: (..., C, C), rows true, columns predicted. Returns (..., C) float64 in [0, 1]; NaN for ignored classes and those
    without true and predicted pixels. A predicted ignored class on a scored pixel is a miss.
    """
    counts = np.array(confusion, dtype=np.float64)
    ignored = list(ignore_classes)
    counts[..., ignored, :] = 0
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(axis=-1) + counts.sum(axis=-2) - hits
    iou: NDArray[np.float64] = np.full(union.shape, np.nan)
    np.divide(hits, union, out=iou, where=union > 0)
    iou[..., ignored] = np.nan
    return iou


def mean_iou(confusion: NDArray[Any], ignore_classes: Sequence[int]) -> NDArray[np.float64]:
    """Mean of ``class_iou`` over the classes where it is defined.

    confusion: (..., C, C), summed over images. Returns (...,) float64; NaN if nothing is scored.
    """
    iou = class_iou(confusion, ignore_classes)
    present = ~np.isnan(iou)
    num_present = present.sum(axis=-1)
    mean = np.full(num_present.shape, np.nan)
    np.divide(np.where(present, iou, 0.0).sum(axis=-1), num_present, out=mean, where=num_present > 0)
    return mean
