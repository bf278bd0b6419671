"""removed.json: why a trial's checkpoint is gone, kept in its folder for whoever asks for it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from pydantic import ValidationError

from orchestrator.state.trial.records import Record, TrialFolder, write_atomically

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
