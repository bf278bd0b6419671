"""Trial folders -> time and disk space that finished trials took; the input of estimates.py."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import TrialError
from orchestrator.state.disk import measure
from orchestrator.state.machine import PREFIX
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialSpec, read_number
from trainers.config import FLIPPED_AXES

MAX_OTHERS = 2000
"""Maximum number of trials of other plans to read, the latest first; keeps planning fast in an old home."""

VAL_SHARE = 1 / 3
"""A forward pass relative to a training step, for results without a validation time."""


Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Timing:
    """What a finished trial took.

    size: of the network's input; None if unknown. device: ``cpu`` or a GPU's name in torch. num_samples: images shown per epoch.
    views: evaluations of each of the ``num_val`` images. train_s, val_s: per epoch. overhead_s: time outside of epochs.
    weights_bytes: of its best checkpoint, 0 if removed. other_bytes: the rest of its folder. versions: of libraries.
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
    """Timings of complete trials in the folder ``trials``: those of ``keys``, and the latest of the others.

    sizes: fingerprint of a data set -> (height, width) of its images, for results without a size. Folders without a result, or
    with one of another version, are skipped.
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
        result = folder.complete_result()
        if result is None or not result.facts:
            return None
        spec, weights = folder.spec(), measure(folder.path / TrialFile.WEIGHTS)
        others = max(0, measure(folder.path) - weights)
    except (TrialError, FileNotFoundError):  # removed meanwhile
        return None
    epoch_s, total_s = _epoch_s(result), _total_s(result)
    num_samples = read_number(result.facts, "num_samples") or read_number(result.facts, "num_train")
    num_val, views = int(read_number(result.facts, "num_val")), len(FLIPPED_AXES[spec.train.test_time_flips])
    if epoch_s is None or not num_samples:
        return None
    share = VAL_SHARE * num_val * views
    val_s = min(epoch_s, read_number(result.facts, "val_s") or epoch_s * share / (num_samples + share))
    device = str(result.facts.get("device", ""))
    return Timing(
        key=result.key,
        arch=spec.train.arch,
        encoder=spec.train.encoder,
        size=_size_of(spec, result, sizes),
        device="cpu" if device.startswith("cpu") else device,
        num_threads=int(read_number(result.facts, "num_threads")) or 1,
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
    """All attempts together; older results have it only for a single attempt, because nights may lie between several."""
    if total_s := read_number(result.facts, "attempts_s"):
        return total_s
    return result.ended_s - result.started_s if result.attempt == 1 else None


def _epoch_s(result: TrialResult) -> float | None:
    """For an older result, the total divided by the epochs, or from its training speed."""
    if epoch_s := read_number(result.facts, "epoch_s"):
        return epoch_s
    if (total_s := _total_s(result)) is not None and result.epochs_run:
        return total_s / result.epochs_run
    rate, num_samples = read_number(result.facts, "images_per_s"), read_number(result.facts, "num_samples")
    return num_samples / rate if rate and num_samples else None


def _size_of(spec: TrialSpec, result: TrialResult, sizes: Mapping[str, Size]) -> Size | None:
    written = result.facts.get("input_size")
    if isinstance(written, list) and len(written) == 2:
        return int(written[0]), int(written[1])
    data = spec.data
    generated = (data.synthetic.height, data.synthetic.width) if data.source == "synthetic" else None
    return spec.train.input_size or sizes.get(spec.source_fingerprint) or data.size or generated
