"""Runs of a sweep, wherever they were trained -> its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.entries import IOU, Entry, EntryLoader, name_classes
from orchestrator.matrices import Matrices
from orchestrator.report.lines import EnsembleEntry
from orchestrator.report.table import ReportTable, make_table
from orchestrator.tracking.labels import REPORTED, ROW
from orchestrator.trial import TrialState

if TYPE_CHECKING:
    from orchestrator.tracking.rows import RunRow
    from orchestrator.tracking.runs import RunReader


def load_table(reader: RunReader, sweep: str, *, cache: Path) -> ReportTable:
    """Read a sweep's runs and lay out its report.

    Raises:
        TrackingError: there is no such sweep, or its runs or their files cannot be read.
    """
    runs = reader.list_runs([sweep])
    loader = EntryLoader(reader, cache)
    entries = loader.load_all(runs)
    ensembles = [_load_ensemble(loader, run) for run in reader.list_table_ensembles(sweep)]
    return make_table(sweep, entries, ensembles, class_names=_find_class_names(loader, runs, entries))


@dataclass(frozen=True)
class Picture:
    """The picture grid of a trial. png: the file; legend: name and colour, ``#rrggbb``, of each scored class."""

    png: bytes
    legend: tuple[tuple[str, str], ...]


def load_picture(reader: RunReader, table: ReportTable, *, cache: Path) -> Picture | None:
    """The pictures of the best trial of the best configuration; None where it has none.

    Raises:
        TrackingError: the server cannot be used.
    """
    entry = table.best.best_trial if table.best else None
    run = next((run for run in reader.list_runs([table.sweep]) if entry and run.run_id == entry.run_id), None)
    path = reader.find_file(run, "samples.png", cache / "files") if run else None
    if entry is None or run is None or path is None:
        return None
    return Picture(path.read_bytes(), _make_legend(entry, EntryLoader(reader, cache).load_class_names(run)))


def _make_legend(entry: Entry, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Metrics name the classes that have an IoU, in order; the matrices tell which these are."""
    if entry.confusions is None:
        return ()
    from orchestrator.pictures import make_palette  # imports OpenCV

    palette = make_palette(entry.confusions.shape[1])
    named = name_classes(entry.confusions, entry.ignore_classes, names)
    return tuple((name, "#" + bytes(palette[c]).hex()) for c, name in named.items())


def _load_ensemble(loader: EntryLoader, run: RunRow) -> EnsembleEntry:
    entry = Entry(
        key=run.run_id, name=run.name, configuration="", state=run.state, run_id=run.run_id, attempts=1, config={},
        metrics=run.metrics, scored_fingerprint=run.tags.get("scored_fingerprint"), reason=run.tags.get("reason"),
        seed=int(run.tags["seed"]) if "seed" in run.tags else None, row=run.tags[ROW],
        reported=float(run.tags[REPORTED]) if REPORTED in run.tags else None,
    )  # fmt: skip
    if run.state == TrialState.COMPLETE:
        entry = replace(entry, matrices=Matrices.of(*loader.load_confusions(run)))
    members = tuple(row for row in run.tags.get("rows", "").split(",") if row)
    return EnsembleEntry(entry, members, run.tags.get("best_member"))


def _find_class_names(loader: EntryLoader, trials: Sequence[RunRow], entries: Sequence[Entry]) -> tuple[str, ...]:
    """The scored classes in their order, from the first trials that name them all."""
    wanted = {name for entry in entries for name in entry.metrics if name.startswith(IOU)}
    runs = {run.run_id: run for run in trials}
    names: dict[str, None] = {}
    for entry in entries:
        if entry.state == TrialState.COMPLETE and len(names) < len(wanted):
            names |= dict.fromkeys(loader.load_class_names(runs[entry.run_id]))
    return tuple(names)
