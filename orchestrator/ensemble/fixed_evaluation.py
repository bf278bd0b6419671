"""What an ensemble is worth whose members were fixed beforehand: their mean, compared with the best member alone.

No member is chosen on the images that it is scored on, so there is no cross-fitting. Only the best member is chosen on them, so
the gain over it is, if anything, too small.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from orchestrator.analysis.stats import compare, compute_class_iou, estimate_miou, sum_groups
from orchestrator.state.files import write_atomically
from orchestrator.state.trial.outputs import read_info, write_confusions
from orchestrator.state.trial.records import Record

EVALUATION_VERSION = 2
"""Raised by hand when the same predictions would give another result."""

RESULT_FILE, CONFUSIONS_FILE = "result.json", "confusions.npz"


class FixedResult(Record):
    """An evaluated ensemble, on all validation images; CIs are 95 % and over images."""

    kind: Literal["fixed"] = "fixed"
    members: tuple[str, ...]
    """Keys of trials in the order of the sweep file, of equal weight; with folds, those of every fold."""
    scored_fingerprint: str
    num_images: int
    miou: float
    ci95: tuple[float, float]
    class_iou: tuple[float, ...]
    """Of each class; NaN for a class that is not scored."""
    best_member: str
    best_member_miou: float
    gain_over_best_member: float
    gain_ci95: tuple[float, float]
    """Of the paired difference."""


def evaluation_folder(cache: Path, members: Sequence[str], scored_fingerprints: Iterable[str]) -> Path:
    """The folder for the evaluation of these members, in any order: ``result.json`` and ``confusions.npz``, once it is done."""
    identity = {"members": sorted(members), "scored": sorted(set(scored_fingerprints)), "version": EVALUATION_VERSION}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return cache / "ensembles" / name


def find_evaluation(folder: Path, members: Sequence[str]) -> FixedResult | None:
    """The result of an earlier evaluation; None where there is none that can be read."""
    try:
        found = FixedResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # it takes seconds to evaluate again
    return found.model_copy(update={"members": tuple(members)})


def evaluate_fixed(predictions: Mapping[str, Path], *, names: Mapping[str, str], folder: Path, cache: Path) -> FixedResult:
    """Score the mean of the members' stored probabilities, and store the result in ``folder``.

    predictions: key -> folder with the member's predictions. names: key -> name, for messages. cache: for unpacked predictions.

    Raises:
        EnsembleError: the members were not scored on the same images, labels and classes, or a file is damaged.
    """
    from orchestrator.ensemble.pooling import load_pool, read_groups  # numba takes a second
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
    estimate = estimate_miou(summed, pool.ignore_classes)
    gain = compare(summed, alone, pool.ignore_classes)
    result = FixedResult(
        members=tuple(keys),
        scored_fingerprint=read_info(predictions[keys[0]]).scored_fingerprint,
        num_images=pool.num_images,
        miou=estimate.value,
        ci95=estimate.ci95,
        class_iou=tuple(compute_class_iou(mean, pool.ignore_classes).tolist()),
        best_member=keys[best],
        best_member_miou=scores[pool.positions[keys[best]]],
        gain_over_best_member=gain.value,
        gain_ci95=gain.ci95,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_confusions(folder / CONFUSIONS_FILE, summed, ignore_classes=pool.ignore_classes)
    write_atomically(
        folder / RESULT_FILE, result.model_dump_json(indent=1)
    )  # last: its presence means that the folder is complete
    return result
