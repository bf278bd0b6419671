"""`orchestrate schedule --list`: the outcome of the last occurrences, and when the next ones are due."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.operations.schedule.clock import next_times
from orchestrator.operations.schedule.record import Occurrence, OccurrenceState, ScheduleRecord, WatchedSweep, name_occurrence
from orchestrator.operations.schedule.run import LOCK, load_scheduled
from orchestrator.state.files import is_locked
from orchestrator.state.home import Home

NUM_SHOWN = 20
"""Occurrences in the table; the JSON has all."""

NUM_NEXT = 3


@dataclass(frozen=True)
class UpcomingTimes:
    """A sweep's cron line and the next times at which it is due."""

    sweep: str
    watch: WatchedSweep
    next: tuple[datetime, ...]


@dataclass(frozen=True)
class ScheduleReport:
    """What ``orchestrate schedule --list`` prints. is_watched: whether a scheduler runs in this home."""

    is_watched: bool
    schedules: tuple[UpcomingTimes, ...]
    occurrences: tuple[Occurrence, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "running": self.is_watched,
            "schedules": [
                {
                    "sweep": schedule.sweep,
                    **schedule.watch.model_dump(mode="json", exclude={"since"}),
                    "next": [name_occurrence(schedule.sweep, time) for time in schedule.next],
                }
                for schedule in self.schedules
            ],
            "occurrences": [occurrence.model_dump(mode="json", exclude={"schema_version"}) for occurrence in self.occurrences],
        }

    def render(self) -> Group:
        coming = _make_table("Next", ("sweep", "line", "next times"))
        for schedule in self.schedules:
            zone = f" {schedule.watch.timezone}" if schedule.watch.timezone else ""
            times = "\n".join(f"{time:%a} {time.isoformat(' ', 'minutes')}" for time in schedule.next)
            coming.add_row(escape(schedule.sweep), schedule.watch.cron + zone, times)
        past = _make_table("Last occurrences", ("occurrence", "started", "took", "outcome"))
        for occurrence in self.occurrences[-NUM_SHOWN:]:
            past.add_row(*(escape(cell) for cell in _row(occurrence, is_watched=self.is_watched)))
        watched = "A scheduler is running here." if self.is_watched else "No scheduler is running here."
        tables = [table for table in (coming, past) if table.row_count]
        return Group(*tables, Text(watched))


def list_schedule(files: Sequence[Path], home: Home) -> ScheduleReport:
    """The sweeps that a home watches, or those of ``files``, with their occurrences.

    Raises:
        SpecError: as for load_scheduled.
        ScheduleError: another version wrote the record.
    """
    record, now = ScheduleRecord(home.schedule), datetime.now(UTC)
    watched = dict(record.watched())
    if files:
        watched = {
            sweep.name: WatchedSweep(file=str(sweep.file), cron=sweep.schedule.cron, timezone=sweep.schedule.timezone, since=now)
            for sweep in load_scheduled(files)
        }
    schedules = [
        UpcomingTimes(name, watch, tuple(next_times(watch.cron, watch.timezone, since=now.astimezone(), count=NUM_NEXT)))
        for name, watch in watched.items()
    ]
    past = [occurrence for occurrence in record.occurrences().values() if not files or occurrence.sweep in watched]
    is_watched = home.locks.is_dir() and is_locked(home.locks / LOCK)
    return ScheduleReport(is_watched, tuple(schedules), tuple(past))


def _make_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=None, padding=(0, 1), header_style="dim", title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != columns[-1])
    return table


def _row(occurrence: Occurrence, *, is_watched: bool) -> tuple[str, ...]:
    state, note = str(occurrence.state), occurrence.note
    if occurrence.state is OccurrenceState.RUNNING and not is_watched:
        state, note = "interrupted", "the next scheduler resumes it"
    started = f"{occurrence.started:%m-%d %H:%M}" if occurrence.started else ""
    took = "" if not (occurrence.started and occurrence.ended) else str(occurrence.ended - occurrence.started).partition(".")[0]
    trials = ", ".join(f"{number} {kind.lower()}" for kind, number in occurrence.trials.items())
    return occurrence.id, started, took, ": ".join(text for text in (state, trials, note) if text)
