"""What became of each occurrence, as JSON lines, and which lines are watched since when: all that outlives the scheduler.

mlruns/schedule/
  occurrences.jsonl    one Occurrence a line; of lines with the same id the last one counts
  watched.json         Watched: each sweep's line, and since when it counts
  <id>.log             what its sweep printed
  <id>.json            what its sweep came to, as `orchestrate sweep --json` prints it
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import ScheduleError
from orchestrator.state.files import append_line, write_atomically

SCHEMA_VERSION: Literal[1] = 1
"""Of every file in ``mlruns/schedule``."""


class State(StrEnum):
    """Where an occurrence stands, or how it ended."""

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
        """Whether the next scheduler goes on with it."""
        return self in (State.WAITING, State.RUNNING, State.SUSPENDED)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = SCHEMA_VERSION


class Occurrence(_Line):
    """One time at which a sweep was due.

    stands_for: how many times, this one included: earlier ones that came while nobody watched are made good by it.
    started: for the first time, where it was cut off and went on. exit_code: of `orchestrate sweep`.
    trials: state -> number. note: what else there is to say, for people.
    """

    id: str
    sweep: str
    file: str
    planned: datetime
    state: State
    stands_for: int = 1
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = None
    trials: dict[str, int] = {}
    note: str | None = None


class Watch(BaseModel):
    """A sweep's line and zone, and since when it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str
    cron: str
    timezone: str | None
    since: datetime


class Watched(_Line):
    """Name of a sweep -> what is watched of it."""

    sweeps: dict[str, Watch] = {}


def name_occurrence(sweep: str, planned: datetime) -> str:
    """``nightly@2026-11-22T22:00+01:00``."""
    return f"{sweep}@{planned.isoformat(timespec='minutes')}"


class ScheduleRecord:
    """Reads and writes the folder. One scheduler at a time may write, anybody read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def _lines(self) -> Path:
        return self.folder / "occurrences.jsonl"

    @property
    def _watched(self) -> Path:
        return self.folder / "watched.json"

    def log_of(self, id: str) -> Path:
        """What the sweep of an occurrence printed."""
        return self.folder / f"{id}.log"

    def document_of(self, id: str) -> Path:
        """What the sweep of an occurrence came to."""
        return self.folder / f"{id}.json"

    def write(self, occurrence: Occurrence) -> None:
        """Enter where an occurrence stands now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self._lines, occurrence.model_dump_json(exclude_defaults=True))

    def occurrences(self) -> dict[str, Occurrence]:
        """Id -> how it stands, in the order in which they came; torn lines are passed over."""
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

    def watched(self) -> Mapping[str, Watch]:
        """What the last scheduler watched.

        Raises:
            ScheduleError: another version wrote it.
        """
        try:
            return Watched.model_validate_json(self._watched.read_bytes()).sweeps
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise ScheduleError(f"{self._watched}: cannot be read by this version: {error}. Move it away.") from error

    def watch(self, sweeps: Mapping[str, Watch]) -> None:
        """Note what is watched from now on; other sweeps' lines are forgotten."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._watched, Watched(sweeps=dict(sweeps)).model_dump_json(indent=1))
