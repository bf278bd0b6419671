"""Trials -> ranked trials with 95 % CIs and ties, and their configurations over all seeds and folds; a table or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.analysis.cache import ValueCache
from orchestrator.analysis.results import RankedResult, join_configurations, make_blocks, rank_results, score_trial
from orchestrator.analysis.trials import Trial, TrialLoader, group_by

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader

DRAWN_ROWS = 100
"""Rows that are printed by default: drawing thousands takes seconds."""


@dataclass(frozen=True)
class RankedTrial:
    """A trial and its rank among those scored on the same images and labels."""

    trial: Trial
    ranked: RankedResult
    configuration_miou: float
    """Mean over the trials of its configuration that were scored on the same images."""
    configuration_trials: int

    def to_json(self) -> dict[str, Any]:
        return _describe(self.trial) | {
            "rank": self.ranked.rank,
            "miou": self.trial.miou,
            "ci95": list(self.ranked.ci95),
            "tied_with_best": self.ranked.is_tied,
            "configuration_miou": self.configuration_miou,
            "configuration_trials": self.configuration_trials,
            "scored_fingerprint": self.trial.scored_fingerprint,
        }


@dataclass(frozen=True)
class Leaderboard:
    """Ranked trials in blocks that can be compared, the largest block first; then the trials without a rank.

    configurations: ranked in the same way; none where each has one trial. num_hidden: trials that ``top`` took away.
    """

    trials: tuple[RankedTrial, ...]
    others: tuple[Trial, ...]
    configurations: tuple[RankedResult, ...] = ()
    num_hidden: int = 0

    def top(self, num_rows: int) -> Leaderboard:
        """Only the first rows of each block."""
        trials = tuple(one for one in self.trials if one.ranked.rank <= num_rows)
        configurations = tuple(one for one in self.configurations if one.rank <= num_rows)
        return replace(self, trials=trials, configurations=configurations, num_hidden=len(self.trials) - len(trials))

    def to_json(self) -> list[dict[str, Any]]:
        """The document of ``leaderboard --json``: ranked trials in order, then the others with rank null."""
        unranked = {"rank": None, "miou": None, "ci95": None}
        configurations = {key: _describe_configuration(one) for one in self.configurations for key in one.result.keys}
        ranked = [one.to_json() | {"configuration_result": configurations.get(one.trial.key)} for one in self.trials]
        return ranked + [_describe(trial) | unranked | {"reason": trial.reason} for trial in self.others]

    def render(self) -> Group:
        """What ``leaderboard`` prints for people."""
        blocks = make_blocks(self.configurations, lambda one: one.result.fingerprints)
        parts: list[Any] = [_draw_configurations(block) for block in blocks]
        is_folded = bool(parts) and all(one.trial.fold for one in self.trials)
        of_trials = [] if is_folded else make_blocks(self.trials, lambda one: one.trial.scored_fingerprint)
        parts += [_draw_trials(block, is_only=len(of_trials) == 1) for block in of_trials]
        if is_folded:
            parts.append("A configuration is ranked by its trials on all folds together; `--json` has each trial.")
        if len(of_trials) > 1:
            parts.append("These tables cannot be compared: they were scored on other images, labels or classes.")
        if self.num_hidden:
            parts.append(f"{self.num_hidden} more trials: `--top N` shows more, `--json` all.")
        if self.others:
            parts.append(_draw_others(self.others))
        return Group(*(parts or ["No trials yet. Run `orchestrate sweep FILE` first."]))


def rank_trials(trials: Iterable[Trial]) -> Leaderboard:
    """Rank the finished trials and their configurations; list all others with the reason."""
    listed = list(trials)
    done = {trial.key: trial for trial in listed if trial.is_done}
    alike = group_by(done.values(), lambda trial: (trial.configuration, trial.scored_fingerprint))
    ranked = []
    for one in chain.from_iterable(rank_results([score_trial(trial) for trial in done.values()])):
        trial = done[one.result.keys[0]]
        mious = [other.miou for other in alike[trial.configuration, trial.scored_fingerprint]]
        ranked.append(RankedTrial(trial, one, fmean(mious), len(mious)))
    num_configurations = len({trial.configuration or trial.key for trial in done.values()})
    blocks = rank_results(join_configurations(done.values())) if num_configurations < len(done) else []
    others = tuple(trial for trial in listed if not trial.is_done)
    return Leaderboard(tuple(ranked), others, tuple(chain.from_iterable(blocks)))


def load_leaderboard(reader: RunReader, sweeps: Sequence[str], *, cache: Path) -> Leaderboard:
    """Rank the trials of ``sweeps``, or of all. Values of trials that have ended are kept in ``cache``.

    Raises:
        TrackingError: the runs cannot be read, or a file is damaged.
    """
    values = ValueCache(cache / "figures", sweeps, place=reader.location.uri)
    ranking = rank_trials(TrialLoader(reader, cache, values).load_all(reader.list_runs(sweeps)))
    values.save()
    return ranking


def _describe_configuration(ranked: RankedResult) -> dict[str, Any]:
    return {
        "rank": ranked.rank,
        "miou": ranked.result.miou,
        "ci95": list(ranked.ci95),
        "tied_with_best": ranked.is_tied,
        "seeds": list(ranked.result.seeds),
        "folds": len(ranked.result.fingerprints),
    }


def _describe(trial: Trial) -> dict[str, Any]:
    """The fields that every trial's JSON has."""
    return {
        "key": trial.key,
        "state": trial.state,
        "config": trial.config,
        "metrics": {name: value for name, value in trial.metrics.items() if np.isfinite(value)},
        "run_id": trial.run_id,
        "attempts": trial.attempts,
        "name": trial.name,
        "configuration": trial.configuration,
    }


