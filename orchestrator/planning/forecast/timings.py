"""Trial folders -> what finished trials took, in time and on disk: what estimates.py goes by."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import TrialError
from orchestrator.state.disk import measure
from orchestrator.state.machine import PREFIX
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialSpec, TrialState
from trainers.config import FLIPPED_AXES, DataConfig

MAX_OTHERS = 2000
"""Trials beside the plan's own that are looked at, the latest first; so that a plan is quick in an old home."""

VAL_SHARE = 1 / 3
"""What a forward pass takes of a training step, for results that do not say how long validation took."""


Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Timing:
    """What a finished trial took.

    size: of what the network saw; None where that is not known any more. device: ``cpu``, or a GPU's name as torch has it.
    num_samples: pictures shown an epoch. views: how often each of the ``num_val`` is evaluated after it. train_s, val_s: of an
    epoch. overhead_s: what was neither training nor validating epochs. weights_bytes: of its best checkpoint, 0 where it is gone.
    other_bytes: of the rest that stays in its folder. versions: of libraries, as in its facts.
    """

    key: str
    arch: str
    encoder: str
    size: Size | None
    device: str
    num_threads: int
    num_samples: int
    num_val: int
    train_s: float
    val_s: float
    overhead_s: float
    views: int = 1
    weights_bytes: int = 0
    other_bytes: int = 0
    versions: Mapping[str, str] | None = None


def read_timings(trials: Path, keys: Collection[str], sizes: Mapping[str, Size]) -> list[Timing]:
    """What complete trials in the folder ``trials`` took: those of ``keys``, and the latest of the others.

    sizes: fingerprint of a data set -> (height, width) of its pictures, for results that do not say it themselves. Folders that
    hold no result, or one of another version, are passed over.
    """
    wanted = set(keys)
    try:
        with os.scandir(trials) as found:
            dated = [(entry.name not in wanted, -entry.stat().st_mtime, entry.name) for entry in found if entry.is_dir()]
    except FileNotFoundError:
        return []
    names = [name for _, _, name in sorted(dated)][: len(wanted) + MAX_OTHERS]
    return [timing for name in names if (timing := _read(TrialFolder(trials / name), sizes)) is not None]


def _read(folder: TrialFolder, sizes: Mapping[str, Size]) -> Timing | None:
    try:
        result = folder.result()
        if result is None or result.state is not TrialState.COMPLETE or not result.facts:
            return None
        spec, weights = folder.spec(), measure(folder.weights)
        others = max(0, measure(folder.path) - weights)
    except (TrialError, FileNotFoundError):  # cleared away just now
        return None
    epoch_s, total_s = _epoch_s(result), _total_s(result)
    num_samples = _number(result.facts, "num_samples") or _number(result.facts, "num_train")
    num_val, views = int(_number(result.facts, "num_val")), len(FLIPPED_AXES[spec.train.test_time_flips])
    if epoch_s is None or not num_samples:
        return None
    share = VAL_SHARE * num_val * views
    val_s = min(epoch_s, _number(result.facts, "val_s") or epoch_s * share / (num_samples + share))
    device = str(result.facts.get("device", ""))
    return Timing(
        key=result.key,
        arch=spec.train.arch,
        encoder=spec.train.encoder,
        size=_size_of(spec, result, sizes),
        device="cpu" if device.startswith("cpu") else device,
        num_threads=int(_number(result.facts, "num_threads")) or 1,
        num_samples=int(num_samples),
        num_val=num_val,
        train_s=epoch_s - val_s,
        val_s=val_s,
        overhead_s=max(0.0, total_s - epoch_s * result.epochs_run) if total_s is not None else 0.0,
        views=views,
        weights_bytes=weights,
        other_bytes=others,
        versions={name: str(value) for name, value in result.facts.items() if name.startswith(PREFIX)},
    )


def _total_s(result: TrialResult) -> float | None:
    """All attempts together; of an older result only where there was just one, because nights may lie between several."""
    if total_s := _number(result.facts, "attempts_s"):
        return total_s
    return result.ended_s - result.started_s if result.attempt == 1 else None


def _epoch_s(result: TrialResult) -> float | None:
    """Of an older result its share of the whole, or what it took at its speed of training."""
    if epoch_s := _number(result.facts, "epoch_s"):
        return epoch_s
    if (total_s := _total_s(result)) is not None and result.epochs_run:
        return total_s / result.epochs_run
    rate, num_samples = _number(result.facts, "images_per_s"), _number(result.facts, "num_samples")
    return num_samples / rate if rate and num_samples else None


def _number(facts: Mapping[str, Any], name: str) -> float:
    """0 where it is not there."""
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _size_of(spec: TrialSpec, result: TrialResult, sizes: Mapping[str, Size]) -> Size | None:
    written = result.facts.get("input_size")
    if isinstance(written, list) and len(written) == 2:
        return int(written[0]), int(written[1])
    return spec.train.input_size or sizes.get(spec.source_fingerprint) or _size_of_data(spec.data)


def _size_of_data(data: DataConfig) -> Size | None:
    """As far as the configuration says it."""
    if data.size is None and data.source == "synthetic":
        return data.synthetic.height, data.synthetic.width
    return data.size
