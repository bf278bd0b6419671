"""Runs of a sweep, wherever they were trained -> its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.report.ensemble_section import load_chosen
from orchestrator.analysis.report.page import Picture, write_page
from orchestrator.analysis.report.table import EnsembleEntry, ReportTable, make_table
from orchestrator.analysis.report.terminal import draw_table
from orchestrator.analysis.trials import IOU, Entry, EntryLoader, name_classes
from orchestrator.errors import SpecError, TrackingError
from orchestrator.state.files import write_atomically
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.tags import Tag

if TYPE_CHECKING:
    from orchestrator.tracking.reader.row import RunRow
    from orchestrator.tracking.reader.runs import RunReader


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


def load_picture(reader: RunReader, table: ReportTable, *, cache: Path) -> Picture | None:
    """The pictures of the best trial of the best configuration; None where it has none.

    Raises:
        TrackingError: the server cannot be used.
    """
    entry = table.best.best_trial if table.best else None
    run = next((run for run in reader.list_runs([table.sweep]) if entry and run.run_id == entry.run_id), None)
    path = reader.find_file(run, TrialFile.SAMPLES, cache / "files") if run else None
    if entry is None or run is None or path is None:
        return None
    return Picture(path.read_bytes(), _make_legend(entry, EntryLoader(reader, cache).load_class_names(run)))


def _make_legend(entry: Entry, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Metrics name the classes that have an IoU, in order; the matrices tell which these are."""
    if entry.confusions is None:
        return ()
    from trainers.pictures import make_palette  # imports OpenCV

    palette = make_palette(entry.confusions.shape[1])
    named = name_classes(entry.confusions, entry.ignore_classes, names)
    return tuple((name, "#" + bytes(palette[c]).hex()) for c, name in named.items())


def _load_ensemble(loader: EntryLoader, run: RunRow) -> EnsembleEntry:
    entry = Entry(
        key=run.run_id, name=run.name, configuration="", state=run.state, run_id=run.run_id, attempts=1, config={},
        metrics=run.metrics, scored_fingerprint=run.tags.get(Tag.SCORED_FINGERPRINT), reason=run.tags.get(Tag.REASON),
        seed=int(run.tags[Tag.SEED]) if Tag.SEED in run.tags else None, row=run.tags[Tag.ROW],
        reported=float(run.tags[Tag.REPORTED]) if Tag.REPORTED in run.tags else None,
    )  # fmt: skip
    if run.state == TrialState.COMPLETE:
        entry = replace(entry, matrices=Matrices.of(*loader.load_confusions(run)))
    members = tuple(row for row in run.tags.get(Tag.ROWS, "").split(",") if row)
    return EnsembleEntry(entry, members, run.tags.get(Tag.BEST_MEMBER))


def _find_class_names(loader: EntryLoader, trials: Sequence[RunRow], entries: Sequence[Entry]) -> tuple[str, ...]:
    """The scored classes in their order, from the first trials that name them all."""
    wanted = {name for entry in entries for name in entry.metrics if name.startswith(IOU)}
    runs = {run.run_id: run for run in trials}
    names: dict[str, None] = {}
    for entry in entries:
        if entry.state == TrialState.COMPLETE and len(names) < len(wanted):
            names |= dict.fromkeys(loader.load_class_names(runs[entry.run_id]))
    return tuple(names)


@dataclass(frozen=True)
class SweepTable:
    """What ``orchestrate report`` prints. out: where the page was written, if it was."""

    table: ReportTable
    out: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return self.table.to_json() | {"out": None if self.out is None else str(self.out)}

    def render(self) -> Group:
        return draw_table(self.table) if self.out is None else Group(Text(f"{self.table.sweep}: written to {self.out}"))


def make_report(reader: RunReader, sweep: str | None, *, out: Path | None, cache: Path) -> SweepTable:
    """Lay out the report of a sweep, or of the latest one, and write it to ``out`` as one HTML file, if that is given.

    Raises:
        SpecError: ``out`` cannot be written.
        TrackingError: there is no such sweep, or its runs or their files cannot be read.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"--out is {str(out)!r}. Allowed: a file that ends in .html; for JSON use --json.")
    name = sweep or reader.latest_sweep()
    if name is None:
        raise TrackingError("There is no sweep yet. Run `orchestrate sweep FILE` first.")
    table = load_table(reader, name, cache=cache)
    if out is not None:
        chosen = load_chosen(reader, name, cache=cache)
        _write(out, write_page(table, load_picture(reader, table, cache=cache), chosen))
    return SweepTable(table, out)


def _write(out: Path, text: str) -> None:
    try:
        write_atomically(out, text)
    except OSError as error:
        raise SpecError(
            f"--out {out}: cannot be written: {error.strerror or error}. Name a file in a folder that exists."
        ) from error
