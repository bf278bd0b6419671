"""removed.json: why a trial's checkpoint is gone, kept in its folder for whoever asks for it."""

from __future__ import annotations

import time

from pydantic import ValidationError

from orchestrator.trial import Record, TrialFolder, write_atomically

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
