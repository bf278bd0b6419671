"""``schedule`` in a sweep file: when `orchestrate schedule` runs it."""

from __future__ import annotations

import json
import zoneinfo
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from orchestrator.spec.cron import EXAMPLE, check_line
from orchestrator.spec.optuna_names import PrunerName
from orchestrator.spec.schema import nearest
from trainers.config import CHECKPOINT_INTERVAL_S, Flips


def _to_list(value: Any) -> Any:
    addresses = [value] if isinstance(value, str) else value
    if not isinstance(addresses, list | tuple) or not all(isinstance(a, str) and a.strip() for a in addresses):
        raise ValueError(
            "is neither an address nor a list of addresses. Allowed: URLs as Apprise takes them, such as mailto://..., or "
            "${NAME} for what the environment variable NAME holds"
        )
    return tuple(addresses)


Addresses = Annotated[tuple[str, ...], BeforeValidator(_to_list), Field(exclude=True, repr=False)]
"""One or several, as they were written; in no dump of the spec, because a dump is stored and shown."""


class Part(BaseModel):
    """A part of a sweep file; immutable, refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Rule = Literal["all", "none"] | int
"""Which checkpoints stay: every one, none, or those of the best N trials."""

WORDS = ("all", "none")


def _check_rule(value: Any) -> Any:
    if value in WORDS or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    found = "empty" if value is None else repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    hint = f" Did you mean {near!r}?" if isinstance(value, str) and (near := nearest(value, WORDS)) else ""
    raise ValueError(f"is {found}. Allowed: all, none, or a whole number from 1: those of the best N trials.{hint}")


class KeepSpec(Part):
    """What a sweep keeps when it has ended. Results, confusion matrices and predictions always stay, and so do the checkpoints of
    members of ensembles that were logged.

    The best are those of the highest val/miou; trials that were scored on other images or classes, such as those of another fold,
    are ranked apart. A trial that several sweeps share keeps its checkpoint while one of them wants it.

    flips: of each trial that the sweep trains a second set of predictions is stored, averaged over these mirror images, which
    ``best-ensemble`` may choose instead.
    """

    checkpoints: Annotated[Rule, BeforeValidator(_check_rule)] = "all"
    flips: Flips = "none"


Retries = Annotated[int, Field(ge=0, le=100)]


class RetrySpec(Part):
    """How many further attempts a trial gets after failures of each kind, each kind counted by itself.

    A bad configuration or bad data would fail again: there is no retry. A full disk is nobody's failure: the trial waits.
    """

    exception: Retries = 1
    signal: Retries = 1
    exit: Retries = 1
    hang: Retries = 1
    out_of_memory: Retries = 1
    device_lost: Retries = 1
    cuda_out_of_memory: Retries = 3
    """Each with half as many pictures at a time, as long as they are two."""
    diverged: Retries = 0

    def num_allowed(self, kind: str) -> int:
        """Further attempts after failures of this kind."""
        return int(self.model_dump().get(kind, 0))


class LimitsSpec(Part):
    """When an attempt counts as hung, how often it is made safe, and how much space is left alone."""

    silence_s: float = Field(default=900, ge=5)
    """Seconds without progress after which an attempt is killed; its signs come every 2 s at most. Longer than whatever it does
    at a stretch: to start and load the data, to take a step, to predict a batch of validation images, to write predictions."""
    checkpoint_s: float = Field(default=CHECKPOINT_INTERVAL_S, ge=0)
    """Seconds of training that a kill may cost beside the running epoch; 0: there is a checkpoint after every epoch."""
    takeover_s: float | None = Field(default=300, ge=0)
    """Seconds before and between uploads of a running trial's checkpoint to the tracking server, where machines share that and a
    database: what the loss of one may cost beside ``checkpoint_s`` and the time that an upload takes; null: there are none."""
    free_disk_gb: float = Field(default=2, ge=0)
    """Free space (of 10**9 bytes), beside what the trials under way may need, below which no trial is started."""


class StopSpec(Part):
    """When a sampled search ends early: after so many finished configurations without one that is better by ``min_delta``."""

    no_improvement: int = Field(ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class PrunerSpec(Part):
    """Which of Optuna's pruners ends configurations that look worse than others.

    It compares epochs of a configuration's first trial. Wilcoxon's compares finished trials (folds and seeds).
    """

    name: PrunerName
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the pruner."""


class ScheduleSpec(Part):
    """A line as in a crontab, and what goes with it. The line alone may stand for all of it."""

    cron: str
    """minute hour day month weekday"""
    timezone: str | None = None
    """By its name; default: this machine's."""
    misfire_grace_s: float = Field(default=3600, ge=1)
    """How late an occurrence may be found due, when nothing was there to run it, and still be run."""
    again: bool = False
    """Train everything anew at each occurrence, also where neither file nor data have changed."""

    @model_validator(mode="before")
    @classmethod
    def _from_line(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"cron": given}
        if not isinstance(given, dict):
            raise ValueError(f"is {given!r}. Allowed: {EXAMPLE}, or a mapping with {', '.join(cls.model_fields)}")
        if "priority" in given:
            raise ValueError(f"has a priority, which stands beside 'schedule' now: 'priority: {given['priority']}'")
        if "name" in given:
            raise ValueError("has a name, as the course of a learning rate has. Did you mean 'base.schedule'?")
        return given

    @field_validator("cron")
    @classmethod
    def _usable_line(cls, text: str) -> str:
        try:
            return check_line(text).text
        except ValueError as error:
            raise ValueError(f"{text!r} is not a line of a crontab: {error}. Allowed: {EXAMPLE}") from None

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is None or name in (known := zoneinfo.available_timezones()):
            return name
        if not known:
            raise ValueError(f"{name!r} is not to be found: this machine knows no time zones. Install the package tzdata")
        cities = {zone.rpartition("/")[2]: zone for zone in sorted(known)}
        near = cities.get(name) or nearest(name, known) or cities.get(nearest(name.rpartition("/")[2], cities) or "")
        hint = f" Did you mean {near!r}?" if near else ""
        raise ValueError(f"{name!r} is not a known time zone. Allowed: names such as Europe/Rome or UTC.{hint}")
