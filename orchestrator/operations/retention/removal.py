"""Removes what was found, unless somebody has come to need it since."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.operations.retention.reclaimable import Find, Kind, Left, find_living, has_ended, hold
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFolder, write_removal

NoteRemoval = Callable[[str, str], None]
"""Says on a run's page, by its id, why its checkpoint is gone."""


def remove(finds: Sequence[Find], home: Home, ledger: Ledger, *, note: NoteRemoval) -> tuple[list[Find], list[Left]]:
    """Remove files and folders; returns what is gone, and what was left and why. Whatever cannot be removed stops nothing.

    A trial's are removed while no worker can enter its folder, and only while no dispatcher holds the trial.
    """
    removed: list[Find] = []
    left: list[Left] = []
    for (_, key), group in groupby(sorted(finds, key=_order), key=_order):
        some = list(group)
        gone, problem = _remove_of(key, some, home, ledger, note) if key else remove_shared(some, home)
        removed += gone
        if problem is not None:
            left.append(problem)
    return removed, left


def remove_shared(finds: Sequence[Find], home: Home) -> tuple[list[Find], Left | None]:
    """Remove what is no single trial's, unless a dispatcher lives that may need it."""
    if living := find_living(home):
        return [], Left("caches and prepared data", f"{', '.join(living)} may need them")
    return _remove_all(finds)


def _order(find: Find) -> tuple[bool, str]:
    """What needs a note comes last: on a full disk there is room for notes then."""
    return find.reason is not None, find.key or ""


def is_needed(ledger: Ledger, folder: TrialFolder, finds: Iterable[Find]) -> bool:
    """Whether a dispatcher holds the trial, or it is to be gone on with after all."""
    row = ledger.states([folder.path.name]).get(folder.path.name)
    if row is not None and row.is_held(ledger.now_s()):
        return True
    rests = any(find.kind is not Kind.leftover and find.path.parent == folder.path for find in finds)
    return rests and not has_ended(folder, row)


def _remove_of(key: str, finds: Sequence[Find], home: Home, ledger: Ledger, note: NoteRemoval) -> tuple[list[Find], Left | None]:
    folder = TrialFolder(home.trial_folder(key))
    if not folder.path.is_dir():
        return _note_and_remove(folder, finds, note)
    with hold(folder) as is_free:
        if not is_free or is_needed(ledger, folder, finds):
            return [], Left(key, "a dispatcher works on it, or is about to")
        return _note_and_remove(folder, finds, note)


def _note_and_remove(folder: TrialFolder, finds: Sequence[Find], note: NoteRemoval) -> tuple[list[Find], Left | None]:
    """The note first: after a kill in between it is one too many, and no file is gone without one."""
    reasons = {find.reason: find for find in finds if find.reason is not None}
    try:
        for reason, find in reasons.items():
            if folder.path.is_dir():
                write_removal(folder, reason)
            for run_id in find.run_ids:
                note(run_id, reason)
    except (OSError, TrackingError) as error:
        return [], Left(folder.path.name, str(error))
    return _remove_all(finds)


def _remove_all(finds: Iterable[Find]) -> tuple[list[Find], Left | None]:
    removed: list[Find] = []
    problem: Left | None = None
    for find in finds:
        try:
            _unlink(find.path)
        except OSError as error:
            problem = Left(str(find.path), error.strerror or str(error))
        else:
            removed.append(find)
    return removed, problem


def _unlink(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
