"""The checkpoint that a trial goes on from: how far it is, a copy for other machines, and entering what came from one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.state.files import append_line, mark_file, replacing, write_atomically
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Record

RESUME_FILES = (TrialFile.CHECKPOINT, TrialFile.WEIGHTS, TrialFile.PROGRESS)
"""What another machine needs to resume a trial."""


class CheckpointInfo(Record):
    """checkpoint.json: how far last.pt is, for those who cannot load it."""

    epoch: int
    mark: str
    """Of last.pt, as mark_file writes it: a kill may come between that file and this one."""


@dataclass(frozen=True)
class Fetched:
    """What a server had of a trial. epoch: of the checkpoint that was fetched; None: none was. says: whose it is, or why not."""

    epoch: int | None
    says: str
    is_damaged: bool = False


def note_checkpoint(folder: TrialFolder, epoch: int) -> None:
    """Take note that last.pt has just been written, with all that was learned up to ``epoch``."""
    reached = CheckpointInfo(epoch=epoch, mark=mark_file(folder.checkpoint))
    write_atomically(folder.path / TrialFile.CHECKPOINT_INFO, reached.model_dump_json())


def find_epoch(folder: TrialFolder) -> int:
    """The epoch after which a training here would go on, or an earlier one where that is not sure; 0: it would start anew."""
    if not (folder.checkpoint.exists() and folder.weights.exists()):
        return 0
    reached = _read(folder)
    return 0 if reached is None else reached.epoch


@contextmanager
def copied(folder: TrialFolder) -> Iterator[tuple[Path, int] | None]:
    """What a training elsewhere needs to go on from here, in a folder of its own for as long as this lasts, and its epoch.

    None where there is no checkpoint, or none of which it is known how far it is. A trainer that is at work is not disturbed: it
    replaces files, and what is linked here stays what it was. The weights are taken after the checkpoint, since those of a later
    epoch do no harm while it would miss its own; and the course last, which tells of every epoch that the checkpoint knows.
    """
    with tempfile.TemporaryDirectory(dir=folder.path) as name:
        copy = Path(name)
        try:
            for file in (TrialFile.CHECKPOINT, TrialFile.WEIGHTS):
                _take(folder.path / file, copy / file)
            (copy / TrialFile.PROGRESS).write_bytes(_read_whole_lines(folder.path / TrialFile.PROGRESS))
        except FileNotFoundError:
            yield None
            return
        reached = _read(folder)
        is_known = reached is not None and reached.mark == mark_file(copy / TrialFile.CHECKPOINT)
        yield (copy, reached.epoch) if reached is not None and is_known else None


def enter(folder: TrialFolder, copy: Path, epoch: int) -> None:
    """Let the trial's next attempt go on from ``copy``, which is used up; nobody works in the folder.

    What was noted as sent to the server is forgotten, since others have told more meanwhile.
    """
    (folder.path / TrialFile.SENT).unlink(missing_ok=True)
    _join_course(folder.path / TrialFile.PROGRESS, copy / TrialFile.PROGRESS)
    # the checkpoint last: a kill in between leaves later weights than it needs, which do no harm
    for name in (TrialFile.WEIGHTS, TrialFile.CHECKPOINT):
        with replacing(folder.path / name) as scratch:
            shutil.move(copy / name, scratch)
    note_checkpoint(folder, epoch)


def _read(folder: TrialFolder) -> CheckpointInfo | None:
    try:
        return CheckpointInfo.model_validate_json((folder.path / TrialFile.CHECKPOINT_INFO).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _take(source: Path, target: Path) -> None:
    with suppress(OSError):  # no hard links on this file system; a file that is missing raises below
        os.link(source, target)
        return
    with open(source, "rb") as file, open(target, "wb") as copy:  # stays the same file, whatever takes its name meanwhile
        shutil.copyfileobj(file, copy)
        found = os.fstat(file.fileno())
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _read_whole_lines(path: Path) -> bytes:
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]


def _join_course(own: Path, other: Path) -> None:
    """Add those lines that are not here yet; a trial's attempts keep their order, and who reads counts an epoch once."""
    known = set(own.read_bytes().splitlines()) if own.exists() else set()
    for line in other.read_bytes().splitlines():
        if line and line not in known:
            append_line(own, line.decode(errors="replace"))
