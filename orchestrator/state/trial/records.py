"""The trial folder: everything an attempt needs and everything it leaves; the truth while a trial lives.

mlruns/trials/<key>/
  trial.json           TrialSpec: what is trained; never changes
  attempt.json         Attempt: which try this is, on which terms, and where its data lies on this machine
  progress.jsonl       one event a line: attempt_started, epoch, attempt_ended
  log.txt              what the attempts printed
  heartbeat            touched by the process that works in the folder, as a sign of life
  last.pt              checkpoint to go on from         (written by trainers.training.train)
  checkpoint.json      how far that is                  (checkpoint.py)
  mirrored             the tracking server may have another, to go on from elsewhere
  best.safetensors     weights of the best epoch        (written by trainers.training.train)
  confusions.npz       confusion matrix of each validation image
  predictions.*        probabilities of the validation images   (written by ensemble.store)
  flips/               the same with test-time flips that the sweep's `keep` asked for: predictions.*, confusions.npz
  samples.png          image, truth, prediction
  result.json          TrialResult: written last, atomically; its presence means that the trial has ended
  mirror.json          what the tracker has sent already
  removed.json         why best.safetensors is gone     (removals.py)
  mirror.lock          held by whoever sends it
  lock                 held by the process that works in the folder
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import TrialError
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import find_end
from trainers.config import CHECKPOINT_INTERVAL_S, TRAINER_VERSION, DataConfig, Flips, Fold, TrainConfig

SCHEMA_VERSION: Literal[1] = 1
"""Of every file written into a trial folder."""

FLIPS = "flips"
"""Fact of a result: which flips its second set of predictions has, if there is one. The set's folder and the run's tag, too."""

FLIPS_MIOU = "val/miou_flips"
"""Metric: what that set scores."""

FLIPS_FILES = tuple(
    f"{FLIPS}/{name}"
    for name in ("predictions.json", "predictions.zst", "predictions.labels.zst", "predictions.u16.zst", "confusions.npz")
)


class TrialState(StrEnum):
    """Where a trial stands. CACHED is COMPLETE, found done by a later sweep."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CACHED = "CACHED"


class Record(BaseModel):
    """A file of the trial folder."""

    # a metric may be NaN (no true and no predicted pixel): as null the line could not be read back
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="constants")
    schema_version: Literal[1] = SCHEMA_VERSION


R = TypeVar("R", bound=Record)


class TrialSpec(Record):
    """One training: configuration + seed + fold, on data known by its fingerprint."""

    key: str
    configuration: str
    """Short hash of the configuration, shared by its seeds and folds."""
    name: str
    """For people: what tells this trial from its neighbours in the sweep."""
    train: TrainConfig
    data: DataConfig
    seed: int
    fold: Fold | None = None
    source_fingerprint: str
    code: dict[str, str] = {}
    """Import path -> hash of the source file, for what is the user's own."""


class Attempt(Record):
    """One try at a trial, on one machine."""

    number: int
    data_folder: str
    """The prepared data set on this machine, as trainers.data.open_dataset reads it."""
    accumulate: int = 1
    """Parts into which each batch is cut for the device's memory; their gradients add up to the batch's."""
    deviation: str | None = None
    """In which way, and why, the trial is not trained exactly as its spec says."""
    silence_s: float | None = None
    """Without a sign of life for so long, it is killed."""
    checkpoint_s: float = CHECKPOINT_INTERVAL_S
    """Between two checkpoints, at least."""
    keep_u16: bool = False
    """Whether predictions are stored in 16 bits too."""
    keep_flips: Flips = "none"
    """Mirror images that a second set of predictions is averaged over."""
    origin: str | None = None
    """Of a trial that was tried on another machine: what it goes on from."""


class TrialResult(Record):
    """How a trial ended."""

    key: str
    state: Literal[TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED]
    metrics: dict[str, float] = {}
    """val/miou, val/iou/<class name>, train/loss, ... of the best epoch."""
    best_epoch: int | None = None
    epochs_run: int = 0
    scored_fingerprint: str | None = None
    attempt: int
    started_s: float
    """Unix time at which the first attempt started."""
    ended_s: float
    facts: dict[str, Any] = {}
    """num_parameters, latency_ms, images_per_s, flips, attempts_s, epoch_s, val_s, input_size, device, precision, num_threads,
    versions of libraries."""
    reason: str | None = None
    """Why it failed or was pruned, in one line."""
    failure: FailureKind | None = None
    """FAILED: what kind of failure it was."""
    deviation: str | None = None
    """As in its last Attempt."""
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
    """attempt_ended: WAITING where it was stopped and can go on."""
    reason: str | None = None
    failure: FailureKind | None = None
    """attempt_ended: what kind of failure it was."""


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

    What the fingerprint covers already (source, split lists) and names of classes are left out; instead of how cleaning was asked
    for, what it removed counts (positions in the source). ``again`` tells repetitions of one training apart.
    With ``seed`` None and ``fold`` None this is the configuration's hash. Returns 16 hexadecimal digits.
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


