"""Options that several commands share, and how a command prints its result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:
    from orchestrator.state.home import Home
    from orchestrator.tracking.reader.runs import RunReader

Sweeps = Annotated[list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps (default: the latest).")]
LatestSweep = Annotated[str | None, typer.Argument(metavar="SWEEP", help="Name of a sweep (default: the latest).")]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output, and nothing else there.")]


class Report(Protocol):
    """What a command prints."""

    def to_json(self) -> Any:
        """Return the document for ``--json``."""

    def render(self) -> Any:
        """Return what rich draws for people."""


def print_report(report: Report, *, as_json: bool) -> None:
    """Print a command's result on standard output."""
    if as_json:
        document = report.to_json()
        if isinstance(document, list):  # one item per line: ``indent`` takes seconds for thousands of trials
            lines = ",\n ".join(json.dumps(item, allow_nan=False) for item in document)
            print(f"[{lines}]")
        else:
            print(json.dumps(document, indent=1, allow_nan=False))
        return
    from rich.console import Console

    rendered = report.render()
    Console().print(rendered, soft_wrap=isinstance(rendered, str))  # a line break inside an address would spoil it


def open_reader() -> tuple[Home, RunReader]:
    """Open this machine's home and the reader of its runs."""
    from orchestrator.state.home import Home
    from orchestrator.tracking.location import TrackingLocation
    from orchestrator.tracking.reader.runs import RunReader

    home = Home.from_environment()
    return home, RunReader(TrackingLocation.of(home))


def or_latest(sweeps: list[str] | None, reader: RunReader) -> list[str]:
    """Return the given sweeps, or the one that ran last."""
    if sweeps:
        return sweeps
    latest = reader.latest_sweep()
    return [latest] if latest else []
