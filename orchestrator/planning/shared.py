"""The plan of a sweep in the ledger, for workers that join it and for `orchestrate status`."""

import socket
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from orchestrator.errors import SpecError
from orchestrator.planning.plan import Plan
from orchestrator.spec.model import SweepSpec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
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


class SharedData(_Part):
    """A data set of the sweep. source: as configuration.source_part, with paths of the machine that planned."""

    source: str
    fingerprint: str
    removed: tuple[int, ...] = ()


class SharedPlan(_Part):
    """A sweep file with its overrides, and its plan on the machine that planned it.

    trials: in an open-ended search those known at its begin. left_out: trials of earlier versions of the file. num_allowed:
    maximum number of trials of an open-ended search. code: import path -> hash. again: as in Facts.
    Addresses to notify are left out, because they may hold secrets.
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
        """Earlier versions wrote ``keep.predictions``, and ``pruner.over``, null or ``trials`` for the pruners that are left."""
        if not isinstance(raw, dict) or not isinstance(spec := raw.get("spec"), dict):
            return raw
        spec = spec | {"keep": _without(spec.get("keep", {}), "predictions")}
        if isinstance(pruner := spec.get("pruner"), dict) and pruner.get("over") in (None, "trials"):
            spec["pruner"] = _without(pruner, "over")
        return raw | {"spec": spec}

    @property
    def labels(self) -> dict[str, RunLabel]:
        """Key -> label of the trial's run."""
        return {trial.key: RunLabel(trial.name, trial.row, trial.reported) for trial in self.trials}


def _without(raw: Any, name: str) -> Any:
    return {known: value for known, value in raw.items() if known != name} if isinstance(raw, dict) else raw


def share_plan(spec: SweepSpec, plan: Plan, *, home: Home, ledger: Ledger) -> None:
    """Store a plan in the ledger, in place of the sweep's last one."""
    labels = plan.labels
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
    """Read a sweep's plan from the ledger; None if a version that stored none ran it.

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
