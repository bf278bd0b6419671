"""The report's table on a terminal."""

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from orchestrator.analysis.report.table import ReportLine, ReportTable

TEXTS = ("trained", "trial", "reason")
"""Columns that may be broken into lines; all others hold numbers."""


def draw_table(table: ReportTable) -> Group:
    """What ``report`` prints for people."""
    if not table.lines:
        return Group("No trials yet. Run `orchestrate sweep FILE` first.")
    failures = [failure for line in table.lines for failure in line.failures]
    parts = [_draw_lines(table), _draw_classes(table)] if table.class_names else [_draw_lines(table)]
    return Group(*parts, *explain(table), *([_draw_failures(failures)] if failures else []))


def explain(table: ReportTable) -> list[str]:
    """The notes that a reader of this table needs."""
    lines = table.lines
    has_seeds = any(line.spread is not None for line in lines)
    notes = [f"mIoU on the validation images, with its 95 % CI over images{' and seeds' if has_seeds else ''}."]
    if has_seeds:
        notes.append("Several seeds: their mean, ± their standard deviation.")
    if any(line.is_tied and line.rank != 1 for line in lines):
        notes.append("= tied with the best single configuration: no evidence of a difference.")
    if any(line.gain for line in lines):
        notes.append(
            "An ensemble's members were fixed beforehand. Only the best member, with which it is compared, was chosen on these "
            "images, so its gain is, if anything, too small."
        )
    if any(line.reported is not None for line in lines):
        notes.append("Reported values are for other images: compare their order, not their size.")
    if not all(line.is_comparable for line in lines):
        notes.append("* scored on other images, labels or classes than the rest: cannot be compared.")
    if table.num_left_out:
        notes.append(
            f"Left out: {table.num_left_out} trials of earlier versions of this sweep (`orchestrate leaderboard` has them)."
        )
    return notes


def write_miou(line: ReportLine) -> str:
    """``.584 ±.012``, or a dash."""
    if line.miou is None:
        return "–"
    spread = "" if line.spread is None else f" ±{write_short(line.spread)}"
    return f"{write_short(line.miou)}{spread}{'' if line.is_comparable else ' *'}"


def write_interval(pair: tuple[float, float] | None, *, signed: bool = False) -> str:
    """``.512 to .640``; empty where there is none."""
    if pair is None:
        return ""
    low, high = (write_short(value, signed=signed) for value in pair)
    return f"{low} to {high}"


def write_short(value: float, *, signed: bool = False) -> str:
    """Three decimals, without the zero before the point: ``.584``, ``+.012``, ``1.000``."""
    return (f"{value:+.3f}" if signed else f"{value:.3f}").replace("0.", ".", 1)


def write_rank(line: ReportLine) -> str:
    """``1``, ``2=``."""
    return "" if line.ranked is None else line.ranked.mark


def write_gain(value: float, ci95: tuple[float, float]) -> str:
    """``+.012 (-.003 to +.027)``."""
    return f"{write_short(value, signed=True)} ({write_interval(ci95, signed=True)})"


def _draw_lines(table: ReportTable) -> Table:
    has_rows, has_reported = _has_rows(table), any(line.reported is not None for line in table.lines)
    drawn = _start_table(table.sweep, [*["row"] * has_rows, "rank", "trained", "mIoU", "95 % CI", *["reported"] * has_reported])
    for line in table.lines:
        cells = [escape(line.row or "")] * has_rows + [write_rank(line), _write_title(line)]
        cells += [write_miou(line), write_interval(line.ci95)]
        cells += [("–" if line.reported is None else write_short(line.reported))] * has_reported
        drawn.add_row(*cells, style="bold" if line.rank == 1 else None)
    return drawn


def _draw_classes(table: ReportTable) -> Table:
    """In a table of their own, so that both fit a terminal of 80 columns."""
    has_rows = _has_rows(table)
    drawn = _start_table("IoU of each class", ["row" if has_rows else "trained", *table.class_names])
    for line in table.lines:
        if line.miou is not None:
            classes = [write_short(line.class_iou[name]) if name in line.class_iou else "–" for name in table.class_names]
            drawn.add_row(
                escape((line.row or "") if has_rows else line.title), *classes, style="bold" if line.rank == 1 else None
            )
    return drawn


def _start_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in columns:
        is_text = column in TEXTS
        table.add_column(escape(column), justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    return table


def _has_rows(table: ReportTable) -> bool:
    return any(line.row is not None for line in table.lines)


def _write_title(line: ReportLine) -> str:
    title = escape(line.title)
    if not line.is_ensemble:
        return title
    gain = "" if line.gain is None else f"\n  gain {write_gain(line.gain.value, line.gain.ci95)}"
    return f"[cyan]{title}[/], ensemble{gain}"


def _draw_failures(failures: Sequence[tuple[str, str]]) -> Table:
    drawn = _start_table("Not included", ["trial", "reason"])
    for name, reason in failures:
        drawn.add_row(escape(name), escape(reason))
    return drawn
