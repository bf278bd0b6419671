"""Runs of sweeps -> candidates that may be combined -> the best ensemble of them, logged as a run of its own."""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.trials import TrialLoader, name_classes
from orchestrator.ensemble.candidates import EVERYTHING, Candidate, Wanted, join_predictions, list_candidates
from orchestrator.ensemble.evaluation.evaluate import evaluate
from orchestrator.ensemble.evaluation.report import EnsembleReport
from orchestrator.ensemble.selection.blocks import Grouped, make_layout, read_blocks
from orchestrator.ensemble.selection.pool import Pool, Search, check_size, mark_unscored
from orchestrator.ensemble.selection.strategies import SearchName
from orchestrator.errors import EnsembleError
from orchestrator.state.machine import count_cores
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.outputs import PREDICTION_FILES, PredictionsInfo, read_info, read_labels, write_confusions
from orchestrator.state.trial.records import OBJECTIVE, TrialState
from orchestrator.tracking.reader.row import RunRow, one_run_per_key
from orchestrator.tracking.tags import EnsembleRecord, Tag
from trainers.prediction.means import Mean

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader


"""Tag of a run: what its predictions were scored on."""

_SAME_SCORE = 1e-6  # both are sums of the same whole numbers; a server may round what it stores


def best_ensemble(
    reader: RunReader,
    sweeps: Sequence[str],
    *,
    cache: Path,
    k: int = 4,
    exactly: bool = False,
    search: SearchName = "auto",
    mean: Mean = "arithmetic",
    wanted: Wanted = EVERYTHING,
    stack: bool = False,
) -> EnsembleReport:
    """Choose up to ``k`` of the finished trials of ``sweeps`` and log the ensemble in the first one's experiment.

    Without ``sweeps`` all are searched, and it is logged in that of the trial that started last.

    cache: folder for files from the server and unpacked predictions. search, mean: how members are searched for, and combined.
    stack: whether learned combinations are tried beside it.

    Raises:
        EnsembleError: no trial is wanted, or their predictions cannot be combined.
        TrackingError: the runs or their files cannot be read.
    """
    check_size(k)
    rows, notes = wanted.narrow(choose_candidates(reader.list_runs(sweeps), sweeps))
    listed, left_out = take_latest_data(list_candidates(rows)) if len(sweeps) == 1 else (list_candidates(rows), ())
    candidates = {candidate.key: candidate for candidate in listed}
    folders = [join_predictions(_fetch(reader, candidate, cache), cache / "predictions") for candidate in candidates.values()]
    names = {key: candidate.name for key, candidate in candidates.items()}
    pool = load_pool(list(candidates), folders, cache / "predictions", names=list(names.values()), mean=mean)
    _check_scores(pool, candidates.values())
    models = {key: candidate.model for key, candidate in candidates.items()}
    asked = Search(search, wanted.make_limits(candidates.values()), models)
    report = evaluate(pool, k=k, exactly=exactly, groups=read_groups(folders), search=asked, stack=stack)
    class_names = TrialLoader(reader, cache).load_class_names(listed[0].rows[0])
    report = replace(
        report,
        names=tuple(names[key] for key in report.members),
        notes=(*notes, *left_out, *_tell_flips(listed)),
        class_names=name_classes(report.confusions, pool.ignore_classes, class_names),
        trials={key: tuple(row.key for row in candidates[key].rows) for key in report.members},
        flips={key: flips for key in report.members if (flips := candidates[key].flips)},
    )
    sweep = sweeps[0] if sweeps else max(rows, key=lambda row: row.start_s).sweep
    tags: dict[str, str] = {
        Tag.SCORED_FINGERPRINT: read_info(folders[0]).scored_fingerprint,
        Tag.WIDENING: f"{report.widening:g}",
        Tag.CHOSEN: f"{time.time():.3f}",
    }
    tags |= {} if mean == "arithmetic" else {Tag.MEAN: mean}
    chosen = [candidates[key] for key in report.members]
    return replace(report, run_id=_log(reader, sweep, report, chosen, tags=tags, ignore_classes=pool.ignore_classes))


def _tell_flips(candidates: Sequence[Candidate]) -> list[str]:
    num_flipped = sum(candidate.flips is not None for candidate in candidates)
    said = "candidates are others with test-time flips; of a model with them and without, at most one is a member."
    return [f"{num_flipped} of {len(candidates)} {said}"] if num_flipped else []


