"""Stored predictions -> a pool of candidates, once they are on this machine and all were scored on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.candidates import EnsembleCandidate
from orchestrator.ensemble.selection.blocks import Grouped, make_layout, read_blocks
from orchestrator.ensemble.selection.pool import Pool, mark_unscored
from orchestrator.errors import EnsembleError
from orchestrator.state.machine import count_cores
from orchestrator.state.trial.outputs import PREDICTION_FILES, PredictionsInfo, read_info, read_labels
from orchestrator.tracking.reader.row import RunRow
from trainers.prediction.means import Mean

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader

_SAME_SCORE = 1e-6  # both are sums of the same whole numbers; a server may round what it stores


def fetch_predictions(reader: RunReader, row: RunRow, cache: Path, *, names: Sequence[str] = PREDICTION_FILES) -> Path:
    """The folder on this machine that holds a trial's predictions: its own, or ``cache``, into which they are fetched.

    Raises:
        TrackingError: the server has not got them either.
    """
    folders = {reader.fetch(row, name, cache / "files").parent for name in names}
    if len(folders) > 1:  # the trial's folder here has lost some of them
        folders = {reader.fetch(row, name, cache / "files", from_folder=False).parent for name in names}
    return folders.pop()


def load_pool(
    keys: Sequence[str], folders: Sequence[Path], cache: Path, *, names: Sequence[str], mean: Mean = "arithmetic"
) -> Pool:
    """Map the predictions in these folders into memory. names: what messages call them.

    Raises:
        EnsembleError: they were not all scored on the same images and labels, or a file is damaged.
    """
    infos = [read_info(folder) for folder in folders]
    _refuse_mixed(infos, names)
    labels, ignored = np.asarray(read_labels(folders[0], cache)), infos[0].ignore_classes
    layout = make_layout(mark_unscored(labels, ignored), infos[0].shape[1])
    with ThreadPoolExecutor(max_workers=count_cores()) as threads:
        blocks = list(threads.map(lambda folder: read_blocks(folder, cache, layout), folders))
    return Pool(keys, Grouped(layout, blocks), labels, ignored, mean=mean)


def check_scores(pool: Pool, candidates: Iterable[EnsembleCandidate]) -> None:
    """Check that each trial's predictions score what its run says. Joined folds have no such run.

    Raises:
        EnsembleError: they do not, so a file or the run was altered.
    """
    scores = pool.rank_singles(np.arange(pool.num_images))
    for candidate in candidates:
        if len(candidate.rows) > 1:
            continue
        found, logged = scores[pool.positions[candidate.key]], candidate.rows[0].metrics.get(candidate.metric, math.nan)
        if abs(found - logged) > _SAME_SCORE:
            raise EnsembleError(
                f"{candidate.name} ({candidate.key}): its predictions score {found:.6f}, but its run says {candidate.metric} "
                f"{logged:.6f}: one of them was altered, or the unpacked copy in the cache. Run `orchestrate clean`, or train it "
                "again."
            )


def read_groups(folders: Sequence[Path]) -> NDArray[np.int64] | None:
    """The group of each validation image, (V,), from the first of these folders that has groups; they share the images."""
    known = (info.groups for folder in folders if (info := read_info(folder)).groups is not None)
    groups = next(known, None)
    return None if groups is None else np.array(groups, np.int64)


def _refuse_mixed(infos: Sequence[PredictionsInfo], names: Sequence[str]) -> None:
    groups: dict[str, list[str]] = {}
    for info, name in zip(infos, names, strict=True):
        ignored = ",".join(map(str, info.ignore_classes)) or "none"
        identity = f"{info.scored_fingerprint} (labels {info.labels_sha256[:8]}, shape {info.shape}, ignored {ignored})"
        groups.setdefault(identity, []).append(name)
    if len(groups) > 1:
        largest_first = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        listed = "; ".join(f"{identity}: {', '.join(members)}" for identity, members in largest_first)
        raise EnsembleError(
            "These predictions were not scored on the same images, labels and classes, and cannot be combined. Scored "
            f"fingerprints found: {listed}. Name only sweeps that share data, split and ignored classes."
        )
