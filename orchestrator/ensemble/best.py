"""Finished trials of sweeps -> the best ensemble of them, logged as a run: what `orchestrate best-ensemble` does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.analysis.trials import TrialLoader, group_by, name_classes
from orchestrator.ensemble.candidates import EnsembleCandidate, Wanted, join_predictions, list_candidates
from orchestrator.ensemble.evaluation.evaluate import evaluate
from orchestrator.ensemble.evaluation.report import CandidateLabels, EnsembleReport
from orchestrator.ensemble.pooling import check_scores, fetch_predictions, load_pool, read_groups
from orchestrator.ensemble.selection.pool import SelectionRules, check_size
from orchestrator.ensemble.selection.strategies import SearchName
from orchestrator.errors import EnsembleError
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.outputs import PREDICTION_FILES, read_info, write_confusions
from orchestrator.state.trial.records import OBJECTIVE, TrialState
from orchestrator.tracking.reader.row import RunRow, one_run_per_key
from orchestrator.tracking.tags import EnsembleRecord, Tag
from trainers.prediction.means import Mean

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader


@dataclass(frozen=True)
class EnsembleOptions:
    """What ``best-ensemble`` is asked for.

    k: members at most, or with ``exactly`` in number. search, mean: how members are searched for and combined.
    stack: whether learned combinations are evaluated too.
    """

    k: int = 4
    exactly: bool = False
    search: SearchName = "auto"
    mean: Mean = "arithmetic"
    wanted: Wanted = field(default_factory=Wanted)
    stack: bool = False


DEFAULT_OPTIONS = EnsembleOptions()


def best_ensemble(
    reader: RunReader, sweeps: Sequence[str], options: EnsembleOptions = DEFAULT_OPTIONS, *, cache: Path
) -> EnsembleReport:
    """Choose up to ``k`` of the finished trials of ``sweeps`` and log the ensemble in the experiment of the first sweep.

    Without ``sweeps``, search all and log it in the experiment of the trial that started last. cache: folder for files from the
    server and unpacked predictions.

    Raises:
        EnsembleError: no trial is wanted, or their predictions cannot be combined.
        TrackingError: the runs or their files cannot be read.
    """
    check_size(options.k)
    rows, notes = options.wanted.narrow(_list_complete(reader.list_runs(sweeps), sweeps))
    listed = list_candidates(rows)
    if len(sweeps) == 1:
        listed, left_out = take_latest_data(listed)
        notes += left_out
    candidates = {candidate.key: candidate for candidate in listed}
    folders = []
    for candidate in listed:
        names = candidate.list_files(PREDICTION_FILES)
        parts = [fetch_predictions(reader, row, cache, names=names) for row in candidate.rows]
        folders.append(join_predictions(parts, cache / "predictions"))
    called = [candidate.name for candidate in listed]
    pool = load_pool(list(candidates), folders, cache / "predictions", names=called, mean=options.mean)
    check_scores(pool, listed)
    if num_flipped := sum(candidate.flips is not None for candidate in listed):
        said = "candidates use test-time flips; at most one candidate of each model becomes a member."
        notes += (f"{num_flipped} of {len(listed)} {said}",)
    class_names = TrialLoader(reader, cache).load_class_names(listed[0].rows[0])
    named = name_classes(pool.singles[pool.positions[listed[0].key]], pool.ignore_classes, class_names)
    models = {key: candidate.model for key, candidate in candidates.items()}
    rules, groups = SelectionRules(options.search, options.wanted.make_limits(listed), models), read_groups(folders)
    k, exactly, stack, labels = options.k, options.exactly, options.stack, CandidateLabels(candidates, named, notes)
    report = evaluate(pool, k=k, exactly=exactly, groups=groups, rules=rules, stack=stack, labels=labels)
    sweep = sweeps[0] if sweeps else max(rows, key=lambda row: row.start_s).sweep
    record = _make_record(report, read_info(folders[0]).scored_fingerprint)
    return replace(report, run_id=_log(reader, sweep, record, report, pool.ignore_classes))


def _list_complete(runs: Sequence[RunRow], sweeps: Sequence[str]) -> list[RunRow]:
    """The trials that may become members or folds of them: COMPLETE, each key once, in the order of their keys."""
    complete = [run for run in runs if run.state == TrialState.COMPLETE]
    if not complete:
        where = f"sweeps {', '.join(sweeps)}" if sweeps else "all sweeps"
        raise EnsembleError(f"{where}: none of {len(runs)} trials is COMPLETE. Let the sweep finish first.")
    return [run for _, run in sorted(one_run_per_key(complete).items())]


def take_latest_data(candidates: Sequence[EnsembleCandidate]) -> tuple[list[EnsembleCandidate], tuple[str, ...]]:
    """The candidates scored on the latest data of a sweep, and sentences about those that are left out."""
    by_data = group_by(candidates, lambda one: tuple(row.tags.get(Tag.SCORED_FINGERPRINT, "") for row in one.rows))
    latest = max(by_data, key=lambda data: max(row.start_s for one in by_data[data] for row in one.rows))
    return by_data[latest], tuple(
        f"Left out: {len(found)} candidates ({found[0].name}, ...) of earlier data, scored on other images, labels or classes; "
        f"--tag {Tag.SCORED_FINGERPRINT}={data[0]} takes these instead."
        for data, found in by_data.items()
        if data != latest
    )


def _make_record(report: EnsembleReport, scored_fingerprint: str) -> EnsembleRecord:
    """What the ensemble's run says. Its matrices are cross-fitted, so that it can be compared with ensembles fixed beforehand."""
    members, weights = report.candidates.values(), dict[str, float]()
    for candidate, weight in zip(members, report.weights, strict=True):
        weights |= candidate.share(weight)
    metrics = {
        OBJECTIVE: report.miou,
        f"{OBJECTIVE}_in_sample": report.miou_in_sample,
        "gain_over_best_single": report.gain.value,
        "gain_probability": report.gain.probability,
    }
    tags: dict[str, str] = {
        Tag.SCORED_FINGERPRINT: scored_fingerprint,
        Tag.WIDENING: f"{report.widening:g}",
        Tag.CHOSEN: f"{time.time():.3f}",
    }
    return EnsembleRecord(
        f"ensemble of {len(report.members)}",
        weights,
        metrics,
        {name: value for name, value in report.to_json().items() if name != "run_id"},
        tags if report.mean == "arithmetic" else tags | {Tag.MEAN: report.mean},
        flips={row.key: str(candidate.flips) for candidate in members if candidate.flips for row in candidate.rows},
    )


def _log(reader: RunReader, sweep: str, record: EnsembleRecord, report: EnsembleReport, ignore_classes: tuple[int, ...]) -> str:
    from orchestrator.tracking.mirror.ensembles import log_ensemble  # imports mlflow

    with tempfile.TemporaryDirectory() as scratch:
        matrices = Path(scratch) / TrialFile.CONFUSIONS
        write_confusions(matrices, report.confusions, ignore_classes=ignore_classes)
        return log_ensemble(reader.location, sweep, replace(record, files=(matrices,)))
