"""What several commands share: options, and how a report is printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:
    from orchestrator.tracking.reader.runs import RunReader

Sweeps = Annotated[list[str] | None, typer.Argument(metavar="SWEEP", help="Names of sweeps; default: the latest.")]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")]


class Report(Protocol):
    """What a command prints."""

    def to_json(self) -> Any:
        """For machines."""

    def render(self) -> Any:
        """For people, as rich draws it."""


def print_report(report: Report, *, as_json: bool) -> None:
    """Print a command's result on standard output."""
    if as_json:
        print(_to_text(report.to_json()))
        return
    from rich.console import Console

    rendered = report.render()
    Console().print(rendered, soft_wrap=isinstance(rendered, str))  # a sentence may hold an address, which a break would spoil


def _to_text(document: Any) -> str:
    """Of a list a line each: json indents in Python, which takes seconds for thousands of trials."""
    if not isinstance(document, list):
        return json.dumps(document, indent=1, allow_nan=False)
    lines = ",\n ".join(json.dumps(item, allow_nan=False) for item in document)
    return f"[{lines}]"


def or_latest(sweeps: list[str] | None, reader: RunReader) -> list[str]:
    """The sweeps named, or the one that ran last."""
    if sweeps:
        return sweeps
    latest = reader.latest_sweep()
    return [latest] if latest else []
