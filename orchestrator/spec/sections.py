"""Sections of a sweep file that the code running a sweep takes by themselves; model.py puts the whole file together."""

import zoneinfo
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from orchestrator.spec.cron import EXAMPLE, check_line
from orchestrator.spec.document import show
from trainers.config import CHECKPOINT_INTERVAL_S, Flips, find_nearest, suggest

# Names of Optuna's samplers and pruners, to read a file without importing Optuna; search.options asks Optuna itself.
Method = Literal[
    "grid", "random", "tpe",
    "BruteForceSampler", "CmaEsSampler", "GPSampler", "NSGAIISampler", "NSGAIIISampler", "QMCSampler", "RandomSampler",
    "TPESampler",
]  # fmt: skip

NOT_METHODS: Mapping[str, str] = {
    "GridSampler": "write 'grid', which repeats no point and resumes after a kill",
    "PartialFixedSampler": "put fixed values into 'base' instead of 'space'",
    "BaseSampler": "it is abstract",
    "BaseGASampler": "it is abstract",
}
"""Optuna's other samplers -> what to do instead."""

PrunerName = Literal[
    "median", "asha", "hyperband", "wilcoxon",
    "HyperbandPruner", "MedianPruner", "NopPruner", "PatientPruner", "PercentilePruner", "SuccessiveHalvingPruner",
    "ThresholdPruner", "WilcoxonPruner",
]  # fmt: skip

_ALIASES: Mapping[str, str] = {
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "median": "MedianPruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
}


def class_name(name: str) -> str:
    """Return Optuna's class name of a sampler or pruner."""
    return _ALIASES.get(name, name)


def compares_trials(pruner: str) -> bool:
    """Whether the pruner compares finished trials of configurations; all others compare epochs."""
    return class_name(pruner) == "WilcoxonPruner"


class Part(BaseModel):
    """A part of a sweep file; immutable, refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class StopSpec(Part):
    """Ends a sampled search after this many finished configurations without one that is better by ``min_delta``."""

    no_improvement: int = Field(ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class PrunerSpec(Part):
    """Which of Optuna's pruners ends configurations that look worse than others.

    It compares epochs of a configuration's first trial. Wilcoxon's compares finished trials (folds and seeds).
    """

    name: PrunerName
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the pruner."""


Retries = Annotated[int, Field(ge=0, le=100)]


class RetrySpec(Part):
    """How often a trial is retried after failures of each kind; every kind is counted separately.

    A bad configuration and bad data fail again, so they are never retried. A full disk is no failure: the trial waits.
    """

    exception: Retries = 1
    signal: Retries = 1
    exit: Retries = 1
    hang: Retries = 1
    out_of_memory: Retries = 1
    device_lost: Retries = 1
    cuda_out_of_memory: Retries = 3
    """Each retry computes half as many images of the batch at a time, but at least two."""
    diverged: Retries = 0

    def num_allowed(self, kind: str) -> int:
        """Return how many retries follow failures of this kind."""
        return int(self.model_dump().get(kind, 0))


class LimitsSpec(Part):
    """When an attempt counts as hung, how often its work is saved, and how much disk space stays free."""

    silence_s: float = Field(default=900, ge=5)
    """Seconds without a sign of progress after which an attempt is killed. Signs come at most every 2 s. It must exceed the
    longest single step: starting and loading data, a training step, predicting a validation batch, writing predictions."""
    checkpoint_s: float = Field(default=CHECKPOINT_INTERVAL_S, ge=0)
    """Seconds of training that a kill may cost, plus the running epoch; 0: every epoch ends with a checkpoint."""
    takeover_s: float | None = Field(default=300, ge=0)
    """Seconds between uploads of a running trial's checkpoint to a shared tracking server, and before the first. If a machine is
    lost, another resumes from the last upload. null: no uploads."""
    free_disk_gb: float = Field(default=2, ge=0)
    """No trial starts with less free disk space (in 10**9 bytes) than this plus what running trials may need."""


Rule = Literal["all", "none"] | int
"""Which checkpoints stay: all, none, or those of the best N trials."""

RULE_WORDS = ("all", "none")


def _check_rule(value: Any) -> Any:
    if value in RULE_WORDS or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    hint = suggest(value, RULE_WORDS) if isinstance(value, str) else ""
    raise ValueError(f"is {show(value)}. Allowed: all, none, or a whole number from 1: those of the best N trials.{hint}")


class KeepSpec(Part):
    """What a sweep keeps after its end. Results, confusion matrices, predictions and checkpoints of logged ensembles always stay.

    The best trials have the highest val/miou. Trials that were scored on other images or classes, such as those of another fold,
    are ranked separately. A trial that several sweeps share keeps its checkpoint as long as one of them keeps it.

    flips: every trial also stores predictions averaged over these mirror images, which ``best-ensemble`` may choose.
    """

    checkpoints: Annotated[Rule, BeforeValidator(_check_rule)] = "all"
    flips: Flips = "none"


def _to_list(value: Any) -> Any:
    addresses = [value] if isinstance(value, str) else value
    if not isinstance(addresses, list | tuple) or not all(isinstance(a, str) and a.strip() for a in addresses):
        raise ValueError(
            "is neither an address nor a list of addresses. Allowed: Apprise's URLs, such as mailto://..., or ${NAME} for "
            "the value of the environment variable NAME"
        )
    return tuple(addresses)


Addresses = Annotated[tuple[str, ...], BeforeValidator(_to_list), Field(exclude=True, repr=False)]
"""One address or several, as written. A dump of the spec leaves them out, because dumps are stored and shown."""


class ScheduleSpec(Part):
    """When `orchestrate schedule` runs the sweep; a crontab line alone may stand for all of it."""

    cron: str
    """minute hour day month weekday"""
    timezone: str | None = None
    """Name of a time zone; default: this machine's."""
    misfire_grace_s: float = Field(default=3600, ge=1)
    """How late a missed run may still start."""
    again: bool = False
    """Retrain everything at each run, even if neither file nor data have changed."""

    @model_validator(mode="before")
    @classmethod
    def _from_line(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"cron": given}
        if not isinstance(given, dict):
            raise ValueError(f"is {given!r}. Allowed: {EXAMPLE}, or a mapping with {', '.join(cls.model_fields)}")
        if "priority" in given:
            raise ValueError(f"has a priority, which is a top-level key now, next to 'schedule': 'priority: {given['priority']}'")
        if "name" in given:
            raise ValueError("has a name, like a learning-rate schedule. Did you mean 'base.schedule'?")
        return given

    @field_validator("cron")
    @classmethod
    def _usable_line(cls, text: str) -> str:
        try:
            return check_line(text).text
        except ValueError as error:
            raise ValueError(f"{text!r} is not a crontab line: {error}. Allowed: {EXAMPLE}") from None

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        if name is None or name in (known := zoneinfo.available_timezones()):
            return name
        if not known:
            raise ValueError(f"{name!r} is not found: this machine has no time zones. Install the package tzdata")
        cities = {zone.rpartition("/")[2]: zone for zone in sorted(known)}
        near = cities.get(name) or find_nearest(name, known) or cities.get(find_nearest(name.rpartition("/")[2], cities) or "")
        hint = f" Did you mean {near!r}?" if near else ""
        raise ValueError(f"{name!r} is not a known time zone. Allowed: names such as Europe/Rome or UTC.{hint}")
