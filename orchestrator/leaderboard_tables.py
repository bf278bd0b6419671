"""A leaderboard as people see it: a table for each block of trials that can be compared, and one of what has no rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from orchestrator.leaderboard import Entry, Row


def draw_block(fingerprint: str | None, rows: Sequence[Row], *, is_only: bool) -> Table:
    """Trials that can be compared, from the best on."""
    table = Table(title="Leaderboard" if is_only else f"Scored on {escape(fingerprint or 'unknown images')}")
    for title, justify in (
        ("", "right"),
        ("trial", "left"),
        ("mIoU", "right"),
        ("95 % interval", "left"),
        ("mean over seeds", "right"),
    ):
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich wants literals
    for row in rows:
        interval = "" if row.ci95 is None else f"{row.ci95[0]:.3f} to {row.ci95[1]:.3f}"
        mean = f"{row.configuration_miou:.4f} of {row.configuration_trials}" if row.configuration_trials > 1 else ""
        rank = f"{row.rank}{'=' if row.is_tied and row.rank > 1 else ''}"
        table.add_row(rank, escape(row.entry.name), f"{row.miou:.4f}", interval, mean)
    if any(row.is_tied for row in rows[1:]):
        table.caption = "= not told apart from the best by these images"
    return table


def draw_others(others: Sequence[Entry]) -> Table:
    """Trials that have no rank, and why."""
    table = Table(title="Not ranked")
    for title in ("trial", "state", "reason"):
        table.add_column(title, overflow="fold")
    for entry in others:
        table.add_row(escape(entry.name), escape(entry.state), escape(entry.reason or ""))
    return table
