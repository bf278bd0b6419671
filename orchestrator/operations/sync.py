"""`orchestrate sync`: brings MLflow into agreement with ledger and trial folders, by hand, after it was away or tampered with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from rich.console import Console

from orchestrator.errors import TrackingError, TrialError
from orchestrator.planning.shared import read_shared_plan
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, LedgerRow
from orchestrator.state.trial.folder import TrialFile, TrialFolder, is_worked_on
from orchestrator.tracking.location import RefusedError, TrackingLocation

LONGEST_PAUSE_S = 8.0


T = TypeVar("T")


@dataclass(frozen=True)
class SyncedSweep:
    """What was done for a sweep. num_checked: trials of it that this machine has something to tell of.

    sent, refused: key -> run's id, or why not. closed: keys of runs that were RUNNING for nobody. trouble: why the server could
    not be used, or not to the end.
    """

    sweep: str
    num_checked: int
    sent: Mapping[str, str]
    closed: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    trouble: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep,
            "checked": self.num_checked,
            "sent": dict(self.sent),
            "closed": list(self.closed),
            "refused": dict(self.refused),
            "trouble": self.trouble,
        }

    def describe(self) -> str:
        """In one line for people, and one for each refusal."""
        count = f"{self.num_checked} trials"
        said = [f"{len(self.sent)} of {count} sent" if self.sent or self.trouble else f"{count} looked at, nothing was lacking"]
        if self.closed:
            said.append(f"{len(self.closed)} runs closed that nobody works on")
        problems = [f"  {key}: {reason}" for key, reason in self.refused.items()]
        if self.trouble:
            problems.append(f"  not in agreement yet: {self.trouble}")
        return "\n".join([f"{self.sweep}: {', '.join(said)}", *problems])


@dataclass(frozen=True)
class SyncReport:
    """What ``orchestrate sync`` prints."""

    location: str
    sweeps: tuple[SyncedSweep, ...]

    @property
    def exit_code(self) -> int:
        """0 MLflow has everything, 1 it lacks something still."""
        return int(any(sweep.trouble or sweep.refused for sweep in self.sweeps))

    def to_json(self) -> dict[str, Any]:
        return {"tracking": self.location, "sweeps": [sweep.to_json() for sweep in self.sweeps]}

    def render(self) -> str:
        return "\n".join(sweep.describe() for sweep in self.sweeps) or "The ledger knows no sweep."


def sync(sweeps: Sequence[str] = (), patience_s: float = 60.0) -> SyncReport:
    """Send what MLflow lacks of the sweeps named, or of all that the ledger knows.

    patience_s: how long a server that does not answer is asked again.

    Raises:
        SpecError: nobody knows one of them.
        TrackingError: the ledger cannot be used.
    """
    home = Home.from_environment()
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps(sweeps)
    done: list[SyncedSweep] = []
    for sweep in sweeps or ledger.sweeps():
        done.append(_sync_sweep(sweep, home=home, ledger=ledger, patience_s=patience_s))
        if done[-1].trouble:  # the other sweeps would meet the same
            break
    return SyncReport(str(TrackingLocation.of(home)), tuple(done))


def _sync_sweep(sweep: str, *, home: Home, ledger: Ledger, patience_s: float) -> SyncedSweep:
    from orchestrator.tracking.mirror.repair import Repairer

    location, patiently = TrackingLocation.of(home), Patience(patience_s)
    shared = read_shared_plan(ledger, sweep)
    labels = shared.labels if shared else {}
    folders = [folder for folder in list_resting(sweep, home=home, ledger=ledger) if not is_worked_on(folder)]
    sent: dict[str, str] = {}
    refused: dict[str, str] = {}

    def live_keys() -> set[str]:
        return {key for key, row in ledger.states(ledger.members(sweep)).items() if is_held(row, ledger, home)}

    try:
        repairer = patiently(lambda: Repairer(location))
        lacking = patiently(lambda: repairer.find_missing(sweep, folders, live_keys))
        for folder in lacking.folders:
            key = folder.path.name
            try:
                sent[key] = patiently(partial(repairer.send, sweep, folder, labels.get(key)))
            except (RefusedError, TrialError) as error:  # its own fault: the others may be sent
                refused[key] = str(error)
    except TrackingError as error:
        return SyncedSweep(sweep, len(folders), sent, refused=refused, trouble=str(error))
    return SyncedSweep(sweep, len(folders), sent, closed=lacking.closed, refused=refused)


def list_resting(sweep: str, *, home: Home, ledger: Ledger) -> Iterator[TrialFolder]:
    """Folders on this machine of trials that were worked on for ``sweep``, or found done by it, and that nobody holds."""
    for key, row in ledger.states(ledger.members(sweep), sweep).items():
        folder = TrialFolder(home.trial_folder(key))
        if is_held(row, ledger, home) or not folder.exists:
            continue
        if folder.has_result:
            is_news = row.state.has_ended or row.sweep == sweep
        else:  # what ended on another machine is told by that: here lies an attempt that others have left behind
            is_news = not row.state.has_ended and row.sweep == sweep and (folder.path / TrialFile.PROGRESS).exists()
        if is_news:
            yield folder


def is_held(row: LedgerRow, ledger: Ledger, home: Home) -> bool:
    """Whether somebody alive may be working on the trial."""
    return row.is_held(ledger.now_s()) and row.owner is not None and not home.is_dead(row.owner)


class Patience:
    """Tries again what fails for the server's sake, for ``patience_s`` each time.

    Raises:
        TrackingError: it still fails, or the server refuses this one request.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s

    def __call__(self, work: Callable[[], T]) -> T:
        deadline_s, pause_s = time.monotonic() + self._patience_s, 1.0
        while True:
            try:
                return work()
            except RefusedError:
                raise
            except TrackingError as error:
                if time.monotonic() + pause_s > deadline_s:
                    raise
                message = f"no answer yet, asked again in {pause_s:.0f} s: {error}"
                Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
