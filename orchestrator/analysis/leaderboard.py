"""Trials -> ranked rows with intervals and ties, and their configurations over all seeds and folds; a table or JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.analysis.cache import Figures
from orchestrator.analysis.results import Scored, compare_results, estimate, find_spread, join_trials, score_trial
from orchestrator.analysis.stats import Estimate, Spread
from orchestrator.analysis.trials import Entry, EntryLoader

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader

T = TypeVar("T")

DRAWN_ROWS = 100
"""Of a table that people did not ask to be longer: nobody reads thousands, and drawing them takes seconds."""


@dataclass(frozen=True)
class ConfigurationRow:
    """A ranked configuration: the mean over its seeds, each on the images of all its folds. Ranks count as those of trials."""

    result: Scored
    rank: int
    ci95: tuple[float, float]
    """Over images and, where some configuration has several, seeds."""
    is_tied: bool
    """The interval of its difference to the best holds 0."""

    def to_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "miou": self.result.miou,
            "ci95": list(self.ci95),
            "tied_with_best": self.is_tied,
            "seeds": list(self.result.seeds),
            "folds": len(self.result.fingerprints),
        }


@dataclass(frozen=True)
class Row:
    """A ranked trial. Ranks count within trials that were scored on the same images and labels; others cannot be compared."""

    entry: Entry
    rank: int
    miou: float
    ci95: tuple[float, float] | None
    is_tied: bool
    """The paired interval of its difference to the best holds 0; the best is tied with itself."""
    configuration_miou: float
    """Mean over the trials of its configuration, scored alike."""
    configuration_trials: int

    def to_json(self) -> dict[str, Any]:
        return _describe(self.entry) | {
            "rank": self.rank,
            "miou": self.miou,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "tied_with_best": self.is_tied,
            "configuration_miou": self.configuration_miou,
            "configuration_trials": self.configuration_trials,
            "scored_fingerprint": self.entry.scored_fingerprint,
        }


@dataclass(frozen=True)
class Leaderboard:
    """Rows from the best on, in blocks of trials that can be compared, largest block first; then what has not been ranked.

    configurations: ranked likewise, where some have several trials, else none. num_hidden: rows that ``top`` took away.
    """

    rows: tuple[Row, ...]
    others: tuple[Entry, ...]
    configurations: tuple[ConfigurationRow, ...] = ()
    num_hidden: int = 0

    def top(self, num_rows: int) -> Leaderboard:
        """Only the first rows of each block."""
        rows = tuple(row for row in self.rows if row.rank <= num_rows)
        configurations = tuple(row for row in self.configurations if row.rank <= num_rows)
        return replace(self, rows=rows, configurations=configurations, num_hidden=len(self.rows) - len(rows))

    def to_json(self) -> list[dict[str, Any]]:
        """The document of ``leaderboard --json``: ranked rows in order, then the others with rank null."""
        unranked = {"rank": None, "miou": None, "ci95": None}
        results = {key: row.to_json() for row in self.configurations for key in row.result.keys}
        ranked = [row.to_json() | {"configuration_result": results.get(row.entry.key)} for row in self.rows]
        return ranked + [_describe(e) | unranked | {"reason": e.reason} for e in self.others]

    def render(self) -> Group:
        """What ``leaderboard`` prints for people."""
        parts: list[Any] = [_draw_configurations(rows) for rows in _blocks(self.configurations, _of_configuration)]
        is_folded = bool(parts) and all(row.entry.fold for row in self.rows)
        blocks = [] if is_folded else _blocks(self.rows, _of_trial)
        parts += [_draw_block(rows, is_only=len(blocks) == 1) for rows in blocks]
        if is_folded:
            parts.append("A configuration is ranked by its trials on all folds together; `--json` has each trial.")
        if len(blocks) > 1:
            parts.append("These tables cannot be compared: they were scored on other images, labels or classes.")
        if self.num_hidden:
            parts.append(f"{self.num_hidden} more trials: `--top N` shows more, `--json` all.")
        if self.others:
            parts.append(_draw_others(self.others))
        return Group(*(parts or ["No trials yet. Run `orchestrate sweep FILE` first."]))


def rank_trials(entries: Iterable[Entry]) -> Leaderboard:
    """Rank what is COMPLETE; everything else is listed below with its reason."""
    done: list[Entry] = []
    others: list[Entry] = []
    for entry in entries:
        (done if entry.is_done else others).append(entry)
    rows = tuple(row for block in _blocks(done, lambda entry: entry.scored_fingerprint) for row in _rank_block(block))
    return Leaderboard(rows, tuple(others), tuple(_rank_configurations(done)))


def load_leaderboard(reader: RunReader, sweeps: Sequence[str], *, cache: Path) -> Leaderboard:
    """Rank the trials of ``sweeps``, or of all. What is computed of those that have ended is kept in ``cache``.

    Raises:
        TrackingError: the runs cannot be read, or a file is damaged.
    """
    figures = Figures(cache / "figures", sweeps, place=reader.location.uri)
    ranking = rank_trials(EntryLoader(reader, cache, figures).load_all(reader.list_runs(sweeps)))
    figures.save()
    return ranking


def _blocks(items: Iterable[T], identify: Callable[[T], object]) -> list[list[T]]:
    """What can be compared together; the largest block first."""
    blocks: dict[object, list[T]] = defaultdict(list)
    for item in items:
        blocks[identify(item)].append(item)
    return [blocks[identity] for identity in sorted(blocks, key=lambda identity: (-len(blocks[identity]), str(identity)))]


def _of_trial(row: Row) -> object:
    return row.entry.scored_fingerprint


def _of_configuration(row: ConfigurationRow) -> object:
    return row.result.fingerprints


def _rank_block(block: list[Entry]) -> list[Row]:
    best_first = sorted(block, key=lambda entry: (-entry.miou, entry.key))
    seeds: dict[str, list[float]] = defaultdict(list)
    for entry in best_first:
        seeds[entry.configuration].append(entry.miou)
    results = [score_trial(entry) for entry in best_first]
    return [
        Row(
            entry=entry,
            rank=rank,
            miou=entry.miou,
            ci95=None if result is None else _bounds(estimate(result, None)),
            is_tied=_is_tied(results[0], result) if results[0] and result else entry.miou == best_first[0].miou,
            configuration_miou=fmean(seeds[entry.configuration]),
            configuration_trials=len(seeds[entry.configuration]),
        )
        for rank, (entry, result) in enumerate(zip(best_first, results, strict=True), start=1)
    ]


def _rank_configurations(done: Sequence[Entry]) -> Iterator[ConfigurationRow]:
    """Nothing where each has but one trial: then it would be the same table again."""
    by_configuration: dict[str, list[Entry]] = defaultdict(list)
    for entry in done:
        by_configuration[entry.configuration or entry.key].append(entry)
    if all(len(entries) == 1 for entries in by_configuration.values()):
        return
    results = [result for entries in by_configuration.values() if (result := join_trials(entries)) is not None]
    for block in _blocks(results, lambda result: result.fingerprints):
        best_first = sorted(block, key=lambda result: (-result.miou, result.keys))
        spread = find_spread(best_first)
        for rank, result in enumerate(best_first, start=1):
            yield ConfigurationRow(
                result=result,
                rank=rank,
                ci95=_bounds(estimate(result, spread)),
                is_tied=_is_tied(best_first[0], result, spread),
            )


def _is_tied(best: Scored, result: Scored, spread: Spread | None = None) -> bool:
    return best is result or not compare_results(best, result, spread).has_evidence


def _bounds(found: Estimate) -> tuple[float, float]:
    return found.low, found.high


def _describe(entry: Entry) -> dict[str, Any]:
    """The fields that every trial's JSON has."""
    return {
        "key": entry.key,
        "state": entry.state,
        "config": entry.config,
        "metrics": {name: value for name, value in entry.metrics.items() if np.isfinite(value)},
        "run_id": entry.run_id,
        "attempts": entry.attempts,
        "name": entry.name,
        "configuration": entry.configuration,
    }


