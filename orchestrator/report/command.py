"""`orchestrate report`: reads a sweep's runs and prints its table, or writes it as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from orchestrator.errors import SpecError, TrackingError
from orchestrator.report.chosen import load_chosen
from orchestrator.report.loading import load_picture, load_table
from orchestrator.report.page import write_page
from orchestrator.report.table import ReportTable
from orchestrator.report.text import draw_table
from orchestrator.trial import write_atomically

if TYPE_CHECKING:
    from orchestrator.tracking.runs import RunReader


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
