"""mlruns/plans/<sweep>.json: what a sweep came to when it was begun last, from which changes.py tells what was edited since."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import TrialError
from orchestrator.planning.forecast.diff import Content, Entry
from orchestrator.state.files import write_atomically

SCHEMA_VERSION: Literal[1] = 1


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EntryRecord(_File):
    """One configuration. fields: those whose value is not the record's ``common`` one."""

    id: str
    label: str
    row: str | None
    point: str
    fields: dict[str, Any]


class PlanRecord(_File):
    """A sweep's content; ``common`` holds the first configuration's fields, so that thousands of alike ones stay small."""

    schema_version: Literal[1] = SCHEMA_VERSION
    sweep: str
    written_s: float
    settings: dict[str, Any]
    common: dict[str, Any]
    configurations: tuple[EntryRecord, ...]


def write_record(folder: Path, sweep: str, content: Content) -> None:
    """Keep what the sweep comes to now, in place of what was kept before."""
    common = dict(content.entries[0].fields) if content.entries else {}
    entries = tuple(
        EntryRecord(
            id=entry.id,
            label=entry.label,
            row=entry.row,
            point=entry.point,
            fields={name: value for name, value in entry.fields.items() if name not in common or common[name] != value},
        )
        for entry in content.entries
    )
    record = PlanRecord(sweep=sweep, written_s=time.time(), settings=content.settings, common=common, configurations=entries)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(_path(folder, sweep), record.model_dump_json())


def read_record(folder: Path, sweep: str) -> Content | None:
    """What the sweep came to when it was begun last; None where it has not been, on this machine.

    Raises:
        TrialError: the file is damaged, or of another version.
    """
    path = _path(folder, sweep)
    try:
        record = PlanRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise TrialError(f"{path}: cannot be read by this version, so that what was changed cannot be told: {error}") from error
    record.settings.get("keep", {}).pop("predictions", None)  # earlier versions wrote it
    entries = tuple(
        Entry(id=one.id, label=one.label, row=one.row, point=one.point, fields=record.common | one.fields)
        for one in record.configurations
    )
    return Content(settings=record.settings, entries=entries, written_s=record.written_s)


def _path(folder: Path, sweep: str) -> Path:
    return folder / f"{sweep}.json"
