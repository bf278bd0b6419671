"""Checkpoints that can go, by what MLflow knows of them: those that no sweep keeps, and copies of what it holds itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import TrialError
from orchestrator.operations.retention.reclaimable import Find, Kind, has_ended, measure
from orchestrator.operations.retention.rules import Standing, choose_removable, read_rule
from orchestrator.state.files import mark_file
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, LedgerRow
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror_state import read_mirror_state

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords, CheckpointRun, CheckpointSnapshot

KEPT_STATES = (TrialState.COMPLETE, TrialState.PRUNED)
"""Whose checkpoint a rule may remove; a failed trial may be tried again, and then goes on from it."""


class Checkpoints:
    """Looks through the checkpoints of some trials, or of all; removes nothing. Used by one thread.

    Raises:
        TrackingError: the records cannot be read; so does every method.
    """

    def __init__(self, home: Home, ledger: Ledger, records: CheckpointRecords, keys: Collection[str] | None = None) -> None:
        self._home = home
        self._records = records
        self._read: CheckpointSnapshot = records.read()
        self._memberships = ledger.memberships()
        runs: dict[str, list[CheckpointRun]] = defaultdict(list)
        for run in self._read.runs:
            runs[run.key].append(run)
        self._runs = {key: some for key, some in sorted(runs.items()) if keys is None or key in keys}
        self._rows = ledger.states(self._runs)

    def find_not_kept(self) -> Iterator[Find]:
        """Those that no sweep keeps and no ensemble needs: in the trial's folder, in the cache, and in this home's artifacts."""
        for key, reason in self._choose().items():
            if (runs := self._runs.get(key)) is None:
                continue
            row, folder = self._rows.get(key), TrialFolder(self._home.trial_folder(key))
            if not self._has_ended(runs, row, folder):
                continue
            own = tuple(run.run_id for run in runs if run.files is not None)
            for path in self._list_places(folder, runs):
                if path.exists():
                    yield Find(Kind.not_kept, path, measure(path), key=key, reason=reason, run_ids=own)

    def find_copies(self) -> Iterator[Find]:
        """What is on this machine a second time, and can be fetched from MLflow as it is."""
        for key, runs in self._runs.items():
            for run in runs:
                if run.holds_files and run.state == TrialState.COMPLETE:
                    yield from self._find_copies(key, run)

    def _choose(self) -> dict[str, str]:
        """Key -> why its checkpoint is not kept; ranked in whole sweeps, whichever of their trials are looked at."""
        standings = [
            Standing(run.key, run.sweep, run.miou if run.state == TrialState.COMPLETE else None, run.scored)
            for run in self._read.runs
        ]
        rules = {sweep: read_rule(text) for sweep, text in self._read.rules.items()}
        return choose_removable(standings, rules, members=self._read.members, sweeps_of=self._memberships)

    def _has_ended(self, runs: Sequence[CheckpointRun], row: LedgerRow | None, folder: TrialFolder) -> bool:
        """Whether everybody says that the trial is done: its runs, the ledger, and its folder where there is one."""
        states = {run.state for run in runs}
        if not states <= {str(state) for state in KEPT_STATES} or (row is not None and row.state not in KEPT_STATES):
            return False
        if not folder.exists:
            return True
        try:
            result = folder.result()
        except TrialError:
            return False
        return result is not None and result.state in KEPT_STATES and has_ended(folder, row)

    def _list_places(self, folder: TrialFolder, runs: Sequence[CheckpointRun]) -> Iterator[Path]:
        """Where the checkpoint may lie. The artifacts last: they are what the others could be fetched from."""
        yield folder.weights
        if any(run.state == TrialState.PRUNED for run in runs):
            yield folder.checkpoint
        for run in runs:
            yield self._home.cache / "files" / run.run_id / TrialFile.WEIGHTS
        for run in runs:
            if run.files is not None and run.holds_files:
                yield run.files / TrialFile.WEIGHTS

    def _find_copies(self, key: str, run: CheckpointRun) -> Iterator[Find]:
        folder = TrialFolder(self._home.trial_folder(key))
        here, fetched = folder.weights, self._home.cache / "files" / run.run_id / TrialFile.WEIGHTS
        copies = [path for path in (here, fetched) if path.exists()]
        if not copies or (here in copies and not has_ended(folder, self._rows.get(key))):
            return
        size = self._records.list_files(run.run_id).get(TrialFile.WEIGHTS)
        for path in copies:
            if measure(path) == size and (path == fetched or self._was_sent(folder, run)):
                yield Find(Kind.in_mlflow, path, measure(path), key=key)

    def _was_sent(self, folder: TrialFolder, run: CheckpointRun) -> bool:
        """Whether the file in the folder is the one that the mirror sent to this run."""
        sent = read_mirror_state(folder, str(TrackingLocation.of(self._home)))
        if sent is None or sent.run_id != run.run_id:
            return False
        return sent.artifacts.get(TrialFile.WEIGHTS) == mark_file(folder.weights)
