"""Trials and ensembles of a sweep -> one line per configuration or ensemble, by row or ranked."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np

from orchestrator.analysis.report.describe import Description, describe_training
from orchestrator.analysis.results import (
    RankedResult,
    Result,
    compare_results,
    estimate,
    join_configurations,
    join_folds,
    join_seeds,
    join_trials,
    pool_spread_of,
    rank_results,
)
from orchestrator.analysis.stats import PairedDifference, pool_spread
from orchestrator.analysis.trials import IOU, Trial, group_by, strip_seed
from orchestrator.tracking.tags import legalize
from trainers.config import TrainConfig

_LEFT_OUT = "left out: its seed lacks a fold, or was scored on other images"


@dataclass(frozen=True)
class EnsembleRun:
    """A fixed ensemble of one seed, as its run records it. row: its own; members: rows; best_member: key.

    result: None where it was not evaluated, for which ``reason`` says why.
    """

    name: str
    row: str
    members: tuple[str, ...]
    best_member: str | None
    result: Result | None
    metrics: Mapping[str, float]
    reported: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ReportLine:
    """A line of the report. Values are means over seeds; folds of one seed count as one trial.

    row: its id in the sweep file. members: rows of an ensemble. result: what it scored, with ``ci95`` over images and seeds.
    reported: published elsewhere. failures: name and reason of what is not part of the result. gain: of an ensemble over
    its best member, which ``best_member`` names; paired by image and seed.
    """

    name: str
    row: str | None = None
    members: tuple[str, ...] = ()
    what: Description = field(default_factory=Description)
    result: Result | None = None
    ci95: tuple[float, float] | None = None
    ranked: RankedResult | None = None
    """Among single configurations on the images on which most were scored; None for ensembles and where nothing was scored."""
    is_comparable: bool = True
    """Scored on these images, or not at all."""
    class_iou: Mapping[str, float] = field(default_factory=dict)
    reported: float | None = None
    gain: PairedDifference | None = None
    best_member: str | None = None
    failures: tuple[tuple[str, str], ...] = ()
    best_trial: Trial | None = None

    @property
    def is_ensemble(self) -> bool:
        return bool(self.members)

    @property
    def title(self) -> str:
        """Its label, or else what it is."""
        return self.name or str(self.what) or "+".join(self.members) or f"row {self.row}"

    @property
    def miou(self) -> float | None:
        return None if self.result is None else self.result.miou

    @property
    def seeds(self) -> tuple[int, ...]:
        return () if self.result is None else self.result.seeds

    @property
    def rank(self) -> int | None:
        return None if self.ranked is None else self.ranked.rank

    @property
    def is_tied(self) -> bool:
        """There is no evidence that it differs from the best."""
        return self.ranked is not None and self.ranked.is_tied

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for a single seed."""
        return None if self.result is None or len(self.result.mious) < 2 else stdev(self.result.mious)

    def to_json(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "name": self.title,
            "kind": "ensemble" if self.is_ensemble else "trial",
            "architecture": self.what.arch,
            "encoder": self.what.encoder,
            "augmentation": self.what.augmentation,
            "training": self.what.training,
            "members": list(self.members),
            "seeds": list(self.seeds),
            "rank": self.rank,
            "tied_with_best": self.is_tied,
            "comparable": self.is_comparable,
            "miou": self.miou,
            "ci95": _as_list(self.ci95),
            "spread": self.spread,
            "class_iou": dict(self.class_iou),
            "reported": self.reported,
            "gain_over_best_member": None if self.gain is None else self.gain.value,
            "gain_ci95": None if self.gain is None else _as_list(self.gain.ci95),
            "best_member": self.best_member,
            "failures": [{"name": name, "reason": reason} for name, reason in self.failures],
        }


@dataclass(frozen=True)
class ReportTable:
    """The lines of a sweep: by row where its file has rows, else the best first.

    class_names: of the scored classes, in order. num_left_out: trials of earlier versions of a sweep file with rows.
    """

    sweep: str
    lines: tuple[ReportLine, ...]
    class_names: tuple[str, ...]
    num_left_out: int = 0

    @property
    def best(self) -> ReportLine | None:
        """The best single configuration."""
        return next((line for line in self.lines if line.rank == 1), None)

    @property
    def best_ensemble(self) -> ReportLine | None:
        scored = [line for line in self.lines if line.is_ensemble and line.is_comparable and line.miou is not None]
        return max(scored, key=lambda line: line.miou or 0.0, default=None)

    def to_json(self) -> dict[str, Any]:
        """The document of ``report --json``."""
        return {
            "sweep": self.sweep,
            "class_names": list(self.class_names),
            "lines": [line.to_json() for line in self.lines],
            "num_left_out": self.num_left_out,
        }


def make_table(
    sweep: str, trials: Sequence[Trial], ensembles: Sequence[EnsembleRun] = (), *, class_names: Sequence[str]
) -> ReportTable:
    """Make the lines of trials and ensembles. Where some trials have rows, the others are of earlier versions of the file."""
    has_rows = any(trial.row is not None for trial in trials)
    shown = [trial for trial in trials if trial.row is not None or not has_rows]
    groups = group_by(shown, lambda trial: (trial.row or "", trial.configuration or trial.key))
    results = {identity: join_trials(group) for identity, group in groups.items()}
    blocks = rank_results([result for result in results.values() if result], pool=join_configurations(trials))
    ranked = {one.result.keys: one for block in blocks for one in block}
    compared = blocks[0][0].result.fingerprints if blocks else None
    lines = [
        _make_line(group, ranked[result.keys] if (result := results[identity]) else None, compared, class_names)
        for identity, group in groups.items()
    ]
    lines += _make_ensemble_lines(ensembles, shown, compared, class_names)
    ordered = sorted(lines, key=_by_row if has_rows else _by_miou)
    return ReportTable(sweep, tuple(ordered), tuple(class_names), len(trials) - len(shown))


