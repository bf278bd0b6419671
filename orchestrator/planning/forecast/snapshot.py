"""mlruns/plans/<sweep>.json: what a sweep consisted of when it last began; diff.py compares it with the present plan."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import TrialError, redact
from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.plan import Plan, row_of
from orchestrator.spec.model import SweepSpec
from orchestrator.state.files import write_atomically
from trainers.config import TRAINER_VERSION

LEFT_OUT = {"name", "description", "rows", "notify", "priority"}
"""Fields of a sweep file that are no settings: rows are configurations, addresses to notify may hold passwords."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConfigurationSnapshot(_Part):
    """A configuration. point: its row's id or the values that the search chose, as canonical text.

    fields: the training's fields, nested, with fingerprints of the data and of custom code.
    """

    id: str
    label: str
    row: str | None
    point: str
    fields: dict[str, Any]


class PlanSnapshot(_Part):
    """The configurations of a plan, and the settings of its file that belong to none. written_s: when it was made.

    common: only in the file, fields of the first configuration; ``fields`` of each then holds those that differ.
    """

    schema_version: Literal[1] = 1
    sweep: str
    written_s: float
    settings: dict[str, Any]
    common: dict[str, Any] = {}
    configurations: tuple[ConfigurationSnapshot, ...]


def take_snapshot(spec: SweepSpec, plan: Plan) -> PlanSnapshot:
    """Describe a plan. Of an open-ended search the space is part of it, not the configurations it has proposed."""
    settings = spec.model_dump(mode="json", exclude=LEFT_OUT if plan.open_ended else LEFT_OUT | {"base", "data"})
    if settings["search"] and not plan.open_ended:
        del settings["search"]["space"]
    if plan.open_ended:
        settings["base"] |= {"trainer_version": TRAINER_VERSION}
        settings["data"] |= {"content": sorted({data.fingerprint for data in plan.facts.data.values()})}
    found = () if plan.open_ended else tuple(_describe(c, plan.facts) for c in plan.configurations)
    return PlanSnapshot(sweep=spec.name, written_s=time.time(), settings=_redact(settings), configurations=found)


def _describe(configuration: Configuration, facts: Facts) -> ConfigurationSnapshot:
    train, data, found = configuration.train, configuration.data, facts.of(configuration.data)
    fields = train.model_dump(mode="json") | {
        "data": data.model_dump(mode="json") | {"content": found.fingerprint, "num_removed": len(found.removed)},
        "seed": configuration.seed,
        "code": facts.code_of(train),
        "trainer_version": TRAINER_VERSION,
    }
    return ConfigurationSnapshot(
        id=configuration.id,
        label=configuration.label,
        row=row_of(configuration),
        point=json.dumps(configuration.params, sort_keys=True, default=str),
        fields=_redact(fields),
    )


def _redact(value: Any) -> Any:
    """Remove passwords from addresses: a snapshot is shown again later."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _redact(inner) for name, inner in value.items()}
    return [_redact(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_snapshot(folder: Path, snapshot: PlanSnapshot) -> None:
    """Store a sweep's snapshot in place of the last one."""
    common = dict(snapshot.configurations[0].fields) if snapshot.configurations else {}
    shortened = tuple(
        one.model_copy(update={"fields": {k: v for k, v in one.fields.items() if k not in common or common[k] != v}})
        for one in snapshot.configurations
    )
    file = snapshot.model_copy(update={"common": common, "configurations": shortened})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{snapshot.sweep}.json", file.model_dump_json())


def read_snapshot(folder: Path, sweep: str) -> PlanSnapshot | None:
    """A sweep's snapshot; None if it never began on this machine.

    Raises:
        TrialError: the file is damaged, or of another version.
    """
    path = folder / f"{sweep}.json"
    try:
        file = PlanSnapshot.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise TrialError(f"{path}: this version cannot read it, so that edits of the file cannot be shown: {error}") from error
    file.settings.get("keep", {}).pop("predictions", None)  # earlier versions wrote it
    configurations = tuple(one.model_copy(update={"fields": file.common | one.fields}) for one in file.configurations)
    return file.model_copy(update={"common": {}, "configurations": configurations})