def _draw_block(rows: Sequence[Row], *, is_only: bool) -> Table:
    fingerprint = rows[0].entry.scored_fingerprint or "unknown images"
    table = _start_table("Leaderboard" if is_only else f"Scored on {fingerprint}", "trial", "mean over seeds")
    for row in rows:
        interval = "" if row.ci95 is None else f"{row.ci95[0]:.3f} to {row.ci95[1]:.3f}"
        mean = f"{row.configuration_miou:.4f} of {row.configuration_trials}" if row.configuration_trials > 1 else ""
        table.add_row(_rank(row), escape(row.entry.name), f"{row.miou:.4f}", interval, mean)
    if any(row.is_tied for row in rows[1:]):
        table.caption = "= not told apart from the best by these images"
    return table


def _draw_configurations(rows: Sequence[ConfigurationRow]) -> Table:
    table = _start_table("Configurations", "configuration", "mean over")
    for row in rows:
        interval = f"{row.ci95[0]:.3f} to {row.ci95[1]:.3f}"
        num_seeds, num_folds = len(row.result.samples), len(row.result.fingerprints)
        over = ", ".join(f"{n} {what}" for n, what in ((num_seeds, "seeds"), (num_folds, "folds")) if n > 1)
        table.add_row(_rank(row), escape(row.result.name), f"{row.result.miou:.4f}", interval, over)
    if any(row.is_tied for row in rows[1:]):
        has_seeds = any(len(row.result.samples) > 1 for row in rows)
        table.caption = f"= not told apart from the best by these images{' and seeds' if has_seeds else ''}"
    return table


def _start_table(title: str, what: str, last: str) -> Table:
    table = Table(title=escape(title))
    for name, justify in (("", "right"), (what, "left"), ("mIoU", "right"), ("95 % interval", "left"), (last, "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich wants literals
    return table


def _rank(row: Row | ConfigurationRow) -> str:
    return f"{row.rank}{'=' if row.is_tied and row.rank > 1 else ''}"


def _draw_others(others: Sequence[Entry]) -> Table:
    table = Table(title="Not ranked")
    for title in ("trial", "state", "reason"):
        table.add_column(title, overflow="fold")
    for entry in others[:DRAWN_ROWS]:
        table.add_row(escape(entry.name), escape(entry.state), escape(entry.reason or ""))
    if len(others) > DRAWN_ROWS:
        table.caption = f"and {len(others) - DRAWN_ROWS} more: `--json` has all"
    return table
