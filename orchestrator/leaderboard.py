"""Runs -> ranked rows with intervals, ties and the means over seeds; drawn as a table or as JSON."""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Group

from orchestrator.confusions import read_confusions
from orchestrator.errors import TrackingError
from orchestrator.figures import FigureCache, Figures
from orchestrator.leaderboard_tables import draw_block, draw_others
from orchestrator.stats import compare, compute_miou, estimate_miou
from orchestrator.tracking.labels import REPORTED, ROW
from orchestrator.trial import TrialSpec, TrialState

if TYPE_CHECKING:
    from orchestrator.tracking.rows import RunRow
    from orchestrator.tracking.runs import RunReader


@dataclass(frozen=True)
class Entry:
    """A trial as it comes to the leaderboard."""

    key: str
    name: str
    configuration: str
    state: str
    run_id: str
    attempts: int
    config: dict[str, Any]
    metrics: dict[str, float]
    scored_fingerprint: str | None = None
    confusions: NDArray[np.integer] | None = None
    """(V, C, C) of the validation images; None: not kept, so there is no interval."""
    ignore_classes: tuple[int, ...] = ()
    reason: str | None = None
    seed: int | None = None
    row: str | None = None
    """Its row in the sweep's table, and the figure published for that."""
    reported: float | None = None
    identity: str | None = None
    """Of what was computed of it, and is kept; None: that is not kept."""
    figures: Figures | None = None
    """What was computed earlier; the matrices are then not here."""
    load: Callable[[], NDArray[np.integer]] | None = None
    """Reads those."""

    @property
    def miou(self) -> float:
        """From the matrices, or as it was logged."""
        if self.figures is not None:
            return self.figures.miou
        if self.confusions is None:
            return self.metrics.get("val/miou", float("nan"))
        return compute_miou(self.confusions, self.ignore_classes)


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
    """Rows from the best on, in blocks of trials that can be compared, largest block first; then what has not been ranked."""

    rows: tuple[Row, ...]
    others: tuple[Entry, ...]

    def top(self, num_rows: int) -> Leaderboard:
        """Only the first rows of each block."""
        return replace(self, rows=tuple(row for row in self.rows if row.rank <= num_rows))

    def to_json(self) -> list[dict[str, Any]]:
        """The document of ``leaderboard --json``: ranked rows in order, then the others with rank null."""
        unranked = {"rank": None, "miou": None, "ci95": None}
        return [row.to_json() for row in self.rows] + [_describe(e) | unranked | {"reason": e.reason} for e in self.others]

    def render(self) -> Group:
        """What ``leaderboard`` prints for people."""
        blocks: dict[str | None, list[Row]] = defaultdict(list)
        for row in self.rows:
            blocks[row.entry.scored_fingerprint].append(row)
        parts: list[Any] = [draw_block(fingerprint, rows, is_only=len(blocks) == 1) for fingerprint, rows in blocks.items()]
        if len(blocks) > 1:
            parts.append("These tables cannot be compared: they were scored on other images, labels or classes.")
        if self.others:
            parts.append(draw_others(self.others))
        return Group(*(parts or ["No trials yet. Run `orchestrate sweep FILE` first."]))


def rank_trials(entries: Iterable[Entry], kept: FigureCache | None = None) -> Leaderboard:
    """Rank what is COMPLETE; everything else is listed below with its reason. kept: comparisons that were made earlier."""
    blocks: dict[str | None, list[Entry]] = defaultdict(list)
    others: list[Entry] = []
    for entry in entries:
        if entry.state in {TrialState.COMPLETE, TrialState.CACHED} and np.isfinite(entry.miou):
            blocks[entry.scored_fingerprint].append(entry)
        else:
            others.append(entry)
    ordered = sorted(blocks.values(), key=lambda block: (-len(block), str(block[0].scored_fingerprint)))
    return Leaderboard(tuple(row for block in ordered for row in _rank_block(block, kept)), tuple(others))


def load_leaderboard(reader: RunReader, sweeps: Sequence[str], *, cache: Path) -> Leaderboard:
    """Rank the trials of ``sweeps``, or of all.

    Raises:
        TrackingError: the runs cannot be read, or a file is damaged.
    """
    kept = FigureCache(cache / "figures", sweeps)
    ranking = rank_trials(load_entries(reader, sweeps, cache=cache, kept=kept), kept)
    for row in ranking.rows:
        if row.entry.identity is not None and row.ci95 is not None:
            kept.keep(row.entry.identity, Figures(row.entry.config, row.miou, row.ci95))
    kept.save()
    return ranking


def load_entries(reader: RunReader, sweeps: Sequence[str], *, cache: Path, kept: FigureCache | None = None) -> list[Entry]:
    """The trials of ``sweeps``, or of all, each once; matrices come from the trial folders or, once, from the server.

    kept: figures of which the matrices need not be read.

    Raises:
        TrackingError: the runs cannot be read, or a file is damaged.
    """
    by_key: dict[str, RunRow] = {}
    for run in sorted(reader.list_runs(sweeps), key=lambda run: "cached_from" in run.tags):
        by_key.setdefault(run.key, run)  # a trial that several sweeps share counts once
    return [_load_entry(reader, run, cache, kept) for run in by_key.values()]


