"""The records of the trial folder as pydantic models, and the trial's key; folder.py lists the files."""

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.state.trial.failures import FailureKind
from trainers.config import CHECKPOINT_INTERVAL_S, TRAINER_VERSION, DataConfig, Flips, Fold, TrainConfig
from trainers.config import OBJECTIVE as OBJECTIVE

SCHEMA_VERSION: Literal[1] = 1
"""Of every file in a trial folder."""

FLIPS = "flips"
"""Name of the fact that says which flips a second set of predictions has; also of its folder and of the run's tag."""

FLIPS_MIOU = f"{OBJECTIVE}_flips"
"""Metric of that set."""


class TrialState(StrEnum):
    """State of a trial. CACHED: COMPLETE since an earlier sweep."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CACHED = "CACHED"

    @property
    def has_ended(self) -> bool:
        """Whether its last attempt ended with a result."""
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


class Record(BaseModel):
    """A JSON file of the trial folder."""

    # a metric may be NaN (no true and no predicted pixel): as null the line could not be read back
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="constants")
    schema_version: Literal[1] = SCHEMA_VERSION


Retired = Annotated[None, BeforeValidator(lambda _: None), Field(exclude=True, repr=False)]
"""Type of a field that only earlier versions wrote: its value is ignored."""


class TrialSpec(Record):
    """One training: configuration + seed + fold, on data identified by its fingerprint."""

    key: str
    configuration: str
    """Short hash of the configuration, shared by its seeds and folds."""
    name: str
    """For people: what distinguishes this trial from others in the sweep."""
    train: TrainConfig
    data: DataConfig
    seed: int
    fold: Fold | None = None
    source_fingerprint: str
    code: dict[str, str] = {}
    """Import path -> hash of the source file, of custom losses, architectures and transforms."""


class Attempt(Record):
    """One try at a trial, on one machine."""

    number: int
    data_folder: str
    """The prepared data set on this machine, as trainers.data.open_dataset reads it."""
    accumulate: int = 1
    """Parts of each batch, to fit the device's memory; their gradients add up to the batch's."""
    deviation: str | None = None
    """How and why the training differs from the spec."""
    silence_s: float | None = None
    """Without a heartbeat for this long the dispatcher kills the attempt, by its own limit; the worker logs its stacks before."""
    checkpoint_s: float = CHECKPOINT_INTERVAL_S
    """At least, between two checkpoints."""
    keep_flips: Flips = "none"
    """Test-time flips of a second set of predictions."""
    origin: str | None = None
    """What it resumes from, if the trial ran on another machine."""
    keep_u16: Retired = None


class TrialResult(Record):
    """How a trial ended."""

    key: str
    state: Literal[TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED]
    metrics: dict[str, float] = {}
    """Of the best epoch, by the names in trainers.training.evaluate.score and trainers.training.train."""
    best_epoch: int | None = None
    epochs_run: int = 0
    scored_fingerprint: str | None = None
    attempt: int
    started_s: float
    """Unix time at which the first attempt started."""
    ended_s: float
    facts: dict[str, Any] = {}
    """num_parameters, latency_ms, images_per_s, attempts_s, epoch_s, val_s, input_size, device, num_threads, versions, ..."""
    reason: str | None = None
    """Why it failed or was pruned, in one line."""
    failure: FailureKind | None = None
    """Of a FAILED trial."""
    deviation: str | None = None
    """As in the last Attempt."""
    log_tail: str | None = None


class Event(Record):
    """One line of progress.jsonl. ``time_s`` is Unix time; metrics belong to ``epoch`` (counted from 1)."""

    kind: Literal["attempt_started", "epoch", "attempt_ended"]
    time_s: float
    attempt: int
    epoch: int | None = None
    metrics: dict[str, float] = {}
    facts: dict[str, Any] = {}
    state: TrialState | None = None
    """Of attempt_ended; WAITING: stopped, can be resumed."""
    reason: str | None = None
    failure: FailureKind | None = None
    """Of attempt_ended."""


def read_number(facts: Mapping[str, Any], name: str) -> float:
    """A fact as a number; 0 if it is missing or not a number."""
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def make_key(
    train: TrainConfig,
    data: DataConfig,
    *,
    seed: int | None,
    fold: Fold | None,
    source_fingerprint: str,
    code: dict[str, str],
    removed: tuple[int, ...] = (),
    again: str | None = None,
) -> str:
    """Hash what is trained: fields that differ from their defaults, data, seed, fold, code; no path, no machine.

    Left out: what the fingerprint covers (source, split lists), and names of classes. Of cleaning, only what it removed counts
    (positions in the source). ``again`` distinguishes repetitions of one training. Without ``seed`` and ``fold`` this is the
    configuration's hash. Returns 16 hexadecimal digits.
    """
    identity = {
        "train": train.model_dump(mode="json", exclude_defaults=True),
        "data": data.model_dump(
            mode="json", exclude_defaults=True, exclude={"source", "synthetic", "split_lists", "class_names", "clean"}
        ),
        "fingerprint": source_fingerprint,
        "seed": seed,
        "fold": fold.model_dump() if fold else None,
        "code": code,
        "trainer": TRAINER_VERSION,
    }
    if removed:
        identity["removed"] = hashlib.sha256(json.dumps(sorted(removed)).encode()).hexdigest()[:16]
    if again:
        identity["again"] = again
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
