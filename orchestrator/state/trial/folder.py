"""removed.json: why a trial's checkpoint is gone, kept in its folder for whoever asks for it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from orchestrator.errors import TrialError
from orchestrator.state.files import append_line, is_locked, write_atomically
from orchestrator.state.trial.records import FLIPS, Attempt, Event, Record, TrialResult, TrialSpec

R = TypeVar("R", bound=Record)


_THREAD = re.compile(r"(Current thread|Thread) 0x.*\(most recent call first\):")
"""The first line of what faulthandler writes of a thread, before its frames."""

_PART = re.compile(rf"\s*|  .*|Extension modules: .*|Current thread's C stack.*|{_THREAD.pattern}")
"""Any line that faulthandler writes, except its first one, which says why."""


def find_end(lines: Sequence[str], num_lines: int) -> list[str]:
    """The last lines; of a log that ends with where every thread of a process stood, the innermost frames of the one that
    counts, which come first there, and a few lines from before.
    """
    start = next((index + 1 for index in reversed(range(len(lines))) if not _PART.fullmatch(lines[index])), 0)
    threads = [index for index in range(start, len(lines)) if _THREAD.fullmatch(lines[index])]
    if not threads:
        return list(lines[-num_lines:])
    at = next((index for index in threads if lines[index].startswith("Current")), threads[-1])  # the main thread is the last
    before = [*lines[max(0, start - num_lines // 5) : start]]
    return before + list(lines[at : at + num_lines - len(before)])


FILE = "removed.json"


class Removal(Record):
    """A checkpoint that was removed on purpose."""

    reason: str
    """Such as ``keep: {checkpoints: 3} of sweep losses``."""
    time_s: float


def write_removal(folder: TrialFolder, reason: str) -> None:
    """Note it before anything is removed: a kill in between leaves a note too many, never a file that is gone without one."""
    write_atomically(folder.path / FILE, Removal(reason=reason, time_s=time.time()).model_dump_json(indent=1))


def read_removal(folder: TrialFolder) -> str | None:
    """Why the checkpoint was removed; None where it was not, or nobody knows."""
    try:
        return Removal.model_validate_json((folder.path / FILE).read_bytes()).reason
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def say_removed(name: str, key: str, reason: str) -> str:
    """What to tell somebody who needs the checkpoint."""
    return (
        f"{name} ({key}): its checkpoint was removed by {reason}; its results and predictions are there. Train it again: "
        f"`orchestrate retry SWEEP --trial {key}`, then `orchestrate sweep FILE` with another `keep`."
    )


FLIPS_FILES = tuple(
    f"{FLIPS}/{name}" for name in ("predictions.json", "predictions.zst", "predictions.labels.zst", "confusions.npz")
)


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


def is_worked_on(trial: TrialFolder) -> bool:
    """Whether a process works in the folder, such as one that has not noticed yet that its dispatcher died."""
    return trial.lock.exists() and is_locked(trial.lock)
