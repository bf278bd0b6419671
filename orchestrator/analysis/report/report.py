"""Runs of a sweep, wherever they were trained -> its report: what `orchestrate report` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from orchestrator.analysis.cache import ValueCache
from orchestrator.analysis.confusions import Matrices
from orchestrator.analysis.report.ensemble_section import load_chosen
from orchestrator.analysis.report.page import SamplePicture, write_page
from orchestrator.analysis.report.table import EnsembleRun, ReportTable, make_table
from orchestrator.analysis.report.terminal import draw_table
from orchestrator.analysis.results import score_ensemble
from orchestrator.analysis.trials import IOU, Trial, TrialLoader, name_classes
from orchestrator.errors import SpecError, TrackingError
from orchestrator.state.files import write_atomically
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.tags import Tag

if TYPE_CHECKING:
    from orchestrator.tracking.reader.row import RunRow
    from orchestrator.tracking.reader.runs import RunReader


def load_table(reader: RunReader, sweep: str, *, cache: Path) -> ReportTable:
    """Read a sweep's runs and make its table.

    Raises:
        TrackingError: there is no such sweep, or its runs or their files cannot be read.
    """
    runs = reader.list_runs([sweep])
    values = ValueCache(cache / "figures", [sweep], place=reader.location.uri)
    loader = TrialLoader(reader, cache, values)
    trials = loader.load_all(runs)
    ensembles = [_load_ensemble(loader, run) for run in reader.list_ensembles([sweep]) if Tag.ROW in run.tags]
    table = make_table(sweep, trials, ensembles, class_names=_find_class_names(loader, runs, trials))
    values.save(keep_unused=True)
    return table


def load_picture(reader: RunReader, table: ReportTable, *, cache: Path) -> SamplePicture | None:
    """The sample pictures of the best trial of the best configuration; None where it has none.

    Raises:
        TrackingError: the server cannot be used.
    """
    trial = table.best.best_trial if table.best else None
    run = next((run for run in reader.list_runs([table.sweep]) if trial and run.run_id == trial.run_id), None)
    path = reader.find_file(run, TrialFile.SAMPLES, cache / "files") if run else None
    if trial is None or trial.matrices is None or run is None or path is None:
        return None
    return SamplePicture(path.read_bytes(), _make_legend(trial.matrices, TrialLoader(reader, cache).load_class_names(run)))


def _make_legend(matrices: Matrices, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """names: of the classes with an IoU, in order; the matrices say which classes these are."""
    from trainers.pictures import make_palette  # imports OpenCV

    palette = make_palette(matrices.confusions.shape[1])
    named = name_classes(matrices.confusions, matrices.ignore_classes, names)
    return tuple((name, "#" + bytes(palette[c]).hex()) for c, name in named.items())


def _load_ensemble(loader: TrialLoader, run: RunRow) -> EnsembleRun:
    return EnsembleRun(
        name=run.name,
        row=run.tags[Tag.ROW],
        members=tuple(row for row in run.tags.get(Tag.ROWS, "").split(",") if row),
        best_member=run.tags.get(Tag.BEST_MEMBER),
        result=score_ensemble(run, loader) if run.state == TrialState.COMPLETE else None,
        metrics=run.metrics,
        reported=float(run.tags[Tag.REPORTED]) if Tag.REPORTED in run.tags else None,
        reason=run.tags.get(Tag.REASON),
    )


def _find_class_names(loader: TrialLoader, runs: Sequence[RunRow], trials: Sequence[Trial]) -> tuple[str, ...]:
    """The scored classes in their order, from the first trials that name them all."""
    wanted = {name for trial in trials for name in trial.metrics if name.startswith(IOU)}
    by_id = {run.run_id: run for run in runs}
    names: dict[str, None] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and len(names) < len(wanted):
            names |= dict.fromkeys(loader.load_class_names(by_id[trial.run_id]))
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
    """Make the report of a sweep, or of the latest one; with ``out``, write it there as one HTML file.

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
        page = write_page(table, load_picture(reader, table, cache=cache), chosen)
        try:
            write_atomically(out, page)
        except OSError as error:
            what = error.strerror or error
            raise SpecError(f"--out {out}: cannot be written: {what}. Name a file in a folder that exists.") from error
    return SweepTable(table, out)
