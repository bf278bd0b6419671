"""What the scheduler keeps on disk: every occurrence, and which cron lines are watched since when.

mlruns/schedule/
  occurrences.jsonl    one Occurrence per line; of lines with the same id the last one counts
  watched.json         WatchedSweeps: each sweep's cron line, and since when it is watched
  <id>.log             what the occurrence's sweep printed
  <id>.json            its result, as `orchestrate sweep --json` prints it
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import ScheduleError
from orchestrator.state.files import append_line, write_atomically

SCHEMA_VERSION: Literal[1] = 1
"""Of every file in ``mlruns/schedule``."""


class OccurrenceState(StrEnum):
    """The state of an occurrence, or how it ended."""

    WAITING = "waiting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DONE = "done"
    NOTHING_NEW = "nothing new"
    FAILED = "failed"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    CRASHED = "crashed"
    SKIPPED = "skipped"
    MISSED = "missed"

    @property
    def is_open(self) -> bool:
        """Whether the next scheduler resumes it."""
        return self in (OccurrenceState.WAITING, OccurrenceState.RUNNING, OccurrenceState.SUSPENDED)


class _Versioned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = SCHEMA_VERSION


class Occurrence(_Versioned):
    """One time at which a sweep was due.

    stands_for: number of due times that this one replaces, itself included; the others passed while no scheduler ran.
    started: first start, if it was interrupted and resumed. exit_code: of `orchestrate sweep`. trials: state -> number.
    note: further explanation for people.
    """

    id: str
    sweep: str
    file: str
    planned: datetime
    state: OccurrenceState
    stands_for: int = 1
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    trials: dict[str, int] = {}
    note: str | None = None


class WatchedSweep(BaseModel):
    """A sweep's cron line and time zone, and since when it is watched."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str
    cron: str
    timezone: str | None
    since: datetime


class WatchedSweeps(_Versioned):
    """Name of a sweep -> how it is watched."""

    sweeps: dict[str, WatchedSweep] = {}


def name_occurrence(sweep: str, planned: datetime) -> str:
    """``nightly@2026-11-22T22:00+01:00``."""
    return f"{sweep}@{planned.isoformat(timespec='minutes')}"


class ScheduleRecord:
    """Reads and writes the folder. Only one scheduler at a time may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines, self._watched = folder / "occurrences.jsonl", folder / "watched.json"

    def log_of(self, id: str) -> Path:
        """What an occurrence's sweep printed."""
        return self.folder / f"{id}.log"

    def document_of(self, id: str) -> Path:
        """The result of an occurrence's sweep."""
        return self.folder / f"{id}.json"

    def read_trials(self, id: str) -> list[dict[str, Any]]:
        """The trials in the result of an occurrence's sweep; empty if it has none, because it was killed or refused."""
        try:
            return list(json.loads(self.document_of(id).read_bytes())["trials"])
        except (FileNotFoundError, ValueError):
            return []

    def write(self, occurrence: Occurrence) -> None:
        """Add the present state of an occurrence."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self._lines, occurrence.model_dump_json(exclude_defaults=True))

    def occurrences(self) -> dict[str, Occurrence]:
        """Id -> last state, in order of appearance; torn lines are skipped."""
        try:
            lines = self._lines.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        found: dict[str, Occurrence] = {}
        for line in lines:
            try:
                occurrence = Occurrence.model_validate_json(line)
            except ValidationError:
                continue  # the last write of a process that was killed
            found[occurrence.id] = occurrence
        return found

    def watched(self) -> Mapping[str, WatchedSweep]:
        """What the last scheduler watched.

        Raises:
            ScheduleError: another version wrote it.
        """
        try:
            return WatchedSweeps.model_validate_json(self._watched.read_bytes()).sweeps
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise ScheduleError(f"{self._watched}: cannot be read by this version: {error}. Move it away.") from error

    def watch(self, sweeps: Mapping[str, WatchedSweep]) -> None:
        """Save what is watched from now on; other sweeps are forgotten."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._watched, WatchedSweeps(sweeps=dict(sweeps)).model_dump_json(indent=1))
