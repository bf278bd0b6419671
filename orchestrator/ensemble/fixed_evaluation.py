"""What an ensemble of members named beforehand is worth: the mean of their probabilities beside the best of them alone.

Nothing is chosen on the images that it is scored on, so its figure needs no cross-fitting. The best member is chosen on them, so
that the gain over it is, if anything, too small.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from orchestrator.analysis.stats import compare, compute_class_iou, estimate_miou, sum_groups
from orchestrator.state.files import write_atomically
from orchestrator.state.trial.outputs import read_info, write_confusions
from orchestrator.state.trial.records import Record

EVALUATION_VERSION = 2
"""Raised by hand when the same predictions would give another result."""

RESULT_FILE, CONFUSIONS_FILE = "result.json", "confusions.npz"


class FixedResult(Record):
    """An evaluated ensemble. Figures are of all validation images; intervals hold 95 % and are over images."""

    kind: Literal["fixed"] = "fixed"
    members: tuple[str, ...]
    """Keys of trials, in the order of the sweep file, each of equal weight; of folds those of each."""
    scored_fingerprint: str
    num_images: int
    miou: float
    ci95: tuple[float, float]
    class_iou: tuple[float, ...]
    """Of each class; NaN where it has none."""
    best_member: str
    best_member_miou: float
    gain_over_best_member: float
    gain_ci95: tuple[float, float]
    """Of the paired difference."""


def evaluation_folder(cache: Path, members: Sequence[str], scored_fingerprints: Iterable[str]) -> Path:
    """Where the evaluation of these members, in any order, lies: ``result.json`` and ``confusions.npz``, once it is done."""
    identity = {"members": sorted(members), "scored": sorted(set(scored_fingerprints)), "version": EVALUATION_VERSION}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return cache / "ensembles" / name


def find_evaluation(folder: Path, members: Sequence[str]) -> FixedResult | None:
    """The result of an earlier evaluation; None where there is none that can be read."""
    try:
        found = FixedResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # it takes seconds to make again
    return found.model_copy(update={"members": tuple(members)})


def evaluate_fixed(predictions: Mapping[str, Path], *, names: Mapping[str, str], folder: Path, cache: Path) -> FixedResult:
    """Score the mean of the members' stored probabilities, and keep the result in ``folder``.

    predictions: key -> folder that holds the member's. names: key -> name, for messages. cache: for unpacked predictions.

    Raises:
        EnsembleError: the members were not scored on the same images, labels and classes, or a file is damaged.
    """
    from orchestrator.ensemble.pooling import load_pool, read_groups
    from orchestrator.ensemble.selection.pool import check_size

    keys = list(predictions)
    check_size(len(keys))
    pool = load_pool(keys, list(predictions.values()), cache, names=[names[key] for key in keys])
    every = np.arange(pool.num_images)
    mean = pool.count([pool.positions[key] for key in keys], every)
    singles = [pool.singles[pool.positions[key]] for key in keys]
    scores = pool.rank_singles(every)
    best = max(range(len(keys)), key=lambda i: scores[pool.positions[keys[i]]])  # the first of equals
    groups = read_groups(list(predictions.values()))
    summed, alone = sum_groups(mean, groups), sum_groups(singles[best], groups)
    figure = estimate_miou(summed, pool.ignore_classes)
    gain = compare(summed, alone, pool.ignore_classes)
    result = FixedResult(
        members=tuple(keys),
        scored_fingerprint=read_info(predictions[keys[0]]).scored_fingerprint,
        num_images=pool.num_images,
        miou=figure.value,
        ci95=(figure.low, figure.high),
        class_iou=tuple(compute_class_iou(mean, pool.ignore_classes).tolist()),
        best_member=keys[best],
        best_member_miou=scores[pool.positions[keys[best]]],
        gain_over_best_member=gain.value,
        gain_ci95=(gain.low, gain.high),
    )
    _keep(folder, result, summed, ignore_classes=pool.ignore_classes)
    return result


def _keep(folder: Path, result: FixedResult, confusions: NDArray[np.integer], *, ignore_classes: tuple[int, ...]) -> None:
    """The result last: its presence means that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_confusions(folder / CONFUSIONS_FILE, confusions, ignore_classes=ignore_classes)
    write_atomically(folder / RESULT_FILE, result.model_dump_json(indent=1))
