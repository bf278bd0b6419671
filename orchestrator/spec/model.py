"""A sweep file as frozen pydantic models that mirror the YAML one to one; load.py reads files into them."""

import json
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, PrivateAttr, field_serializer, field_validator, model_validator

from orchestrator.spec.document import Document
from orchestrator.spec.schema import is_whole
from orchestrator.spec.sections import (
    NOT_METHODS,
    Addresses,
    KeepSpec,
    LimitsSpec,
    Method,
    Part,
    PrunerSpec,
    RetrySpec,
    ScheduleSpec,
    StopSpec,
)
from trainers.config import DataConfig, Fold, TrainConfig

Scalar = bool | int | float | str | None
RowId = int | str
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Miou = Annotated[float, Field(ge=0, le=1)]
Label = Annotated[str, Field(min_length=1, max_length=80)]


class Parameter(Part):
    """One dimension of the search: a list of choices, or a range of numbers.

    ``when`` maps paths to a value or a list of values. The parameter exists only where the configuration, as set by the
    parameters above it, holds one of these values at every such path.
    """

    path: str
    choices: tuple[Any, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None
    when: dict[str, Scalar | tuple[Scalar, ...]] | None = None

    @model_validator(mode="after")
    def _choices_or_range(self) -> Self:
        if self.choices is None:
            if self.low is None or self.high is None:
                raise ValueError("has neither choices nor a complete range. Allowed: a list of choices, or low and high")
            self._check_range(self.low, self.high)
            return self
        if (self.low, self.high, self.step, self.log) != (None, None, None, False):
            raise ValueError("has both choices and a range. Allowed: a list of choices, or low and high")
        if not self.choices:
            raise ValueError("has no choices. Allowed: a list of at least one")
        written = [json.dumps(choice, sort_keys=True) for choice in self.choices]
        for i, text in enumerate(written):
            if text in written[:i]:
                raise ValueError(f"has the choice {text} twice, at [{written.index(text)}] and [{i}]. Leave one out")
        return self

    def _check_range(self, low: float, high: float) -> None:
        if low >= high:
            raise ValueError(f"has low {low} and high {high}. Allowed: low below high")
        if self.is_integer and not all(float(v).is_integer() for v in (low, high, self.step or 1)):
            raise ValueError("is a whole number, so low, high and step must be whole numbers too")
        if self.log and low <= 0:
            raise ValueError(f"has low {low} with log. Allowed with log: low above 0")
        if self.step is None:
            return
        if self.log:
            raise ValueError("has both log and step. Allowed: one of them")
        if self.step <= 0:
            raise ValueError(f"has step {self.step}. Allowed: above 0")
        if abs(round((high - low) / self.step) * self.step - (high - low)) > 1e-9 * max(abs(high), abs(low)):
            raise ValueError(
                f"has a range from {low} to {high} that steps of {self.step} do not divide. Allowed: high = low + n x step"
            )

    @property
    def is_integer(self) -> bool:
        """Whether the range is of whole numbers: by the field's type, or in free options as written."""
        return is_whole(self.path, (self.low, self.high, self.step or 1))

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The choices, or the steps of a range; None for a range without steps."""
        if self.choices is not None:
            return self.choices
        if self.step is None or self.low is None or self.high is None:
            return None
        steps = (self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1))
        return tuple(round(v) if self.is_integer else float(f"{v:.12g}") for v in steps)


def _as_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """Convert lists to tuples, as strict validation requires for values that do not come directly from JSON."""

    def convert(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    when = entry.get("when")
    conditions = {"when": {path: convert(value) for path, value in when.items()}} if isinstance(when, dict) else {}
    return {key: convert(value) for key, value in entry.items()} | conditions


class SearchSpec(Part):
    """How configurations are found. In the file, ``space`` is an ordered mapping from dotted paths."""

    method: Method
    """grid, or what Optuna proposes with: random, tpe, or a sampler's class name."""
    seed: Seed = 0
    """The sampler's."""
    space: tuple[Parameter, ...] = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the sampler."""

    @field_validator("method", mode="before")
    @classmethod
    def _usable_method(cls, method: Any) -> Any:
        if isinstance(method, str) and method in NOT_METHODS:
            known = ", ".join(get_args(Method))
            raise ValueError(f"{method!r} is not allowed in a sweep file: {NOT_METHODS[method]}. Known: {known}")
        return method

    @field_validator("space", mode="before")
    @classmethod
    def _from_mapping(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            raise ValueError("needs a mapping from paths to lists or ranges, such as {loss.gamma: [1, 2]}")
        entries = {path: entry if isinstance(entry, dict) else {"choices": entry} for path, entry in space.items()}
        return tuple({"path": path, **_as_tuples(entry)} for path, entry in entries.items())

    @field_serializer("space")
    def _to_mapping(self, space: tuple[Parameter, ...]) -> dict[str, Any]:
        return {p.path: p.model_dump(exclude={"path"}, exclude_defaults=True) for p in space}


class Titled(Part):
    """What tables show of a row or of an ensemble of rows; ``label`` and ``reported`` do not change what is trained."""

    id: RowId
    label: Label | None = None
    """Its name in tables, after the id."""
    reported: Miou | None = None
    """The mIoU published for it elsewhere, shown beside ours."""

    @property
    def title(self) -> str:
        """``row 17``, or with a label ``17: Unet MBv2``."""
        return f"row {self.id}" if self.label is None else f"{self.id}: {self.label}"


class Row(Titled):
    """An explicit configuration: the fields that differ from ``base``, and ``data`` with those that differ there."""

    model_config = ConfigDict(extra="allow")
    seed: Seed | None = None
    """Default: every seed of the sweep."""
    data: dict[str, Any] = Field(default_factory=dict)

    @property
    def train(self) -> dict[str, Any]:
        """What the row changes in ``base``."""
        return dict(self.model_extra or {})


class BudgetSpec(Part):
    """What the sweep may cost. ``trials`` counts configurations x seeds x folds, including those found done."""

    trials: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    """Wall-clock time of one `orchestrate sweep`; trials that run at its end are finished."""
    gpu_hours: float | None = Field(default=None, gt=0)
    """GPU time of all attempts in all runs of the sweep; trials that run at its end are finished."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.trials is None and self.hours is None and self.gpu_hours is None:
            raise ValueError("is empty. Allowed: trials, hours, gpu_hours")
        return self


class ResourcesSpec(Part):
    """How many trials run in parallel on this machine; default: one per GPU, or one per core without GPUs.

    ``slots`` limits the total, ``trials_per_gpu`` the trials on each GPU; both may be given.
    """

    slots: int | None = Field(default=None, ge=1)
    """Total. With more slots than GPUs, several slots share a GPU."""
    trials_per_gpu: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] | None = None
    """Per GPU; auto: as many as its memory holds, by the peaks of earlier attempts. Without GPUs it has no effect."""
    threads_per_slot: int | None = Field(default=None, ge=1)