def _rank_block(block: list[Entry], kept: FigureCache | None) -> list[Row]:
    best_first = sorted(block, key=lambda entry: (-entry.miou, entry.key))
    seeds: dict[str, list[float]] = defaultdict(list)
    for entry in best_first:
        seeds[entry.configuration].append(entry.miou)
    return [
        Row(
            entry=entry,
            rank=rank,
            miou=entry.miou,
            ci95=_interval(entry),
            is_tied=_is_tied(best_first[0], entry, kept),
            configuration_miou=fmean(seeds[entry.configuration]),
            configuration_trials=len(seeds[entry.configuration]),
        )
        for rank, entry in enumerate(best_first, start=1)
    ]


def _interval(entry: Entry) -> tuple[float, float] | None:
    if entry.figures is not None:
        return entry.figures.ci95
    if entry.confusions is None:
        return None
    estimate = estimate_miou(entry.confusions, entry.ignore_classes)
    return estimate.low, estimate.high


def _is_tied(best: Entry, entry: Entry, kept: FigureCache | None) -> bool:
    if best is entry:
        return True
    if kept is None or best.identity is None or entry.identity is None:
        return _compare(best, entry)
    if (is_tied := kept.find_tie(best.identity, entry.identity)) is None:
        is_tied = _compare(best, entry)
    kept.keep_tie(best.identity, entry.identity, is_tied=is_tied)
    return is_tied


def _compare(best: Entry, entry: Entry) -> bool:
    """Whether they are not told apart."""
    matrices = [e.confusions if e.load is None else e.load() for e in (best, entry)]
    first, second = matrices
    if first is None or second is None:
        return best.miou == entry.miou
    return not compare(first, second, best.ignore_classes).has_evidence


def _load_entry(reader: RunReader, run: RunRow, cache: Path, kept: FigureCache | None) -> Entry:
    is_complete = run.state == TrialState.COMPLETE
    identity = f"{run.files_run_id} {run.tags.get('attempt')} {run.metrics.get('val/miou')}" if is_complete else None
    figures = kept.find(identity) if kept is not None and identity is not None else None
    entry = Entry(
        key=run.key,
        name=run.name,
        configuration=run.tags.get("configuration", ""),
        state=run.state,
        run_id=run.run_id,
        attempts=int(run.tags.get("attempt", "1")),
        config=figures.config if figures else _load_config(reader, run, cache),
        metrics={name: value for name, value in run.metrics.items() if not name.startswith("epoch/")},
        scored_fingerprint=run.tags.get("scored_fingerprint"),
        reason=run.tags.get("reason") or None,
        seed=int(run.tags["seed"]) if "seed" in run.tags else None,
        row=run.tags.get(ROW),
        reported=float(run.tags[REPORTED]) if REPORTED in run.tags else None,
        identity=identity,
    )
    if not is_complete:
        return entry
    if figures is not None:
        ignored = tuple(figures.config["data"]["ignore_classes"])
        return replace(entry, figures=figures, ignore_classes=ignored, load=lambda: load_confusions(reader, run, cache=cache)[0])
    confusions, ignored = load_confusions(reader, run, cache=cache)
    return replace(entry, confusions=confusions, ignore_classes=ignored)


def load_confusions(reader: RunReader, run: RunRow, *, cache: Path) -> tuple[NDArray[np.integer], tuple[int, ...]]:
    """The confusion matrices (V, C, C) of a run's validation images, and the classes that are not scored.

    Raises:
        TrackingError: they cannot be fetched, or are damaged.
    """
    path = reader.fetch(run, "confusions.npz", cache / "files")
    try:
        return read_confusions(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TrackingError(f"{path}: damaged ({error}). Remove it, so that it is fetched or trained again.") from error


def _load_config(reader: RunReader, run: RunRow, cache: Path) -> dict[str, Any]:
    """The trial's configuration; of a trial that has not ended the run's params will do, with dotted names."""
    is_complete = run.state == TrialState.COMPLETE
    path = (
        reader.fetch(run, "trial.json", cache / "files") if is_complete else reader.find_file(run, "trial.json", cache / "files")
    )
    if path is None:
        return dict(run.params)
    try:
        return describe_config(TrialSpec.model_validate_json(path.read_bytes()))
    except ValidationError as error:
        if not is_complete:
            return dict(run.params)
        raise TrackingError(f"{path}: cannot be read by this version: {error}") from error


def describe_config(spec: TrialSpec) -> dict[str, Any]:
    """A trial's configuration as JSON documents show it: the training, its data, seed and fold."""
    return json.loads(spec.model_dump_json(include={"train", "data", "seed", "fold"}))  # type: ignore[no-any-return]  # an object


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
