"""A trial's folder, ``mlruns/trials/<key>/``: the list of its files, reading and writing them, and the end of its log."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from pathlib import Path
from typing import Self, TypeVar

from pydantic import ValidationError

from orchestrator.errors import TrialError
from orchestrator.state.files import append_line, is_locked, write_atomically
from orchestrator.state.trial.records import FLIPS, Attempt, Event, Record, TrialResult, TrialSpec, TrialState

R = TypeVar("R", bound=Record)


class Use(Flag):
    """What happens to a file of the trial folder, beside being written and read there."""

    NONE = 0
    ARTIFACT = auto()
    """The mirror sends it to MLflow."""
    ADOPTED = auto()
    """Fetched, to adopt a trial that another machine has finished."""
    KEPT = auto()
    """Stays when such a trial is adopted: it is no result of this machine's attempts."""


class TrialFile(StrEnum):
    """Every file of a trial's folder: its name, who writes it, and what happens to it; the result is last of what is sent.

    Beside them stand ``.<name>.<number>`` and ``tmp*`` while something is written, or after a kill.
    """

    writer: str
    use: Use

    def __new__(cls, name: str, writer: str, use: Use = Use.NONE) -> Self:
        file = str.__new__(cls, name)
        file._value_, file.writer, file.use = name, writer, use
        return file

    SPEC = "trial.json", "dispatcher", Use.ARTIFACT | Use.KEPT  # TrialSpec: what is trained; never changes
    ATTEMPT = "attempt.json", "dispatcher", Use.KEPT  # Attempt: its number, its terms, and where the data lies on this machine
    WEIGHTS = "best.safetensors", "worker", Use.ARTIFACT  # of the best epoch
    PREDICTIONS_INFO = "predictions.json", "worker", Use.ARTIFACT  # PredictionsInfo: of the next two
    PREDICTIONS = "predictions.zst", "worker", Use.ARTIFACT  # probabilities of the validation images
    LABELS = "predictions.labels.zst", "worker", Use.ARTIFACT  # what they are scored against
    CONFUSIONS = "confusions.npz", "worker", Use.ARTIFACT | Use.ADOPTED  # confusion matrix of each validation image
    # the same four with test-time flips, which the sweep's `keep` asks for
    FLIPS_PREDICTIONS_INFO = f"{FLIPS}/predictions.json", "worker", Use.ARTIFACT
    FLIPS_PREDICTIONS = f"{FLIPS}/predictions.zst", "worker", Use.ARTIFACT
    FLIPS_LABELS = f"{FLIPS}/predictions.labels.zst", "worker", Use.ARTIFACT
    FLIPS_CONFUSIONS = f"{FLIPS}/confusions.npz", "worker", Use.ARTIFACT
    SAMPLES = "samples.png", "worker", Use.ARTIFACT  # some validation images with truth and prediction
    LOG = "log.txt", "worker", Use.ARTIFACT | Use.KEPT  # what the attempts printed
    PROGRESS = "progress.jsonl", "worker, dispatcher", Use.ARTIFACT | Use.ADOPTED  # one Event per line
    RESULT = "result.json", "worker, dispatcher", Use.ARTIFACT | Use.ADOPTED  # TrialResult: written last, the trial has ended
    CHECKPOINT = "last.pt", "worker"  # to resume from
    CHECKPOINT_INFO = "checkpoint.json", "worker"  # CheckpointInfo: the epoch of last.pt
    MIRRORED = "mirrored", "dispatcher"  # empty: MLflow may hold a checkpoint, which is deleted when the trial has ended
    SENT = "mirror.json", "mirror"  # Sent: what MLflow has already
    REMOVED = "removed.json", "clean"  # Removal: why best.safetensors is gone
    HEARTBEAT = "heartbeat", "worker", Use.KEPT  # touched as a sign of life
    STOP = "stop", "launcher", Use.KEPT  # empty: asks a worker of a Ray cluster to stop
    LOCK = "lock", "worker", Use.KEPT  # held by the process that works in the folder
    MIRROR_LOCK = "mirror.lock", "mirror", Use.KEPT  # held by the process that sends the folder to MLflow


ARTIFACTS = tuple(file for file in TrialFile if Use.ARTIFACT in file.use)
"""What the mirror sends to MLflow, in this order."""

ADOPTED = tuple(file for file in TrialFile if Use.ADOPTED in file.use)
"""What is fetched of a trial that another machine has finished, in this order: the result comes last."""

OF_ATTEMPTS = tuple(file for file in TrialFile if Use.KEPT not in file.use)
"""What this machine's attempts leave: deleted where another machine's result is adopted instead."""


