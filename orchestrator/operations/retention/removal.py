"""Deletes what was found, unless a process needs it by now."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import TYPE_CHECKING

from orchestrator.errors import TrackingError
from orchestrator.operations.retention.reclaimable import Reclaimable, ReclaimableKind, Skipped, find_users, has_ended
from orchestrator.state.files import holding
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFile, TrialFolder, write_removal

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords


def remove(
    items: Sequence[Reclaimable], home: Home, ledger: Ledger, records: CheckpointRecords | None
) -> tuple[list[Reclaimable], list[Skipped]]:
    """Delete files and folders; returns what was deleted, and what was skipped and why. A failure does not stop the rest.

    A trial's files are deleted while no worker can enter its folder and no dispatcher holds the trial. records: where the runs
    of removed checkpoints are; None if no item has runs.
    """
    removed: list[Reclaimable] = []
    skipped: list[Skipped] = []
    for (_, key), group in groupby(sorted(items, key=_order), key=_order):
        some = list(group)
        gone, problem = _remove_of(key, some, home, ledger, records) if key else remove_shared(some, home)
        removed += gone
        if problem is not None:
            skipped.append(problem)
    return removed, skipped


def remove_shared(items: Sequence[Reclaimable], home: Home) -> tuple[list[Reclaimable], Skipped | None]:
    """Delete what belongs to no single trial, unless a running dispatcher may need it."""
    problem = find_users(home)
    return ([], problem) if problem else _remove_all(items)


def _order(item: Reclaimable) -> tuple[bool, str]:
    """What needs a record comes last: on a full disk there is space for records by then."""
    return item.reason is not None, item.key or ""


def _is_needed(ledger: Ledger, folder: TrialFolder, items: Iterable[Reclaimable]) -> bool:
    """Whether a dispatcher holds the trial, or the trial will be resumed after all."""
    row = ledger.states([folder.path.name]).get(folder.path.name)
    if row is not None and row.is_held(ledger.now_s()):
        return True
    is_checkpoint = any(item.kind is not ReclaimableKind.leftover and item.path.parent == folder.path for item in items)
    return is_checkpoint and not has_ended(folder, row)


def _remove_of(
    key: str, items: Sequence[Reclaimable], home: Home, ledger: Ledger, records: CheckpointRecords | None
) -> tuple[list[Reclaimable], Skipped | None]:
    """Record first: a kill in between leaves a record too many, but never a missing file without one."""
    folder = TrialFolder(home.trial_folder(key))
    has_folder = folder.path.is_dir()
    with holding(folder.path / TrialFile.LOCK) if has_folder else nullcontext(True) as is_free:
        if not is_free or (has_folder and _is_needed(ledger, folder, items)):
            return [], Skipped(key, "a dispatcher works on it or is about to")
        try:
            for reason, item in {item.reason: item for item in items if item.reason is not None}.items():
                if has_folder:
                    write_removal(folder, reason)
                for run_id in item.run_ids:
                    assert records is not None, "what has runs was found in them"
                    records.record_removal(run_id, reason)
        except (OSError, TrackingError) as error:
            return [], Skipped(key, str(error))
        return _remove_all(items)


def _remove_all(items: Iterable[Reclaimable]) -> tuple[list[Reclaimable], Skipped | None]:
    removed: list[Reclaimable] = []
    problem: Skipped | None = None
    for item in items:
        try:
            if item.path.is_dir() and not item.path.is_symlink():
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)
        except OSError as error:
            problem = Skipped(str(item.path), error.strerror or str(error))
        else:
            removed.append(item)
    return removed, problem