@dataclass(frozen=True)
class TrialFolder:
    """Reads and writes one trial's folder; whole files appear atomically."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def confusions(self) -> Path:
        return self.path / "confusions.npz"

    @property
    def flips(self) -> Path:
        return self.path / FLIPS

    @property
    def samples(self) -> Path:
        return self.path / "samples.png"

    @property
    def checkpoint(self) -> Path:
        return self.path / "last.pt"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    def create(self, spec: TrialSpec) -> None:
        """Make the folder, or check that the existing one is of the same trial."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "trial.json").exists():
            write_atomically(self.path / "trial.json", spec.model_dump_json(indent=1))
        elif (found := self.spec().key) != spec.key:
            raise TrialError(f"{self.path}: holds trial {found}, expected {spec.key}. Move the folder away.")

    def spec(self) -> TrialSpec:
        return self._read(TrialSpec, "trial.json")

    def write_attempt(self, attempt: Attempt) -> None:
        write_atomically(self.path / "attempt.json", attempt.model_dump_json(indent=1))

    def attempt(self) -> Attempt:
        return self._read(Attempt, "attempt.json")

    def find_attempt(self) -> Attempt | None:
        """The last attempt on this machine; None where there was none that this version knows of."""
        try:
            return self.attempt()
        except TrialError:
            return None

    def last_attempt(self) -> int:
        """Its number; 0 where there was none."""
        found = self.find_attempt()
        return 0 if found is None else found.number

    def restore_attempt(self, before: Attempt | None) -> None:
        """Let ``before`` be the last attempt again, because the one laid out since was never begun."""
        if before is None:
            (self.path / "attempt.json").unlink(missing_ok=True)
        elif self.find_attempt() != before:
            self.write_attempt(before)

    def write_result(self, result: TrialResult) -> None:
        write_atomically(self.path / "result.json", result.model_dump_json(indent=1))

    def result(self) -> TrialResult | None:
        """None while the trial has not ended."""
        return self._read(TrialResult, "result.json") if (self.path / "result.json").exists() else None

    def discard_result(self) -> None:
        """Forget how the trial ended, so that it can be tried again."""
        (self.path / "result.json").unlink(missing_ok=True)

    def append(self, event: Event) -> None:
        """Add an event."""
        append_line(self.path / "progress.jsonl", event.model_dump_json(exclude_defaults=True))

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """Events from byte ``offset`` on, and the offset to go on from. Torn lines are passed over."""
        try:
            with open(self.path / "progress.jsonl", "rb") as file:
                file.seek(offset)
                text = file.read()
        except FileNotFoundError:
            return [], offset
        whole = text[: text.rfind(b"\n") + 1]
        events = []
        for line in whole.splitlines():
            try:
                events.append(Event.model_validate_json(line))
            except ValidationError:
                continue  # the last write of a process that was killed
        return events, offset + len(whole)

    def log_tail(self, num_lines: int = 30) -> str:
        """The end of the log, for messages; as find_end."""
        try:
            text = self.log.read_bytes()[-50_000:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(find_end(text.splitlines(), num_lines))

    def _read(self, model: type[R], name: str) -> R:
        path = self.path / name
        try:
            return model.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise TrialError(f"{path}: not found. The folder is not a trial's, or was emptied.") from None
        except ValidationError as error:
            hint = f"Move {self.path} away to have the trial trained anew."
            raise TrialError(f"{path}: cannot be read by this version: {error}. {hint}") from error


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` as a whole, so that no reader and no kill ever sees half of it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with open(scratch, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def append_line(path: Path, text: str) -> None:
    """Add a line; one write, so that a kill leaves at most one torn last line.

    A torn line of a killed predecessor is closed first, so that it cannot swallow this one.
    """
    with open(path, "ab+") as file:
        torn = False
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + text.encode() + b"\n")
