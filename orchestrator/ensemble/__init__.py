"""Predictions -> chosen members: ``select_ensemble`` for arrays of one's own; from_runs.py for those of sweeps.

store.py        predictions on disk
blocks.py       predictions regrouped: 64 pixels of one image and one true class
kernel.py       blocks -> which class wins how often; the only module that is compiled
counting.py     members and candidates -> confusion matrices, on all cores, remembered
search.py       greedy, weighted, swaps, beam, exhaustive
selection.py    a pool of candidates -> chosen members
evaluation.py   what the choice is worth: crossfit.py, diversity.py
stacking.py     combinations that are learned, with the same figures
report.py       the chosen ensemble and its figures, for people and machines
folds.py        folds of a configuration -> one candidate
wanted.py       which trials may become members, and what they may cost
from_runs.py    a sweep's runs -> candidates -> the ensemble's run
fixed.py        members named beforehand -> what their mean is worth
from_plan.py    a sweep's fixed ensembles: where they stand, and their evaluation
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """Choose up to ``k`` predictions whose mean has the highest mIoU, and tell what such a choice is worth on other images.

    predictions: each (N, C, H, W), uint8 probabilities times 255 or floats in [0, 1], or the path of such a .npy file, which is
    mapped into memory. labels: (N, H, W) int, classes below C or 255 for void. ignore_classes: classes whose pixels are not
    scored, as those of void never are. keys: what to call the predictions; ties go to the smaller key, or to the earlier
    prediction where no keys are given. groups: (N,) number or name of each image's group (a scene, a patient), which
    cross-fitting never splits. search, mean: as the options ``--search`` and ``--combine`` of ``orchestrate best-ensemble``. Of
    the result, ``.members``, ``.weights``, ``.miou_in_sample``, ``.miou`` (cross-fitted), ``.ci95`` and ``.trajectory`` say
    most. Files that hold more than memory does will do: of floats, one candidate at a time is read and kept as bytes.

    Raises:
        EnsembleError: the arrays do not fit each other, or a file cannot be read.
    """
    from orchestrator.ensemble.evaluation.evaluate import evaluate  # numba takes a second, which nobody pays for the store alone
    from orchestrator.ensemble.selection.pool import Pool, Search
    from orchestrator.ensemble.selection.strategies import SEARCHES
    from trainers.config import VOID
    from trainers.prediction.means import Mean

    names = [str(i) for i in range(len(predictions))] if keys is None else list(keys)
    if len(names) != len(predictions):
        raise EnsembleError(f"{len(names)} keys for {len(predictions)} predictions: expected one each.")
    _check_choice("search", search, ("auto", *SEARCHES))
    _check_choice("mean", mean, get_args(Mean))
    given = list(zip(names, predictions, strict=True))
    ordered = given if keys is None else sorted(given, key=lambda pair: pair[0])
    taken, ignored = _take_labels(labels), tuple(c for c in ignore_classes if c != VOID)
    pool = Pool([name for name, _ in ordered], _Given(ordered), taken, ignored, mean=mean)
    return evaluate(pool, k=k, exactly=exactly, groups=_take_groups(groups, len(taken)), search=Search(search))


class _Given(Sequence[NDArray[np.uint8]]):
    """A user's arrays as uint8, each read and made when it is asked for, so that they never lie in memory all at once."""

    def __init__(self, named: Sequence[tuple[str, NDArray[Any] | str | Path]]) -> None:
        self._named = named

    def __len__(self) -> int:
        return len(self._named)

    def __getitem__(self, i: int) -> NDArray[np.uint8]:  # type: ignore[override]  # nobody takes slices
        name, source = self._named[i]
        return _take(source, name)


def _take(source: NDArray[Any] | str | Path, name: str) -> NDArray[np.uint8]:
    array = _open(source) if isinstance(source, str | Path) else source
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise EnsembleError(f"{name}: predictions are {array.dtype}, expected uint8 (times 255) or floats in [0, 1].")
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if not (low >= 0 and high <= 1):
        raise EnsembleError(f"{name}: probabilities are {low} to {high}, expected 0 to 1. Apply a softmax first.")
    from trainers.prediction.predict import quantize  # imports torch, which only floats have to wait for

    quantized: NDArray[np.uint8] = quantize(np.asarray(array, dtype=np.float32))
    return quantized


def _open(path: str | Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise EnsembleError(f"{path}: cannot be read as .npy: {error}.") from error
    return array


def _take_labels(labels: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(labels)
    if not np.issubdtype(array.dtype, np.integer) or array.min(initial=0) < 0 or array.max(initial=0) > 255:
        found = f"{array.dtype} of {array.min()} to {array.max()}" if array.size else f"{array.dtype} {array.shape}"
        raise EnsembleError(f"labels are {found}, expected whole numbers: classes from 0, or 255 for void.")
    return array.astype(np.uint8)


def _take_groups(groups: ArrayLike | None, num_images: int) -> NDArray[np.int64] | None:
    if groups is None:
        return None
    array = np.asarray(groups)
    if array.shape != (num_images,):
        raise EnsembleError(f"groups are {array.shape}, expected one of each image: {(num_images,)}.")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _check_choice(what: str, name: str, known: Iterable[str]) -> None:
    from trainers.config import check_known

    try:
        check_known(name, known, what)
    except ValueError as error:
        raise EnsembleError(str(error)) from None
