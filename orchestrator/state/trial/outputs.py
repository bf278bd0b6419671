"""Confusion matrices and predictions of the validation images: written by the worker, memory-mapped by ensemble selection."""

import hashlib
import math
from pathlib import Path
from typing import Literal

import numpy as np
import zstandard
from numpy.typing import NDArray
from pydantic import ValidationError

from orchestrator.errors import EnsembleError
from orchestrator.state.files import replacing, write_atomically
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import Record, Retired


def write_confusions(path: Path, confusions: NDArray[np.integer], *, ignore_classes: tuple[int, ...]) -> None:
    """Write the file atomically; its folder must exist.

    confusions: (V, C, C) counts below 2**31, rows true, columns predicted. ignore_classes: classes that are not scored.
    """
    with replacing(path) as scratch, open(scratch, "wb") as file:
        np.savez_compressed(file, confusions=confusions.astype(np.int32), ignore_classes=np.array(ignore_classes, np.int32))


def read_confusions(path: Path) -> tuple[NDArray[np.integer], tuple[int, ...]]:
    """The matrices (V, C, C), and the classes that are not scored.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: the file is missing or damaged.
    """
    with np.load(path, allow_pickle=False) as file:
        return file["confusions"], tuple(int(c) for c in file["ignore_classes"])


PREDICTION_FILES = (TrialFile.PREDICTIONS_INFO, TrialFile.PREDICTIONS, TrialFile.LABELS)
"""What selection needs of a trial."""

_LEVEL = 3  # of 261 real tiles, float32 42.8 MB: level 3 makes 3.49 MB in 0.20 s, 9 3.25 MB in 0.69 s, 19 2.99 MB in 11.7 s


class PredictionsInfo(Record):
    """Shapes and hashes of the stored arrays (C-contiguous uint8), and what they belong to."""

    shape: tuple[int, int, int, int]
    """(V, C, H, W) of the probabilities, which are 0 where nothing is scored; the labels are (V, H, W)."""
    dtype: Literal["uint8"] = "uint8"
    scored_fingerprint: str
    ignore_classes: tuple[int, ...]
    predictions_sha256: str
    """Of the unpacked bytes, as below."""
    labels_sha256: str
    groups: tuple[int, ...] | None = None
    """(V,) number of each image's group; None if unknown."""
    u16_sha256: Retired = None


def write_predictions(
    folder: Path,
    predictions: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    ignore_classes: tuple[int, ...],
    scored_fingerprint: str,
    groups: NDArray[np.int64] | None = None,
) -> None:
    """Store probabilities and labels in ``folder``; ``predictions.json`` is written last, when all else is there.

    predictions: (V, C, H, W) uint8, probability times 255; labels: (V, H, W) uint8, classes or 255 for void. Where nothing is
    scored (void, an ignored class) zeros are stored: on real tiles this reduces them from 1/7 of float32 to 1/12.
    groups: (V,) int64, equal for images that belong together (a scene, near duplicates), which cross-fitting must not split.

    Raises:
        EnsembleError: shapes or types do not match.
    """
    expected = (predictions.shape[0], *predictions.shape[2:])
    if predictions.ndim != 4 or predictions.dtype != np.uint8 or labels.dtype != np.uint8 or labels.shape != expected:
        raise EnsembleError(
            f"{folder}: predictions are {predictions.dtype} {predictions.shape}, labels {labels.dtype} {labels.shape}. "
            "Expected uint8 (V, C, H, W) and uint8 (V, H, W)."
        )
    if groups is not None and groups.shape != predictions.shape[:1]:
        raise EnsembleError(f"{folder}: groups are {groups.shape}, expected one per image: {predictions.shape[:1]}.")
    num_images, num_classes, height, width = predictions.shape
    is_scored = (labels < num_classes) & ~np.isin(labels, ignore_classes)
    info = PredictionsInfo(
        shape=(num_images, num_classes, height, width),
        scored_fingerprint=scored_fingerprint,
        ignore_classes=tuple(ignore_classes),
        predictions_sha256=_pack(np.where(is_scored[:, None], predictions, np.uint8(0)), folder / TrialFile.PREDICTIONS),
        labels_sha256=_pack(labels, folder / TrialFile.LABELS),
        groups=None if groups is None else tuple(int(group) for group in groups),
    )
    text = info.model_dump_json(indent=1, exclude_none=True)  # as earlier versions know it
    write_atomically(folder / TrialFile.PREDICTIONS_INFO, text)


def read_info(folder: Path) -> PredictionsInfo:
    """Read predictions.json.

    Raises:
        EnsembleError: there are no predictions, or another version wrote them.
    """
    path = folder / TrialFile.PREDICTIONS_INFO
    try:
        return PredictionsInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise EnsembleError(f"{path}: not found. The trial has not stored its predictions.") from None
    except ValidationError as error:
        raise EnsembleError(f"{path}: damaged, or written by another version: {error}. Fetch or train it again.") from error


def read_predictions(folder: Path, cache: Path) -> NDArray[np.uint8]:
    """Map the probabilities into memory, read-only: (V, C, H, W) uint8.

    They are unpacked once into ``cache``, under the hash of their content. Several processes may do so at once.

    Raises:
        EnsembleError: a file is missing, truncated or altered; the message names it.
    """
    info = read_info(folder)
    return _map(folder / TrialFile.PREDICTIONS, cache, sha256=info.predictions_sha256, shape=info.shape)


def read_labels(folder: Path, cache: Path) -> NDArray[np.uint8]:
    """Map the labels that the predictions are scored against, read-only: (V, H, W) uint8, 255 for void; as read_predictions."""
    info = read_info(folder)
    num_images, _, height, width = info.shape
    return _map(folder / TrialFile.LABELS, cache, sha256=info.labels_sha256, shape=(num_images, height, width))


def _pack(array: NDArray[np.uint8], path: Path) -> str:
    raw = np.ascontiguousarray(array).reshape(-1).data
    with replacing(path) as scratch:
        scratch.write_bytes(zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(raw))
    return hashlib.sha256(raw).hexdigest()


def _map(path: Path, cache: Path, *, sha256: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    num_bytes = math.prod(shape)
    unpacked = cache / f"{sha256}.u8"
    if not unpacked.exists() or unpacked.stat().st_size != num_bytes:
        keep_in_cache(unpacked, unpack(path, sha256=sha256, num_bytes=num_bytes))
    return np.memmap(unpacked, dtype=np.uint8, mode="r", shape=shape)


def unpack(path: Path, *, sha256: str, num_bytes: int) -> bytes:
    """Decompress a stored array and verify it.

    Raises:
        EnsembleError: the file is missing, truncated or altered.
    """
    try:
        raw = zstandard.ZstdDecompressor().decompress(path.read_bytes(), max_output_size=num_bytes)
    except FileNotFoundError:
        raise EnsembleError(
            f"{path}: not found, although {TrialFile.PREDICTIONS_INFO} beside it says it is there. Fetch or train it again."
        ) from None
    except zstandard.ZstdError as error:
        raise EnsembleError(f"{path}: truncated or altered ({error}). Fetch or train it again.") from error
    if len(raw) != num_bytes or hashlib.sha256(raw).hexdigest() != sha256:
        raise EnsembleError(
            f"{path}: its {len(raw)} bytes are not those that were written: {num_bytes} with sha256 {sha256[:16]}. "
            "Altered after training; fetch or train it again."
        )
    return raw


def keep_in_cache(target: Path, content: bytes | memoryview) -> None:
    """Write a file that can be made again, and its folder; several threads and processes may do so at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as scratch:
        scratch.write_bytes(content)
