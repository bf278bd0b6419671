"""Shows a running sweep on standard error: a live table on a terminal, one line per event otherwise."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialSpec, TrialState

STATE_COLORS = {TrialState.COMPLETE: "green", TrialState.CACHED: "cyan", TrialState.PRUNED: "yellow", TrialState.FAILED: "red"}
DETAILED_PRINT_S = 10.0
"""Minimum interval between printed epochs of a trial, without a terminal."""


@dataclass
class ProgressRow:
    """A trial in the live table."""

    spec: TrialSpec
    attempt: int
    started_s: float = field(default_factory=time.monotonic)
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    printed_s: float = 0.0


class SweepProgress:
    """Shows trials as they start, train and end: the dispatcher's Monitor. A context manager, used by one thread."""

    def __init__(self, *, total: int | None, starts_workers: bool, console: Console) -> None:
        self._console = console
        self._first_note = "starting workers ..." if starts_workers else ""
        self._running: dict[str, ProgressRow] = {}
        self._best: tuple[float, str] | None = None
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trials"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task = self._bar.add_task("sweep", total=total, note=self._first_note)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            self._live.start()
        elif self._first_note:
            self._console.print(self._first_note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self._say(escape(text))

    def started(self, spec: TrialSpec, attempt: int) -> None:
        self._running[spec.key] = ProgressRow(spec, attempt)
        self._bar.update(self._task, note="")
        again = f", attempt {attempt}" if attempt > 1 else ""
        if not self._console.is_terminal:
            self._say(f" started  {_title(spec)}{again}")

    def epoch(self, spec: TrialSpec, event: Event) -> None:
        row = self._running.get(spec.key)
        if row is None or event.epoch is None:
            return
        row.epoch, row.metrics = event.epoch, event.metrics
        now = time.monotonic()
        if not self._console.is_terminal and now - row.printed_s > DETAILED_PRINT_S:
            row.printed_s = now
            epoch, miou = f"{row.epoch}/{spec.train.epochs}", _number(row.metrics.get(OBJECTIVE))
            speed = f"{row.metrics.get('images_per_s', 0):.0f} images/s"
            self._say(f" running  {_title(spec)}  epoch {epoch}, val/miou {miou}, {speed}")

    def ended(self, spec: TrialSpec, state: TrialState, result: TrialResult | None, reason: str | None) -> None:
        row = self._running.pop(spec.key, None)
        if state is TrialState.WAITING:
            what = " stopped" if result is None else "  failed"  # and will be retried
            self._say(f"[yellow]{what}[/]  {_title(spec)}  {escape(reason or '')}")
            return
        self._bar.advance(self._task)
        miou = result.metrics.get(OBJECTIVE) if result else None
        took = f"  {time.monotonic() - row.started_s:.0f} s" if row else ""
        color, why = STATE_COLORS[state], f"  {escape(reason)}" if reason else ""
        self._say(f"[{color}]{state.lower():>8}[/]  {_title(spec)}  val/miou {_number(miou)}{took}{why}")
        if miou is not None and (self._best is None or miou > self._best[0]):
            self._best = (miou, spec.name)
            self._bar.update(self._task, note=f"best {miou:.4f} {escape(spec.name)}")

    def _say(self, markup: str) -> None:
        self._console.print(markup, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for column in ("running", "seed", "epoch", OBJECTIVE, "train/loss", "images/s"):
            table.add_column(column, justify="left" if column == "running" else "right")
        for row in self._running.values():
            table.add_row(
                escape(row.spec.name),
                str(row.spec.seed),
                f"{row.epoch}/{row.spec.train.epochs}",
                _number(row.metrics.get(OBJECTIVE)),
                _number(row.metrics.get("train/loss")),
                f"{row.metrics['images_per_s']:.0f}" if "images_per_s" in row.metrics else "-",
            )
        return Group(self._bar, table) if self._running else Group(self._bar)


def _title(spec: TrialSpec) -> str:
    """A trial's name as markup, with its seed."""
    return escape(spec.name if f"seed {spec.seed}" in spec.name else f"{spec.name} seed {spec.seed}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