def _draw_trials(block: Sequence[RankedTrial], *, is_only: bool) -> Table:
    fingerprint = block[0].trial.scored_fingerprint or "unknown images"
    table = _start_table("Leaderboard" if is_only else f"Scored on {fingerprint}", "trial", "mean over seeds")
    for one in block:
        mean = f"{one.configuration_miou:.4f} of {one.configuration_trials}" if one.configuration_trials > 1 else ""
        _add_row(table, one.ranked, mean)
    return table


def _draw_configurations(block: Sequence[RankedResult]) -> Table:
    table = _start_table("Configurations", "configuration", "mean over")
    for ranked in block:
        numbers = ((len(ranked.result.samples), "seeds"), (len(ranked.result.fingerprints), "folds"))
        _add_row(table, ranked, ", ".join(f"{number} {what}" for number, what in numbers if number > 1))
    if table.caption and any(len(ranked.result.samples) > 1 for ranked in block):
        table.caption = f"{table.caption} over these images and seeds"
    return table


def _start_table(title: str, what: str, last: str) -> Table:
    table = Table(title=escape(title))
    for name, justify in (("", "right"), (what, "left"), ("mIoU", "right"), ("95 % CI", "left"), (last, "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich wants literals
    return table


def _add_row(table: Table, ranked: RankedResult, last: str) -> None:
    low, high = ranked.ci95
    table.add_row(ranked.mark, escape(ranked.result.name), f"{ranked.result.miou:.4f}", f"{low:.3f} to {high:.3f}", last)
    if ranked.is_tied and ranked.rank > 1:
        table.caption = "= tied with the best: no evidence of a difference"


def _draw_others(others: Sequence[Trial]) -> Table:
    table = Table(title="Not ranked")
    for title in ("trial", "state", "reason"):
        table.add_column(title, overflow="fold")
    for trial in others[:DRAWN_ROWS]:
        table.add_row(escape(trial.name), escape(trial.state), escape(trial.reason or ""))
    if len(others) > DRAWN_ROWS:
        table.caption = f"and {len(others) - DRAWN_ROWS} more: `--json` has all"
    return table