@dataclass(frozen=True)
class TrialFolder:
    """Reads and writes one trial's folder; whole files appear atomically."""

    path: Path

    @property
    def has_trial(self) -> bool:
        """Whether the folder holds a trial."""
        return (self.path / TrialFile.SPEC).exists()

    @property
    def has_result(self) -> bool:
        """Whether the trial has ended."""
        return (self.path / TrialFile.RESULT).exists()

    def create(self, spec: TrialSpec) -> None:
        """Make the folder, or check that the existing one belongs to the same trial.

        Raises:
            TrialError: it belongs to another.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.has_trial:
            write_atomically(self.path / TrialFile.SPEC, spec.model_dump_json(indent=1))
        elif (found := self.spec().key) != spec.key:
            raise TrialError(f"{self.path}: holds trial {found}, expected {spec.key}. Move the folder away.")

    def spec(self) -> TrialSpec:
        return self._read(TrialSpec, TrialFile.SPEC)

    def write_attempt(self, attempt: Attempt) -> None:
        write_atomically(self.path / TrialFile.ATTEMPT, attempt.model_dump_json(indent=1))

    def attempt(self) -> Attempt:
        return self._read(Attempt, TrialFile.ATTEMPT)

    def find_attempt(self) -> Attempt | None:
        """The last attempt on this machine; None if there was none, or this version cannot read it."""
        try:
            return self.attempt()
        except TrialError:
            return None

    def last_attempt(self) -> int:
        """Its number; 0 if there was none."""
        found = self.find_attempt()
        return 0 if found is None else found.number

    def restore_attempt(self, before: Attempt | None) -> None:
        """Make ``before`` the last attempt again, because the one written since was never started."""
        if before is None:
            (self.path / TrialFile.ATTEMPT).unlink(missing_ok=True)
        elif self.find_attempt() != before:
            self.write_attempt(before)

    def write_result(self, result: TrialResult) -> None:
        write_atomically(self.path / TrialFile.RESULT, result.model_dump_json(indent=1))

    def result(self) -> TrialResult | None:
        """None until the trial has ended."""
        return self._read(TrialResult, TrialFile.RESULT) if self.has_result else None

    def complete_result(self) -> TrialResult | None:
        """The result if the trial is COMPLETE."""
        result = self.result()
        return result if result is not None and result.state is TrialState.COMPLETE else None

    def discard_result(self) -> None:
        """Delete the result, so that the trial can be tried again."""
        (self.path / TrialFile.RESULT).unlink(missing_ok=True)

    def append(self, event: Event) -> None:
        """Add an event to progress.jsonl."""
        append_line(self.path / TrialFile.PROGRESS, event.model_dump_json(exclude_defaults=True))

    def events(self, offset: int = 0) -> tuple[list[Event], int]:
        """Events from byte ``offset`` on, and the offset to continue from. Torn lines are skipped."""
        try:
            with open(self.path / TrialFile.PROGRESS, "rb") as file:
                file.seek(offset)
                text = file.read()
        except FileNotFoundError:
            return [], offset
        whole = text[: text.rfind(b"\n") + 1]
        events = []
        for line in whole.splitlines():
            with suppress(ValidationError):  # the last write of a process that was killed
                events.append(Event.model_validate_json(line))
        return events, offset + len(whole)

    def log_tail(self, num_lines: int = 30) -> str:
        """The end of the log, for messages; as cut_tail."""
        try:
            text = (self.path / TrialFile.LOG).read_bytes()[-50_000:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(cut_tail(text.splitlines(), num_lines))

    def _read(self, model: type[R], name: TrialFile) -> R:
        path = self.path / name
        try:
            return model.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise TrialError(f"{path}: not found. The folder holds no trial, or was emptied.") from None
        except ValidationError as error:
            hint = f"Move {self.path} away to train the trial again."
            raise TrialError(f"{path}: cannot be read by this version: {error}. {hint}") from error


def is_worked_on(trial: TrialFolder) -> bool:
    """Whether a process works in the folder, such as one that has not noticed yet that its dispatcher died."""
    return (trial.path / TrialFile.LOCK).exists() and is_locked(trial.path / TrialFile.LOCK)


class Removal(Record):
    """A checkpoint that was removed on purpose."""

    reason: str
    """Such as ``keep: {checkpoints: 3} of sweep losses``."""
    time_s: float


def write_removal(folder: TrialFolder, reason: str) -> None:
    """Write the reason before the checkpoint is removed, so that a kill never leaves a removed checkpoint without one."""
    write_atomically(folder.path / TrialFile.REMOVED, Removal(reason=reason, time_s=time.time()).model_dump_json(indent=1))


def read_removal(folder: TrialFolder) -> str | None:
    """Why the checkpoint was removed; None if it was not, or the reason is not known."""
    try:
        return Removal.model_validate_json((folder.path / TrialFile.REMOVED).read_bytes()).reason
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def say_removed(name: str, key: str, reason: str) -> str:
    """The message for somebody who needs a checkpoint that was removed."""
    return (
        f"{name} ({key}): its checkpoint was removed by {reason}; its results and predictions are there. Train it again: "
        f"`orchestrate retry SWEEP --trial {key}`, then `orchestrate sweep FILE` with another `keep`."
    )


_THREAD = re.compile(r"(Current thread|Thread) 0x.*\(most recent call first\):")
"""The first line that faulthandler writes for a thread, before its frames."""

_PART = re.compile(rf"\s*|  .*|Extension modules: .*|Current thread's C stack.*|{_THREAD.pattern}")
"""Any line of faulthandler's, except its first one, which gives the cause."""


def cut_tail(lines: Sequence[str], num_lines: int) -> list[str]:
    """The last lines of a log.

    Where faulthandler's stacks of all threads end the log: a few lines before them, and the innermost frames of the thread that
    matters. That is the current one, else the main thread, which is written last.
    """
    start = next((index + 1 for index in reversed(range(len(lines))) if not _PART.fullmatch(lines[index])), 0)
    threads = [index for index in range(start, len(lines)) if _THREAD.fullmatch(lines[index])]
    if not threads:
        return list(lines[-num_lines:])
    at = next((index for index in threads if lines[index].startswith("Current")), threads[-1])
    before = [*lines[max(0, start - num_lines // 5) : start]]
    return before + list(lines[at : at + num_lines - len(before)])
