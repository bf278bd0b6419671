"""Runs of sweeps -> candidates that may be combined -> the best ensemble of them, logged as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.evaluation import EnsembleReport, evaluate
from orchestrator.ensemble.selection import Pool, check_size
from orchestrator.ensemble.store import FILES, PredictionsInfo, read_info, read_labels, read_predictions
from orchestrator.errors import EnsembleError
from orchestrator.trial import TrialState

if TYPE_CHECKING:
    from orchestrator.tracking.rows import RunRow
    from orchestrator.tracking.runs import RunReader


def best_ensemble(reader: RunReader, sweeps: Sequence[str], *, cache: Path, k: int = 4, exactly: bool = False) -> EnsembleReport:
    """Choose up to ``k`` of the finished trials of ``sweeps`` and log the ensemble in the first one's experiment.

    Without ``sweeps`` all are searched, and it is logged in that of the trial that started last.

    cache: folder for files from the server and unpacked predictions.

    Raises:
        EnsembleError: the trials' predictions cannot be combined.
        TrackingError: the runs or their files cannot be read.
    """
    check_size(k)
    rows = choose_candidates(reader.list_runs(sweeps), sweeps)
    folders = [fetch_predictions(reader, row, cache) for row in rows]
    pool = load_pool([row.key for row in rows], folders, cache / "predictions", names=[row.name for row in rows])
    report = evaluate(pool, k=k, exactly=exactly, groups=read_groups(folders))
    names = {row.key: row.name for row in rows}
    report = replace(report, names=tuple(names[key] for key in report.members))
    metrics = {
        "val/miou": report.miou,
        "val/miou_in_sample": report.miou_in_sample,
        "gain_over_best_single": report.gain.value,
    }
    document = {name: value for name, value in report.to_json().items() if name != "run_id"}
    members = dict(zip(report.members, report.weights, strict=True))
    name = f"ensemble of {len(members)}"
    sweep = sweeps[0] if sweeps else max(rows, key=lambda row: row.start_s).sweep
    run_id = reader.log_ensemble(sweep, name=name, members=members, metrics=metrics, document=document)
    return replace(report, run_id=run_id)


def choose_candidates(runs: Sequence[RunRow], sweeps: Sequence[str]) -> list[RunRow]:
    """The trials that may become members: COMPLETE, each key once, in the order of their keys.

    Raises:
        EnsembleError: there are none, or they are parts of folds.
    """
    where = f"sweeps {', '.join(sweeps)}" if sweeps else "all sweeps"
    complete = [run for run in runs if run.state == TrialState.COMPLETE]
    if not complete:
        raise EnsembleError(f"{where}: none of {len(runs)} trials is COMPLETE. Let the sweep finish first.")
    folded = [run.name for run in complete if "fold" in run.tags]
    if folded:
        raise EnsembleError(
            f"{where}: {len(folded)} trials are parts of folds ({folded[0]}, ...), whose predictions would have to be joined per "
            "configuration; that is not possible yet. Choose sweeps without `folds`."
        )
    by_key: dict[str, RunRow] = {}
    for run in sorted(complete, key=lambda run: "cached_from" in run.tags):
        by_key.setdefault(run.key, run)
    return [by_key[key] for key in sorted(by_key)]


def load_pool(keys: Sequence[str], folders: Sequence[Path], cache: Path, *, names: Sequence[str]) -> Pool:
    """Map the predictions of trial folders, after checking that all were scored on the same images and labels.

    Raises:
        EnsembleError: they were not (the message says which members belong to what), or a file is damaged.
    """
    infos = [read_info(folder) for folder in folders]
    _refuse_mixed(infos, names)
    predictions = [read_predictions(folder, cache) for folder in folders]
    labels = np.asarray(read_labels(folders[0], cache))
    return Pool(keys, predictions, labels, infos[0].ignore_classes)


def read_groups(folders: Sequence[Path]) -> NDArray[np.int64] | None:
    """The group of each validation image, (V,), as the first of these folders that knows it says; they share the images."""
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


def fetch_predictions(reader: RunReader, row: RunRow, cache: Path) -> Path:
    """The folder that holds the trial's predictions on this machine, fetched into ``cache`` where they lie elsewhere.

    Raises:
        TrackingError: the server has not got them either.
    """
    folders = {reader.fetch(row, name, cache / "files").parent for name in FILES}
    if len(folders) != 1:
        raise EnsembleError(
            f"{row.name}: its prediction files lie in {len(folders)} folders. Remove {cache / 'files'} and try again."
        )
    return folders.pop()
