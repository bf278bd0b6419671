"""A user's arrays or .npy files -> the best ensemble of them: ``select_ensemble``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.errors import EnsembleError

if TYPE_CHECKING:
    from orchestrator.ensemble.evaluation.report import EnsembleReport
    from orchestrator.ensemble.selection.strategies import SearchName
    from trainers.prediction.means import Mean


def select_ensemble(
    predictions: Sequence[NDArray[Any] | str | Path],
    labels: ArrayLike,
    *,
    k: int = 4,
    ignore_classes: tuple[int, ...] = (0,),
    keys: Sequence[str] | None = None,
    exactly: bool = False,
    groups: ArrayLike | None = None,
    search: SearchName = "auto",
    mean: Mean = "arithmetic",
) -> EnsembleReport:
    """Choose up to ``k`` predictions whose mean has the highest mIoU, and estimate what such a choice is worth on other images.

    predictions: each (N, C, H, W), uint8 probabilities times 255 or floats in [0, 1], or the path of such a .npy file. Files may
    exceed memory: they are mapped, and floats are converted to bytes one candidate at a time.
    labels: (N, H, W) int, classes below C or 255 for void.
    ignore_classes: classes whose pixels are not scored; void never is.
    keys: names of the predictions. Ties go to the smaller key, or without keys to the earlier prediction.
    groups: (N,) number or name of each image's group (a scene, a patient), which cross-fitting never splits.
    search, mean: as ``--search`` and ``--combine`` of ``orchestrate best-ensemble``.

    The main results are ``.members``, ``.weights``, ``.miou`` (cross-fitted), ``.ci95``, ``.miou_in_sample``, ``.trajectory``.

    Raises:
        EnsembleError: the arrays do not fit each other, or a file cannot be read.
    """
    from orchestrator.ensemble.evaluation.evaluate import evaluate  # numba takes a second
    from orchestrator.ensemble.selection.pool import Pool, SelectionRules
    from orchestrator.ensemble.selection.strategies import SEARCHES
    from trainers.config import VOID, check_known
    from trainers.prediction.means import Mean

    names = [str(i) for i in range(len(predictions))] if keys is None else list(keys)
    if len(names) != len(predictions):
        raise EnsembleError(f"{len(names)} keys for {len(predictions)} predictions: expected one each.")
    try:
        check_known(search, ("auto", *SEARCHES), "search")
        check_known(mean, get_args(Mean), "mean")
    except ValueError as error:
        raise EnsembleError(str(error)) from None
    named = list(zip(names, predictions, strict=True))
    ordered = named if keys is None else sorted(named, key=lambda pair: pair[0])
    true, ignored = np.asarray(labels), tuple(c for c in ignore_classes if c != VOID)
    converted = (_convert(source, name) for name, source in ordered)  # one at a time: they may exceed memory
    pool = Pool([name for name, _ in ordered], converted, true, ignored, mean=mean)
    numbers = _number_groups(groups, len(true))
    return evaluate(pool, k=k, exactly=exactly, groups=numbers, rules=SelectionRules(search))


def _convert(source: NDArray[Any] | str | Path, name: str) -> NDArray[np.uint8]:
    """As uint8."""
    try:
        array = np.lib.format.open_memmap(source, mode="r") if isinstance(source, str | Path) else source
    except (OSError, ValueError) as error:
        raise EnsembleError(f"{source}: cannot be read as .npy: {error}.") from error
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise EnsembleError(f"{name}: predictions are {array.dtype}, expected uint8 (times 255) or floats in [0, 1].")
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if not (low >= 0 and high <= 1):
        raise EnsembleError(f"{name}: probabilities are {low} to {high}, expected 0 to 1. Apply a softmax first.")
    from trainers.prediction.predict import quantize  # imports torch, which uint8 arrays do not need

    return quantize(np.asarray(array, dtype=np.float32))


def _number_groups(groups: ArrayLike | None, num_images: int) -> NDArray[np.int64] | None:
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (num_images,):
        raise EnsembleError(f"groups are {array.shape}, expected one of each image: {(num_images,)}.")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