def _make_line(
    group: Sequence[Trial], ranked: RankedResult | None, compared: tuple[str, ...] | None, class_names: Sequence[str]
) -> ReportLine:
    """The line of one configuration. compared: what most lines were scored on."""
    used = () if ranked is None else ranked.result.keys
    failures = [(trial.name, trial.reason or f"is {trial.state}") for trial in group if not trial.is_done]
    failures += [(trial.name, _LEFT_OUT) for trial in group if trial.is_done and trial.key not in used]
    train = next((trial.config["train"] for trial in group if "train" in trial.config), None)  # elsewhere it may only have begun
    line = ReportLine(
        name=_shorten(group[0].name, group[0].row),
        row=group[0].row,
        what=Description() if train is None else describe_training(TrainConfig.model_validate(train)),
        reported=group[0].reported,
        failures=tuple(failures),
    )
    if ranked is None:
        return line
    scored = [trial for trial in group if trial.key in used]
    is_comparable = ranked.result.fingerprints == compared
    return replace(
        line,
        result=ranked.result,
        ci95=ranked.ci95,
        ranked=ranked if is_comparable else None,
        is_comparable=is_comparable,
        class_iou=_mean_class_iou([trial.metrics for trial in scored], class_names),
        best_trial=max(scored, key=lambda trial: trial.miou),
    )


def _make_ensemble_lines(
    ensembles: Sequence[EnsembleRun], trials: Sequence[Trial], compared: tuple[str, ...] | None, class_names: Sequence[str]
) -> list[ReportLine]:
    """One line per ensemble, over its seeds."""
    by_row = group_by(ensembles, lambda run: run.row)
    joined = {row: join_seeds(results) for row, runs in by_row.items() if (results := [r.result for r in runs if r.result])}
    single, rows = join_folds(trials), {trial.key: trial.row for trial in trials}
    named = {key: replace(member, name=_shorten(member.name, rows[member.keys[0]])) for key, member in single.items()}
    bests = {row: best for row, result in joined.items() if (best := _join_best_members(by_row[row], result, named))}
    gains = pool_spread([np.subtract(joined[row].mious, best.mious).tolist() for row, best in bests.items()])
    lines = []
    for row, runs in by_row.items():
        line = ReportLine(
            name=_shorten(runs[0].name, row),
            row=row,
            members=runs[0].members,
            reported=runs[0].reported,
            failures=tuple((run.name, run.reason or "is not evaluated") for run in runs if run.result is None),
        )
        if (result := joined.get(row)) is not None:
            line = replace(
                line,
                result=result,
                ci95=estimate(result, pool_spread_of(joined.values(), result.fingerprints)).ci95,
                is_comparable=compared is None or result.fingerprints == compared,
                class_iou=_mean_class_iou([run.metrics for run in runs if run.result], class_names),
            )
        if result is not None and (best := bests.get(row)) is not None:
            line = replace(line, gain=compare_results(result, best, gains, is_paired_by_seed=True), best_member=best.name)
        lines.append(line)
    return lines


def _join_best_members(runs: Sequence[EnsembleRun], ensemble: Result, members: Mapping[str, Result]) -> Result | None:
    """The best member of each of the ensemble's seeds, as one result; None where one of them is not known."""
    bests = [members.get(run.best_member or "") for run in runs if run.result]
    known = [best for best in bests if best is not None]
    if len(known) < len(bests):
        return None
    best = join_seeds(known)
    is_paired = best.fingerprints == ensemble.fingerprints and len(best.samples) == len(ensemble.samples)
    return replace(best, name=", ".join(dict.fromkeys(one.name for one in known))) if is_paired else None


def _mean_class_iou(metrics: Sequence[Mapping[str, float]], class_names: Sequence[str]) -> dict[str, float]:
    """MLflow spells the names of metrics its own way, so that a class is looked up under its spelling there."""
    spelled = zip(class_names, legalize(f"{IOU}{name}" for name in class_names), strict=True)
    found = {name: [one[key] for one in metrics if math.isfinite(one.get(key, math.nan))] for name, key in spelled}
    return {name: fmean(values) for name, values in found.items() if values}


def _shorten(name: str, row: str | None) -> str:
    """A name without its id, seed and fold, which have columns of their own."""
    name = strip_seed(name)
    return name if row is None else "" if name == f"row {row}" else name.removeprefix(f"{row}: ")


def _as_list(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None or not np.isfinite(pair).all() else list(pair)


def _by_row(line: ReportLine) -> tuple[bool, list[tuple[bool, int, str]], float]:
    """Numbers in ids as numbers: 2 before 10, 7a before 7b."""
    parts = re.findall(r"\d+|\D+", line.row or "")
    return line.row is None, [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts], -(line.miou or 0.0)


def _by_miou(line: ReportLine) -> tuple[bool, float, str]:
    return line.miou is None, -(line.miou or 0.0), line.name
