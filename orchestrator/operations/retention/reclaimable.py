"""Finds what can be deleted by looking at the disk: what can be made again, and leftovers of killed processes."""

import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from orchestrator.errors import TrialError
from orchestrator.state.disk import measure
from orchestrator.state.files import is_locked
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, LedgerRow
from orchestrator.state.trial.folder import TrialFile, TrialFolder, is_worked_on

LEFTOVER_AGE_S = 3600.0
"""A write takes seconds: no process is still writing a file of that age."""

_HALF_WRITTEN = re.compile(r"\..+\.(\d+|scratch|adopted)|tmp\w+")  # adopted: of earlier versions
_PARTIAL = ".partial"


class ReclaimableKind(StrEnum):
    """Why something can be deleted, as shown to people."""

    not_kept = "checkpoints that `keep` does not keep"
    in_mlflow = "checkpoints that MLflow has as well"
    resume = "resume checkpoints of ended trials"
    unpacked = "unpacked predictions"
    data = "prepared data that no trial refers to"
    leftover = "leftovers of killed writes"


@dataclass(frozen=True)
class Reclaimable:
    """A file or folder that can be deleted. key: of its trial. reason: the rule that removes a checkpoint."""

    kind: ReclaimableKind
    path: Path
    num_bytes: int
    key: str | None = None
    reason: str | None = None
    run_ids: tuple[str, ...] = ()
    """The runs that must show that the checkpoint was removed."""


@dataclass(frozen=True)
class Skipped:
    """Something that was not checked or deleted, and why."""

    what: str
    why: str


def has_ended(folder: TrialFolder, row: LedgerRow | None) -> bool:
    """Whether nobody will resume the trial, by its folder and by the ledger, which knows first of a retry."""
    try:
        result = folder.result()
    except TrialError:
        return False  # of another version, which has to decide
    return result is not None and (row is None or row.state.has_ended)


def find_on_disk(home: Home, ledger: Ledger, keys: Collection[str] | None) -> Iterator[Reclaimable | Skipped]:
    """What can be deleted of the trials of ``keys``; None: of all trials, and of caches and prepared data."""
    trials = _list_trials(home) if keys is None else [TrialFolder(home.trial_folder(key)) for key in keys]
    rows, now_s = ledger.states([trial.path.name for trial in trials]), ledger.now_s()
    for trial in trials:
        row = rows.get(trial.path.name)
        if (row is not None and row.is_held(now_s)) or is_worked_on(trial):
            continue
        checkpoint = trial.path / TrialFile.CHECKPOINT
        if checkpoint.exists() and has_ended(trial, row):
            yield Reclaimable(ReclaimableKind.resume, checkpoint, measure(checkpoint), key=trial.path.name)
        yield from _find_leftovers(trial.path, key=trial.path.name)
    if keys is not None:
        return
    if (users := find_users(home)) is not None:
        yield users
        return
    yield from find_unpacked(home)
    yield from _find_leftovers(home.cache / "checkpoints")
    yield from _find_data(home)


def _find_leftovers(folder: Path, *, key: str | None = None) -> Iterator[Reclaimable]:
    """Half-written files in a folder that no process works in."""
    for path in _list(folder):
        if _HALF_WRITTEN.fullmatch(path.name) and _is_old(path):
            yield Reclaimable(ReclaimableKind.leftover, path, measure(path), key=key)


def find_unpacked(home: Home) -> Iterator[Reclaimable]:
    """Predictions unpacked for memory mapping; a process that has mapped them keeps its view."""
    for path in _list(home.cache / "predictions"):
        yield Reclaimable(ReclaimableKind.unpacked, path, measure(path))


def _find_data(home: Home) -> Iterator[Reclaimable | Skipped]:
    """Prepared data sets that no trial folder refers to, and leftovers of killed preparations."""
    fingerprints = set()
    for folder in _list_trials(home):
        try:
            fingerprints.add(folder.spec().source_fingerprint)
        except TrialError as error:
            yield Skipped(ReclaimableKind.data, f"a trial cannot be read: {error}")
            return
    for path in _list(home.data):
        if path.name.endswith(_PARTIAL):
            if _is_old(path) and not is_locked(path.with_name(f"{path.name.removesuffix(_PARTIAL)}.lock")):
                yield Reclaimable(ReclaimableKind.leftover, path, measure(path))
        elif (path / "dataset.json").exists() and path.name.partition("-")[0] not in fingerprints:
            yield Reclaimable(ReclaimableKind.data, path, measure(path))


def find_users(home: Home) -> Skipped | None:
    """Dispatchers that may be running in this home and need its data and caches; None if there are none."""
    names = [path.name.removesuffix(".lock") for path in _list(home.locks) if path.name.count(":") == 2]
    running = [name for name in names if not home.is_dead(name)]
    return Skipped("caches and prepared data", f"{', '.join(running)} may need them") if running else None


def _list_trials(home: Home) -> list[TrialFolder]:
    return [TrialFolder(path) for path in sorted(_list(home.trials)) if path.is_dir()]


def _list(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > LEFTOVER_AGE_S
    except FileNotFoundError:
        return False