class FixedEnsemble(Titled):
    """An ensemble of rows: the unweighted mean of their probabilities."""

    members: tuple[RowId, ...] = Field(min_length=1)


NOT_YET = ("ensemble",)
"""Keys that a later version will read."""


class SweepSpec(Part):
    """A sweep file. Without ``search`` and ``rows``, it trains ``base`` alone."""

    name: str
    description: str | None = None
    data: DataConfig = DataConfig()
    base: TrainConfig = TrainConfig()
    search: SearchSpec | None = None
    rows: tuple[Row, ...] = ()
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    folds: int | None = Field(default=None, ge=2)
    budget: BudgetSpec | None = None
    stop: StopSpec | None = None
    pruner: PrunerSpec | None = None
    resources: ResourcesSpec = ResourcesSpec()
    retry: RetrySpec = RetrySpec()
    limits: LimitsSpec = LimitsSpec()
    schedule: ScheduleSpec | None = None
    priority: int = 0
    """Of sweeps that wait for the same slots or for each other, the one with the highest priority goes first."""
    keep: KeepSpec = KeepSpec()
    notify: Addresses = ()
    ensembles: tuple[FixedEnsemble, ...] = ()

    _document: Document | None = PrivateAttr(default=None)

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
            raise ValueError(
                f"{name!r} is not a usable name. Allowed: up to 80 letters, digits, '.', '_' and '-', not '.', '_' or '-' first"
            )
        return name

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{list(seeds)} holds a seed twice. Allowed: distinct whole numbers")
        return seeds

    @property
    def is_open_ended(self) -> bool:
        """Whether configurations are proposed as results come in, so that a plan cannot list them all."""
        return self.search is not None and self.search.method != "grid"

    @property
    def trials_per_configuration(self) -> int:
        """Seeds x folds; a row with its own seed has only folds."""
        return len(self.seeds) * (self.folds or 1)

    @property
    def each_fold(self) -> tuple[Fold | None, ...]:
        """The folds to train; a single None without folds."""
        return tuple(Fold(index=i, count=self.folds) for i in range(self.folds)) if self.folds else (None,)

    @property
    def document(self) -> Document:
        """The file that this was read from; without one, an empty document of the sweep's name."""
        return self._document or Document(self.name, {}, {})

    def remember(self, document: Document) -> None:
        """Keep the document that this was read from, for messages; it is neither compared nor written."""
        self._document = document
