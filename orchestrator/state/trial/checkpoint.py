"""The checkpoint that a trial resumes from: its epoch, a copy for other machines, and adopting one from another machine."""

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
    """checkpoint.json: the epoch of last.pt, for readers without torch."""

    epoch: int
    mark: str
    """Of last.pt, by mark_file: a kill may come between writing that file and this one."""


@dataclass(frozen=True)
class Fetched:
    """What a server had of a trial. epoch: of the fetched checkpoint; None: there was none. says: whose it is, or why not."""

    epoch: int | None
    says: str
    is_damaged: bool = False


def note_checkpoint(folder: TrialFolder, epoch: int) -> None:
    """Record that last.pt has just been written after ``epoch``."""
    info = CheckpointInfo(epoch=epoch, mark=mark_file(folder.path / TrialFile.CHECKPOINT))
    write_atomically(folder.path / TrialFile.CHECKPOINT_INFO, info.model_dump_json())


def find_epoch(folder: TrialFolder) -> int:
    """The epoch after which the trial would resume here, or an earlier one in doubt; 0: it would start from the beginning."""
    if not ((folder.path / TrialFile.CHECKPOINT).exists() and (folder.path / TrialFile.WEIGHTS).exists()):
        return 0
    info = _read(folder)
    return 0 if info is None else info.epoch


@contextmanager
def copied(folder: TrialFolder) -> Iterator[tuple[Path, int] | None]:
    """Yield a temporary folder with what another machine needs to resume the trial, and the checkpoint's epoch.

    None if there is no checkpoint, or its epoch is unknown. A running trainer is not disturbed: it replaces files, and the links
    here keep the old ones. The weights are copied after the checkpoint, since later weights do no harm and earlier ones may lack
    its epoch. Progress is copied last, so that it has every epoch of the checkpoint.
    """
    with tempfile.TemporaryDirectory(dir=folder.path) as name:
        copy = Path(name)
        try:
            for file in (TrialFile.CHECKPOINT, TrialFile.WEIGHTS):
                _link(folder.path / file, copy / file)
            progress = (folder.path / TrialFile.PROGRESS).read_bytes()
            (copy / TrialFile.PROGRESS).write_bytes(progress[: progress.rfind(b"\n") + 1])
        except FileNotFoundError:
            yield None
            return
        info = _read(folder)
        is_known = info is not None and info.mark == mark_file(copy / TrialFile.CHECKPOINT)
        yield (copy, info.epoch) if info is not None and is_known else None


def enter(folder: TrialFolder, copy: Path, epoch: int) -> None:
    """Move the files in ``copy`` here, so that the next attempt resumes from them; nobody works in the folder.

    What was sent to the server is forgotten, since other machines have sent more meanwhile.
    """
    (folder.path / TrialFile.SENT).unlink(missing_ok=True)
    progress = folder.path / TrialFile.PROGRESS
    known = set(progress.read_bytes().splitlines()) if progress.exists() else set()
    for line in (copy / TrialFile.PROGRESS).read_bytes().splitlines():  # attempts stay in order, and readers count an epoch once
        if line and line not in known:
            append_line(progress, line.decode(errors="replace"))
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


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it with its time where there are no hard links."""
    with suppress(OSError):  # a missing file raises below
        os.link(source, target)
        return
    with open(source, "rb") as file, open(target, "wb") as copy:  # the open file stays the same when it is replaced
        shutil.copyfileobj(file, copy)
        found = os.fstat(file.fileno())
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
