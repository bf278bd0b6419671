"""The lines of a report -> one table: by row where the sweep file has rows, else ranked; ensembles in their place."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.entries import Entry
from orchestrator.report.lines import EnsembleEntry, Line, join_folds, make_ensemble_line, make_line
from orchestrator.stats import find_bounds


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
