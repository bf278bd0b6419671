"""What a sweep comes to, kept in the ledger: for workers that join it, and for whoever asks how it stands."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from orchestrator.errors import SpecError
from orchestrator.planning.configuration import Configuration
from orchestrator.planning.plan import Plan, row_of
from orchestrator.spec.model import SweepSpec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialSpec, ignore_field
from orchestrator.tracking.tags import RunLabel
from trainers.config import TRAINER_VERSION


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SharedTrial(_Part):
    """A planned trial. row, reported: as in RunLabel."""

    key: str
    name: str
    row: str | None = None
    reported: float | None = None

    @property
    def label(self) -> RunLabel:
        """How the sweep calls its run."""
        return RunLabel(self.name, self.row, self.reported)


class SharedData(_Part):
    """A data set of the sweep. source: configuration.source_part, with paths of the machine that planned."""

    source: str
    fingerprint: str
    removed: tuple[int, ...] = ()


class SharedPlan(_Part):
    """A sweep file with its overrides, and what came of it on the machine that planned it.

    trials: those planned; in an open-ended search those known when it began. left_out: members of the sweep that are of an
    earlier form of the file. num_allowed: how many trials an open-ended search may come to. code: import path -> hash.
    again: as of Facts. Addresses to notify stay on the machine that planned: they may hold secrets.
    """

    schema_version: Literal[1] = 1
    spec: SweepSpec
    trainer_version: int = TRAINER_VERSION
    host: str
    has_tracking: bool
    data: tuple[SharedData, ...]
    code: dict[str, str]
    trials: tuple[SharedTrial, ...]
    left_out: tuple[str, ...]
    num_allowed: int | None = None
    again: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _ignore_retired(cls, raw: Any) -> Any:
        """Earlier versions wrote ``keep.predictions``, and ``pruner.over``, which was null for any pruner that is left."""
        if not isinstance(raw, dict) or not isinstance(spec := raw.get("spec"), dict):
            return raw
        spec = spec | {"keep": ignore_field(spec.get("keep", {}), "predictions")}
        if isinstance(pruner := spec.get("pruner"), dict) and pruner.get("over") is None:
            spec["pruner"] = ignore_field(pruner, "over")
        return raw | {"spec": spec}

    @property
    def labels(self) -> dict[str, RunLabel]:
        """Key -> how the sweep calls the trial's run."""
        return {trial.key: trial.label for trial in self.trials}


def share_plan(spec: SweepSpec, plan: Plan, *, home: Home, ledger: Ledger) -> None:
    """Keep a plan in the ledger, instead of what it had of the sweep."""
    reported = {str(row.id): row.reported for row in spec.rows}
    labels = {trial.spec.key: make_label(trial.configuration, trial.spec, reported) for trial in plan.trials}
    budget = spec.budget.trials if plan.open_ended and spec.budget else None
    shared = SharedPlan(
        spec=spec.model_copy(update={"notify": ()}),
        host=socket.gethostname(),
        has_tracking=home.tracking is not None,
        data=tuple(
            SharedData(source=source, fingerprint=facts.fingerprint, removed=facts.removed)
            for source, facts in plan.facts.data.items()
        ),
        code=dict(plan.facts.code),
        trials=tuple(
            SharedTrial(key=key, name=label.name, row=label.row, reported=label.reported) for key, label in labels.items()
        ),
        left_out=tuple(sorted(ledger.members(spec.name).keys() - labels.keys())),
        num_allowed=None if budget is None else budget - budget % spec.trials_per_configuration,
        again=plan.facts.again,
    )
    ledger.roster.write_plan(spec.name, shared.model_dump_json())


def read_shared_plan(ledger: Ledger, sweep: str) -> SharedPlan | None:
    """What was kept of a sweep; None where it ran before plans were kept.

    Raises:
        SpecError: another version wrote it.
    """
    document = ledger.roster.read_plan(sweep)
    if document is None:
        return None
    try:
        return SharedPlan.model_validate_json(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(
            f"{sweep}: its plan in the ledger cannot be read by this version of orchestrate "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}). Use the one that began the sweep, or begin it again."
        ) from error


def make_label(configuration: Configuration, trial: TrialSpec, reported: Mapping[str, float | None]) -> RunLabel:
    """What this sweep calls a trial, whoever trained it. reported: row's id -> published figure."""
    row = row_of(configuration)
    return RunLabel(trial.name, row, reported.get(row) if row is not None else None)
