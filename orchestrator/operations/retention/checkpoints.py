"""Finds checkpoints that can be deleted according to MLflow: those that no `keep` rule keeps, and copies of its own files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import TrialError
from orchestrator.operations.retention.reclaimable import Reclaimable, ReclaimableKind, has_ended
from orchestrator.spec.sections import RULE_WORDS, Rule
from orchestrator.state.disk import measure
from orchestrator.state.files import mark_file
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, LedgerRow
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror_state import read_mirror_state

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords, CheckpointRun, CheckpointSnapshot

REMOVABLE_STATES = (TrialState.COMPLETE, TrialState.PRUNED)
"""States in which a rule may remove the checkpoint; a failed trial may be retried and resumes from it."""


DEFAULT: Rule = "all"


class CheckpointFinder:
    """Finds checkpoints of some trials, or of all; deletes nothing. For one thread.

    Raises:
        TrackingError: MLflow cannot be read; so does every method.
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

    def find_not_kept(self) -> Iterator[Reclaimable]:
        """Checkpoints that no sweep keeps and no ensemble needs: in trial folders, in the cache and in this home's artifacts."""
        rules = {sweep: read_rule(text) for sweep, text in self._read.rules.items()}
        removable = choose_removable(self._read.runs, rules, members=self._read.members, sweeps_of=self._memberships)
        for key, reason in removable.items():
            if (runs := self._runs.get(key)) is None:
                continue
            row, folder = self._rows.get(key), TrialFolder(self._home.trial_folder(key))
            if not self._has_ended(runs, row, folder):
                continue
            own = tuple(run.run_id for run in runs if run.files is not None)
            for path in self._list_places(folder, runs):
                if path.exists():
                    yield Reclaimable(ReclaimableKind.not_kept, path, measure(path), key=key, reason=reason, run_ids=own)

    def find_copies(self) -> Iterator[Reclaimable]:
        """Copies on this machine of files that can be fetched from MLflow."""
        for key, runs in self._runs.items():
            for run in runs:
                if run.holds_files and run.state == TrialState.COMPLETE:
                    yield from self._find_copies(key, run)

    def _has_ended(self, runs: Sequence[CheckpointRun], row: LedgerRow | None, folder: TrialFolder) -> bool:
        """Whether the trial has ended according to its runs, the ledger and its folder, if there is one."""
        states = {run.state for run in runs}
        if not states <= {str(state) for state in REMOVABLE_STATES} or (row is not None and row.state not in REMOVABLE_STATES):
            return False
        if not folder.has_trial:
            return True
        try:
            result = folder.result()
        except TrialError:
            return False
        return result is not None and result.state in REMOVABLE_STATES and has_ended(folder, row)

    def _list_places(self, folder: TrialFolder, runs: Sequence[CheckpointRun]) -> Iterator[Path]:
        """Where the checkpoint may be. Artifacts come last: the others could be fetched from them."""
        yield folder.path / TrialFile.WEIGHTS
        if any(run.state == TrialState.PRUNED for run in runs):
            yield folder.path / TrialFile.CHECKPOINT
        for run in runs:
            yield self._home.cache / "files" / run.run_id / TrialFile.WEIGHTS
        for run in runs:
            if run.files is not None and run.holds_files:
                yield run.files / TrialFile.WEIGHTS

    def _find_copies(self, key: str, run: CheckpointRun) -> Iterator[Reclaimable]:
        folder = TrialFolder(self._home.trial_folder(key))
        here, fetched = folder.path / TrialFile.WEIGHTS, self._home.cache / "files" / run.run_id / TrialFile.WEIGHTS
        copies = [path for path in (here, fetched) if path.exists()]
        if not copies or (here in copies and not has_ended(folder, self._rows.get(key))):
            return
        size = self._records.list_files(run.run_id).get(TrialFile.WEIGHTS)
        for path in copies:
            if measure(path) == size and (path == fetched or self._was_sent(folder, run)):
                yield Reclaimable(ReclaimableKind.in_mlflow, path, measure(path), key=key)

    def _was_sent(self, folder: TrialFolder, run: CheckpointRun) -> bool:
        """Whether the mirror sent exactly this file to this run."""
        sent = read_mirror_state(folder, str(TrackingLocation.of(self._home)))
        if sent is None or sent.run_id != run.run_id:
            return False
        return sent.artifacts.get(TrialFile.WEIGHTS) == mark_file(folder.path / TrialFile.WEIGHTS)


def read_rule(text: str | None) -> Rule:
    """A rule from its text in MLflow; an unknown or missing text keeps everything."""
    if text is not None and text.isdecimal() and int(text) >= 1:
        return int(text)
    return "none" if text == RULE_WORDS[1] else DEFAULT


def choose_removable(
    runs: Iterable[CheckpointRun],
    rules: Mapping[str, Rule],
    *,
    members: Collection[str],
    sweeps_of: Mapping[str, Collection[str]],
) -> dict[str, str]:
    """Keys whose checkpoint no sweep keeps and no ensemble needs -> the rules that remove it, in words.

    rules: sweep -> rule; a sweep without one keeps everything. members: keys of ensembles' members. sweeps_of: key -> further
    sweeps that have the trial, but no run of it yet.
    """
    in_sweep: dict[str, list[CheckpointRun]] = defaultdict(list)
    sweeps: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        in_sweep[run.sweep].append(run)
        sweeps[run.key].update((run.sweep, *sweeps_of.get(run.key, ())))
    kept = {key for sweep, some in in_sweep.items() for key in _choose_kept(some, rules.get(sweep, DEFAULT))}
    removable = {}
    for key, names in sorted(sweeps.items()):
        if key in kept or key in members or any(rules.get(name, DEFAULT) == DEFAULT for name in names):
            continue
        removable[key] = " and ".join(f"`keep: {{checkpoints: {rules[name]}}}` of sweep {name}" for name in sorted(names))
    return removable


def _choose_kept(runs: Collection[CheckpointRun], rule: Rule) -> set[str]:
    """The keys that one sweep keeps; of equally good trials the smaller key, as in an ensemble."""
    if rule == "all":
        return {run.key for run in runs}
    if rule == "none":
        return set()
    blocks: dict[str | None, list[tuple[float, str]]] = defaultdict(list)
    for run in runs:
        if run.state == TrialState.COMPLETE and run.miou is not None:
            blocks[run.scored].append((-run.miou, run.key))
    return {key for block in blocks.values() for _, key in sorted(set(block))[:rule]}
