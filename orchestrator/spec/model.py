"""What a sweep file may say, as frozen pydantic models that mirror the YAML one to one; load.py reads files into them."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_serializer, field_validator, model_validator

from orchestrator.spec.document import Document, Place
from orchestrator.spec.optuna_names import NOT_METHODS, Method
from orchestrator.spec.schema import is_whole
from orchestrator.spec.sections import Addresses, KeepSpec, LimitsSpec, Part, PrunerSpec, RetrySpec, ScheduleSpec, StopSpec
from trainers.config import DataConfig, Fold, TrainConfig

Scalar = bool | int | float | str | None
RowId = int | str
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Figure = Annotated[float, Field(ge=0, le=1)]
Label = Annotated[str, Field(min_length=1, max_length=80)]


class Parameter(Part):
    """One dimension of the search: a list of choices, or a range of numbers.

    ``when`` maps paths to a value or a list of values; the parameter exists only where the configuration, as the parameters
    above left it, holds one of them at each of these paths.
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
        if self.choices is not None:
            if (self.low, self.high, self.step, self.log) != (None, None, None, False):
                raise ValueError("has both choices and a range. Allowed: a list of choices, or low and high")
            self._check_choices(self.choices)
        elif self.low is None or self.high is None:
            raise ValueError("has neither choices nor a whole range. Allowed: a list of choices, or low and high")
        else:
            self._check_range(self.low, self.high)
        return self

    def _check_choices(self, choices: tuple[Any, ...]) -> None:
        if not choices:
            raise ValueError("has no choices. Allowed: a list of at least one")
        written = [json.dumps(choice, sort_keys=True) for choice in choices]
        for i, text in enumerate(written):
            if text in written[:i]:
                raise ValueError(f"has the choice {text} twice, at [{written.index(text)}] and [{i}]. Leave one out")

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
        if abs(self.num_steps * self.step - (high - low)) > 1e-9 * max(abs(high), abs(low)):
            raise ValueError(
                f"has a range from {low} to {high} that steps of {self.step} do not fill. Allowed: high = low + n x step"
            )

    @property
    def is_integer(self) -> bool:
        """Whether the range is one of whole numbers: where the field is one, or in free options where it is written so."""
        return is_whole(self.path, (self.low, self.high, self.step or 1))

    @property
    def num_steps(self) -> int:
        assert self.low is not None
        assert self.high is not None
        assert self.step is not None
        return round((self.high - self.low) / self.step)

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values where they can be counted: the choices, or the steps of a range; None for a range without steps."""
        if self.choices is not None:
            return self.choices
        if self.step is None or self.low is None:
            return None
        steps = (self.low + i * self.step for i in range(self.num_steps + 1))
        return tuple(round(v) if self.is_integer else float(f"{v:.12g}") for v in steps)


def _as_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """A strict validation takes lists for tuples only when it reads them from JSON itself."""

    def convert(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    when = entry.get("when")
    conditions = {"when": {path: convert(value) for path, value in when.items()}} if isinstance(when, dict) else {}
    return {key: convert(value) for key, value in entry.items()} | conditions


class SearchSpec(Part):
    """How configurations are found. ``space`` is a mapping from dotted paths, in its order."""

    method: Method
    """grid; or what lets Optuna propose: random, tpe, or one of its samplers by its own name."""
    seed: Seed = 0
    """Of the sampler."""
    space: tuple[Parameter, ...] = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
    """Handed to the sampler."""

    @field_validator("method", mode="before")
    @classmethod
    def _usable_method(cls, method: Any) -> Any:
        if isinstance(method, str) and method in NOT_METHODS:
            known = ", ".join(get_args(Method))
            raise ValueError(f"{method!r} is not for a sweep file: {NOT_METHODS[method]}. Known: {known}")
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


class Row(BaseModel):
    """An explicit configuration: an id, and whatever differs from ``base`` (its fields directly) and from ``data``.

    ``label`` and ``reported`` are for tables only: they are no part of what is trained.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    id: RowId
    label: Label | None = None
    """What to call it, after its id."""
    reported: Figure | None = None
    """The mIoU published for it elsewhere, to stand beside ours."""
    seed: Seed | None = None
    """Default: every seed of the sweep."""
    data: dict[str, Any] = {}

    @property
    def train(self) -> dict[str, Any]:
        """What the row changes in ``base``."""
        return dict(self.model_extra or {})

    @property
    def title(self) -> str:
        """For people: ``row 17``, or ``17: Unet MBv2`` where it has a label."""
        return write_title(self.id, self.label)


class BudgetSpec(Part):
    """What the sweep may cost. ``trials`` counts trainings: configurations x seeds x folds, those found done included."""

    trials: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    """Wall-clock time of one run of ``orchestrate sweep``; trials that run when it is over are finished."""
    gpu_hours: float | None = Field(default=None, gt=0)
    """What all attempts of the sweep may take of GPUs, over all its runs; those that run when it is spent are finished."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.trials is None and self.hours is None and self.gpu_hours is None:
            raise ValueError("says nothing. Allowed: trials, hours, gpu_hours")
        return self


class ResourcesSpec(Part):
    """How many attempts run at a time on this machine. Default: what the machine has, one a GPU or a core.

    Where both are given, both hold: no more than ``slots`` in all, no more than ``trials_per_gpu`` on each.
    """

    slots: int | None = Field(default=None, ge=1)
    """At a time, in all. On GPUs they are dealt out in turn, so that several share one where there are more slots than GPUs."""
    trials_per_gpu: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] | None = None
    """On each GPU; auto: as many as its memory holds, by peaks measured in attempts before. On the CPU it means nothing."""
    threads_per_slot: int | None = Field(default=None, ge=1)


class FixedEnsemble(Part):
    """An ensemble of the rows named by ``members``: the mean of their probabilities, all alike. ``reported`` as in Row."""

    id: RowId
    label: Label | None = None
    reported: Figure | None = None
    members: tuple[RowId, ...] = Field(min_length=1)

    @property
    def title(self) -> str:
        """For people: ``row 5``, or ``5: 3+4`` where it has a label."""
        return write_title(self.id, self.label)


def write_title(id: RowId, label: str | None) -> str:
    """What a row of a table is called."""
    return f"row {id}" if label is None else f"{id}: {label}"


NOT_YET = ("ensemble",)
"""Keys that later versions read."""


class SweepSpec(Part):
    """A sweep file. Without ``search`` and ``rows`` it trains ``base`` alone."""

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
    """Of sweeps that wait for the same slots, or for each other, the highest goes first."""
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
        """Whether configurations are proposed as results come in, so that the plan cannot list them."""
        return self.search is not None and self.search.method != "grid"

    @property
    def trials_per_configuration(self) -> int:
        """Seeds x folds; a row with a seed of its own has folds only."""
        return len(self.seeds) * (self.folds or 1)

    @property
    def each_fold(self) -> tuple[Fold | None, ...]:
        """The folds to train, or None once where the data are split just once."""
        return tuple(Fold(index=i, count=self.folds) for i in range(self.folds)) if self.folds else (None,)

    @property
    def document(self) -> Document:
        """The file that this was read from; without one, an empty document of the sweep's name."""
        return self._document or Document(self.name, {}, {})

    def where(self, place: Place) -> str:
        """Return ``FILE:LINE`` of a place in the file that this was read from; without one, the sweep's name."""
        return self.document.where(place)

    def remember(self, document: Document) -> Self:
        """Keep the document that this was read from, for messages; it is no part of what is compared or written."""
        self._document = document
        return self
