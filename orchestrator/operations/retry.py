"""`orchestrate retry`: lets the next sweep run trials again, failed ones or any that are named."""

from collections.abc import Sequence

from orchestrator.errors import SpecError, TrialError
from orchestrator.state.files import holding
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.state.units import format_count
from orchestrator.tracking.location import TrackingLocation


def retry_failed(home: Home, sweeps: Sequence[str]) -> list[str]:
    """Reset the failed trials of sweeps to be retried; returns one line per sweep.

    Raises:
        SpecError: there is no such sweep; nothing is changed.
    """
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps(sweeps)
    lines = []
    for name in sweeps:
        reset = ledger.reset_failed(ledger.members(name))
        outcome = f"{format_count(len(reset), 'failed trial')} will be retried" if reset else "no failed trials"
        lines.append(f"{name}: {outcome}")
    return lines


def train_again(home: Home, sweeps: Sequence[str], names: Sequence[str]) -> list[str]:
    """Reset trials in any state to be trained again; their files stay until then. Returns one line per trial.

    names: keys of trials of ``sweeps``, or their beginnings.

    Raises:
        SpecError: a name fits no sweep, no trial or several trials; nothing is changed.
        TrialError: a dispatcher is working on one.
        TrackingError: the records cannot be changed.
    """
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps(sweeps)
    known = {key for sweep in sweeps for key in ledger.members(sweep)}
    keys = [_find_key(name, sorted(known), sweeps) for name in names]
    from orchestrator.tracking.checkpoints.retention import CheckpointRecords  # imports mlflow, which takes seconds

    records = CheckpointRecords(TrackingLocation.of(home))
    for key in keys:
        folder = TrialFolder(home.trial_folder(key))
        folder.path.mkdir(parents=True, exist_ok=True)
        with holding(folder.path / TrialFile.LOCK) as is_free:
            row = ledger.states([key])[key]
            if not is_free or row.is_held(ledger.now_s()):
                raise TrialError(f"{folder.path}: a dispatcher is working on the trial. Let it finish first.")
            if row.state is TrialState.PRUNED:
                raise TrialError(f"{key}: was pruned. Run its sweep without `pruner` to train it to the end.")
            records.set_waiting(key, "to be trained again, on request")
            folder.discard_result()
            # last: after a kill the trial still counts as finished, and the command can be repeated
            if not ledger.forget(key):
                ledger.reset_failed([key])
    return [f"{key}: will be trained again" for key in keys]


def _find_key(name: str, known: Sequence[str], sweeps: Sequence[str]) -> str:
    found = [key for key in known if key.startswith(name)] if name else []
    if len(found) == 1:
        return found[0]
    if found:
        raise SpecError(f"--trial {name}: is the beginning of {len(found)} keys: {', '.join(found[:6])}. Give more characters.")
    raise SpecError(f"--trial {name}: no such trial in {', '.join(sweeps)}. `orchestrate leaderboard --json` shows the keys.")
