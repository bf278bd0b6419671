"""Trials of one configuration, or runs of one ensemble -> a line of the report, over all seeds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.report.describe import Description, describe_training
from orchestrator.analysis.results import name_joined
from orchestrator.analysis.stats import find_bounds
from orchestrator.analysis.trials import IOU, Entry, strip_seed
from orchestrator.tracking.tags import legalize
from trainers.config import TrainConfig


@dataclass(frozen=True)
class Gain:
    """Of an ensemble over its best member; mean over seeds. ci95: of the paired difference, over images."""

    value: float
    ci95: tuple[float, float] | None
    best_member: str


@dataclass(frozen=True)
class Line:
    """A line of the report. Figures are means over its trials' seeds; folds of one seed count as one trial.

    row: its id in the sweep file. members: rows of an ensemble. ci95: over images. spread: standard deviation over seeds.
    reported: published elsewhere. failures: name and reason of what was not trained or not evaluated.
    """

    name: str
    row: str | None = None
    members: tuple[str, ...] = ()
    what: Description = field(default_factory=Description)
    seeds: tuple[int, ...] = ()
    miou: float | None = None
    ci95: tuple[float, float] | None = None
    spread: float | None = None
    class_iou: Mapping[str, float] = field(default_factory=dict)
    reported: float | None = None
    gain: Gain | None = None
    failures: tuple[tuple[str, str], ...] = ()
    rank: int | None = None
    """Among single configurations scored on the same images; None for ensembles and where nothing was scored."""
    is_tied: bool = False
    """These images do not tell it from the best."""
    is_comparable: bool = True
    """Scored on the images that most lines were scored on."""
    scored: frozenset[str] = frozenset()
    best_trial: Entry | None = None
    replicates: NDArray[np.float64] | None = None

    @property
    def is_ensemble(self) -> bool:
        return bool(self.members)

    @property
    def title(self) -> str:
        """What to call it: its label, or else what it is."""
        return self.name or str(self.what) or "+".join(self.members) or f"row {self.row}"

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
            "gain_over_best_member": self.gain.value if self.gain else None,
            "gain_ci95": _as_list(self.gain.ci95) if self.gain else None,
            "best_member": self.gain.best_member if self.gain else None,
            "failures": [{"name": name, "reason": reason} for name, reason in self.failures],
        }


@dataclass(frozen=True)
class EnsembleEntry:
    """An ensemble's run as it comes to the report; ``entry.row`` is its own row. members: rows."""

    entry: Entry
    members: tuple[str, ...]
    best_member: str | None
    """Key."""


def make_line(group: Sequence[Entry], class_names: Sequence[str]) -> Line:
    """The line of one configuration's trials."""
    done = [e for e in group if e.is_done]
    first = group[0]
    line = Line(
        name=_strip_seed(first),
        row=first.row,
        what=_describe(group),
        reported=first.reported,
        failures=_find_failures(group),
    )
    return _with_figures(line, done, class_names) if done else line


def _find_failures(group: Sequence[Entry]) -> tuple[tuple[str, str], ...]:
    return tuple((entry.name, entry.reason or f"is {entry.state}") for entry in group if not entry.is_done)


def _with_figures(line: Line, done: Sequence[Entry], class_names: Sequence[str]) -> Line:
    by_seed: dict[int, list[Entry]] = defaultdict(list)
    for entry in done:
        by_seed[entry.seed or 0].append(entry)
    joined = [_join(entries) for entries in by_seed.values()]
    figures = [
        fmean(e.miou for e in entries) if matrices is None else matrices.miou
        for matrices, entries in zip(joined, by_seed.values(), strict=True)
    ]
    replicates = _resample(joined)
    return replace(
        line,
        seeds=tuple(sorted(by_seed)),
        miou=fmean(figures),
        ci95=None if replicates is None else find_bounds(replicates),
        spread=stdev(figures) if len(figures) > 1 else None,
        class_iou=_mean_class_iou(done, class_names),
        scored=frozenset(part for e in done for part in (e.scored_fingerprint or "").split(",")),  # an ensemble's name all folds
        best_trial=max(done, key=lambda e: e.miou),
        replicates=replicates,
    )


def _join(folds: Sequence[Entry]) -> Matrices | None:
    """One trial's matrices, or those of all folds of a seed; None where some were not kept."""
    kept = [entry.matrices for entry in sorted(folds, key=_by_fold) if entry.matrices is not None]
    return Matrices.join(kept) if len(kept) == len(folds) else None


def _by_fold(entry: Entry) -> tuple[tuple[int, int], str]:
    return entry.fold or (0, 1), entry.name


def join_folds(entries: Iterable[Entry]) -> Iterator[Entry]:
    """All folds of each configuration and seed as one trial, under the key by which ensembles know it."""
    by_seed: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.fold is not None and entry.is_done:
            by_seed[entry.configuration, entry.seed or 0].append(entry)
    for (configuration, seed), folds in by_seed.items():
        yield replace(min(folds, key=_by_fold), key=name_joined(configuration, seed), matrices=_join(folds))


def _resample(joined: Sequence[Matrices | None]) -> NDArray[np.float64] | None:
    """Paired replicates of the mean over seeds; None where the seeds were not all scored on as many images."""
    kept = [matrices for matrices in joined if matrices is not None]
    if len(kept) < len(joined) or len({matrices.confusions.shape for matrices in kept}) != 1:
        return None
    drawn: NDArray[np.float64] = np.mean([matrices.replicates for matrices in kept], axis=0)
    return drawn