def choose_candidates(runs: Sequence[RunRow], sweeps: Sequence[str]) -> list[RunRow]:
    """The trials that may become members or folds of them: COMPLETE, each key once, in the order of their keys.

    Raises:
        EnsembleError: there are none.
    """
    where = f"sweeps {', '.join(sweeps)}" if sweeps else "all sweeps"
    complete = [run for run in runs if run.state == TrialState.COMPLETE]
    if not complete:
        raise EnsembleError(f"{where}: none of {len(runs)} trials is COMPLETE. Let the sweep finish first.")
    return [run for _, run in sorted(one_run_per_key(complete).items())]


def take_latest_data(candidates: Sequence[Candidate]) -> tuple[list[Candidate], tuple[str, ...]]:
    """Of a sweep whose data were changed on the way the candidates scored on the latest, and sentences about those left out."""
    by_data: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_data[tuple(row.tags.get(Tag.SCORED_FINGERPRINT, "") for row in candidate.rows)].append(candidate)
    latest = max(by_data, key=lambda data: max(row.start_s for one in by_data[data] for row in one.rows))
    others = [(data, found) for data, found in by_data.items() if data != latest]
    return by_data[latest], tuple(
        f"Left out: {len(found)} candidates ({found[0].name}, ...) of earlier data, scored on other images, labels or classes; "
        f"--tag {Tag.SCORED_FINGERPRINT}={data[0]} takes these instead."
        for data, found in others
    )


def _log(
    reader: RunReader,
    sweep: str,
    report: EnsembleReport,
    members: Sequence[Candidate],
    *,
    tags: Mapping[str, str],
    ignore_classes: tuple[int, ...],
) -> str:
    """Record the ensemble with its cross-fitted matrices, by which it can be compared with what was named beforehand."""
    from orchestrator.tracking.mirror.ensembles import log_ensemble  # imports mlflow

    weights: dict[str, float] = {}
    for candidate, weight in zip(members, report.weights, strict=True):
        weights |= candidate.share(weight)
    flips = {row.key: str(candidate.flips) for candidate in members if candidate.flips for row in candidate.rows}
    metrics = {
        OBJECTIVE: report.miou,
        f"{OBJECTIVE}_in_sample": report.miou_in_sample,
        "gain_over_best_single": report.gain.value,
        "gain_probability": report.gain.probability,
    }
    document = {name: value for name, value in report.to_json().items() if name != "run_id"}
    with tempfile.TemporaryDirectory() as scratch:
        matrices = Path(scratch) / TrialFile.CONFUSIONS
        write_confusions(matrices, report.confusions, ignore_classes=ignore_classes)
        name = f"ensemble of {len(report.members)}"
        record = EnsembleRecord(name, weights, metrics, document, tags, files=(matrices,), flips=flips)
        return log_ensemble(reader.location, sweep, record)


def load_pool(
    keys: Sequence[str], folders: Sequence[Path], cache: Path, *, names: Sequence[str], mean: Mean = "arithmetic"
) -> Pool:
    """Map the predictions of trial folders, after checking that all were scored on the same images and labels.

    Raises:
        EnsembleError: they were not (the message says which members belong to what), or a file is damaged.
    """
    infos = [read_info(folder) for folder in folders]
    _refuse_mixed(infos, names)
    labels, ignored = np.asarray(read_labels(folders[0], cache)), infos[0].ignore_classes
    layout = make_layout(mark_unscored(labels, ignored), infos[0].shape[1])
    with ThreadPoolExecutor(max_workers=count_cores()) as threads:
        blocks = list(threads.map(lambda folder: read_blocks(folder, cache, layout), folders))
    return Pool(keys, Grouped(layout, blocks), labels, ignored, mean=mean)


def _check_scores(pool: Pool, candidates: Iterable[Candidate]) -> None:
    """Whether each trial's predictions still score what its run says, whichever file on the way was altered.

    Joined folds have no run that says it.
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


def _fetch(reader: RunReader, candidate: Candidate, cache: Path, *, names: Sequence[str] = PREDICTION_FILES) -> list[Path]:
    """The folder of each of the candidate's trials that holds its predictions, on this machine."""
    return [fetch_predictions(reader, row, cache, names=candidate.list_files(names)) for row in candidate.rows]


def fetch_predictions(reader: RunReader, row: RunRow, cache: Path, *, names: Sequence[str] = PREDICTION_FILES) -> Path:
    """The folder that holds the trial's predictions on this machine, fetched into ``cache`` where they lie elsewhere.

    Raises:
        TrackingError: the server has not got them either.
    """
    folders = {reader.fetch(row, name, cache / "files").parent for name in names}
    if len(folders) > 1:  # the trial's folder here has lost some of them
        folders = {reader.fetch(row, name, cache / "files", from_folder=False).parent for name in names}
    return folders.pop()
