"""Lets trials be run again by the next sweep: failed ones, and finished ones whose checkpoint is wanted back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.errors import SpecError, TrialError
from orchestrator.operations.retention.reclaimable import hold
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.location import TrackingLocation

if TYPE_CHECKING:
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords


def retry_failed(home: Home, sweeps: Sequence[str]) -> list[str]:
    """Let the failed trials of sweeps be tried again; returns a line for each sweep.

    Raises:
        SpecError: no sweep of that name; nothing is changed.
    """
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps(sweeps)
    lines = []
    for name in sweeps:
        reset = ledger.reset_failed(ledger.members(name))
        lines.append(f"{name}: {len(reset)} failed trials will be tried again" if reset else f"{name}: no failed trials")
    return lines


def train_again(home: Home, sweeps: Sequence[str], names: Sequence[str]) -> list[str]:
    """Let trials be trained again whatever became of them; what they left stays until then. Returns a line for each trial.

    names: keys, or the beginnings of keys, of trials of ``sweeps``.

    Raises:
        SpecError: no such sweep, or no trial, or several, of that name; nothing is changed.
        TrialError: a dispatcher works on one.
        TrackingError: the records cannot be changed.
    """
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps(sweeps)
    known = {key for sweep in sweeps for key in ledger.members(sweep)}
    keys = [_find_key(name, sorted(known), sweeps) for name in names]
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords  # imports mlflow, which takes seconds

    records = CheckpointRecords(TrackingLocation.of(home))
    for key in keys:
        _set_back(key, home, ledger, records)
    return [f"{key}: will be trained again" for key in keys]


def _set_back(key: str, home: Home, ledger: Ledger, records: CheckpointRecords) -> None:
    """The ledger last: what a kill leaves half done counts as finished still, and can be asked for again."""
    folder = TrialFolder(home.trial_folder(key))
    folder.path.mkdir(parents=True, exist_ok=True)
    with hold(folder) as is_free:
        row = ledger.states([key])[key]
        if not is_free or row.is_held(ledger.now_s()):
            raise TrialError(f"{folder.path}: a dispatcher works on the trial. Let it end first.")
        if row.state is TrialState.PRUNED:
            raise TrialError(f"{key}: was pruned. Let its sweep run without `pruner` to train it to its end.")
        records.set_waiting(key, "to be trained again, as somebody asked for")
        folder.discard_result()
        if not ledger.forget(key):
            ledger.reset_failed([key])


def _find_key(name: str, known: Sequence[str], sweeps: Sequence[str]) -> str:
    found = [key for key in known if key.startswith(name)] if name else []
    if len(found) == 1:
        return found[0]
    where = f"--trial {name}"
    if found:
        raise SpecError(f"{where}: is the beginning of {len(found)} keys: {', '.join(found[:6])}. Give more of it.")
    raise SpecError(f"{where}: {', '.join(sweeps)} has no such trial. `orchestrate leaderboard --json` shows the keys.")