def _mean_class_iou(done: Sequence[Entry], class_names: Sequence[str]) -> dict[str, float]:
    """MLflow spells names its own way, so that of a class is looked for under its spelling there."""
    spelled = legalize(f"{IOU}{name}" for name in class_names)
    found = {
        name: [e.metrics[key] for e in done if np.isfinite(e.metrics.get(key, np.nan))]
        for name, key in zip(class_names, spelled, strict=True)
    }
    return {name: fmean(values) for name, values in found.items() if values}


def make_ensemble_line(group: Sequence[EnsembleEntry], by_key: Mapping[str, Entry], class_names: Sequence[str]) -> Line:
    """The line of one ensemble, evaluated once or once for each seed. by_key: the sweep's trials, its members among them."""
    first = group[0]
    done = [e for e in group if e.entry.is_done]
    line = Line(
        name=_strip_seed(first.entry),
        row=first.entry.row,
        members=first.members,
        reported=first.entry.reported,
        failures=_find_failures([e.entry for e in group]),
    )
    if not done:
        return line
    line = _with_figures(line, [e.entry for e in done], class_names)
    return replace(line, gain=_find_gain(done, by_key), best_trial=None)


def _find_gain(done: Sequence[EnsembleEntry], by_key: Mapping[str, Entry]) -> Gain | None:
    """The mean over seeds of an ensemble's mIoU above that of its best member alone."""
    bests = [by_key.get(e.best_member or "") for e in done]
    pairs = [(e.entry, best) for e, best in zip(done, bests, strict=True) if best is not None]
    if len(pairs) < len(done):
        return None
    value = fmean(entry.miou - best.miou for entry, best in pairs)
    names = ", ".join(dict.fromkeys(_strip_seed(best) for _, best in pairs))
    mean, alone = (_resample([pair[i].matrices for pair in pairs]) for i in (0, 1))
    return Gain(value, None if mean is None or alone is None else find_bounds(mean - alone), names)


def _describe(group: Sequence[Entry]) -> Description:
    """Of the first trial that knows its whole configuration; a run on another machine may have only started."""
    train = next((entry.config["train"] for entry in group if "train" in entry.config), None)
    return Description() if train is None else describe_training(TrainConfig.model_validate(train))


def _strip_seed(entry: Entry) -> str:
    """The name without its id, seed and fold, which have columns of their own."""
    name = strip_seed(entry.name)
    if entry.row is None:
        return name
    return "" if name == f"row {entry.row}" else name.removeprefix(f"{entry.row}: ")


def _as_list(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None or not np.isfinite(pair).all() else list(pair)


@dataclass(frozen=True)
class ReportTable:
    """A sweep's lines: by row where its file has rows, else the best first.

    class_names: of the scored classes, in order. num_left_out: trials of earlier forms of a sweep with rows.
    """

    sweep: str
    lines: tuple[Line, ...]
    class_names: tuple[str, ...]
    num_left_out: int = 0

    @property
    def best(self) -> Line | None:
        """The best single configuration."""
        return next((line for line in self.lines if line.rank == 1), None)

    @property
    def best_ensemble(self) -> Line | None:
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
    sweep: str, entries: Sequence[Entry], ensembles: Sequence[EnsembleEntry] = (), *, class_names: Sequence[str]
) -> ReportTable:
    """Lay out lines of trials and ensembles; where some trials have rows, those without belong to earlier forms of the file."""
    has_rows = any(entry.row is not None for entry in entries)
    shown = [entry for entry in entries if entry.row is not None or not has_rows]
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in shown:
        groups[entry.row or "", entry.configuration or entry.key].append(entry)
    lines = [make_line(group, class_names) for group in groups.values()]
    lines = _rank(lines)
    by_key = {entry.key: entry for entry in (*shown, *join_folds(shown))}
    by_row: dict[str, list[EnsembleEntry]] = defaultdict(list)
    for ensemble in ensembles:
        by_row[ensemble.entry.row or ""].append(ensemble)
    best = next((line for line in lines if line.rank == 1), None)
    for group in by_row.values():
        line = make_ensemble_line(group, by_key, class_names)
        lines.append(replace(line, is_comparable=best is None or not line.scored or line.scored == best.scored))
    ordered = sorted(lines, key=_by_row if has_rows else _by_miou)
    return ReportTable(sweep, tuple(ordered), tuple(class_names), len(entries) - len(shown))


def _rank(lines: Sequence[Line]) -> list[Line]:
    """Rank what was scored on the images that most lines were scored on, and mark what they do not tell from the best."""
    blocks: dict[frozenset[str], list[Line]] = defaultdict(list)
    for line in lines:
        if line.miou is not None:
            blocks[line.scored].append(line)
    if not blocks:
        return list(lines)
    largest = max(blocks, key=lambda scored: len(blocks[scored]))
    block = sorted(blocks[largest], key=_by_miou)
    ranks = {id(line): rank for rank, line in enumerate(block, start=1)}
    return [
        replace(line, rank=ranks[id(line)], is_tied=_is_tied(block[0], line))
        if id(line) in ranks
        else replace(line, is_comparable=line.miou is None)
        for line in lines
    ]


def _is_tied(best: Line, line: Line) -> bool:
    if best is line:
        return True
    if best.replicates is None or line.replicates is None:
        return best.miou == line.miou
    low, high = find_bounds(best.replicates - line.replicates)
    return low <= 0 <= high


def _by_row(line: Line) -> tuple[bool, list[tuple[bool, int, str]], float]:
    """Numbers in ids as numbers: 2 before 10, 7a before 7b."""
    parts = re.findall(r"\d+|\D+", line.row or "")
    return line.row is None, [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts], -(line.miou or 0.0)


def _by_miou(line: Line) -> tuple[bool, float, str]:
    return line.miou is None, -(line.miou or 0.0), line.name
