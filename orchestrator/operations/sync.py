"""`orchestrate sync`: brings MLflow into agreement with ledger and trial folders after an outage or manual changes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from rich.console import Console

from orchestrator.errors import TrackingError, TrialError
from orchestrator.planning.shared import read_shared_plan
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, LedgerRow
from orchestrator.state.trial.folder import TrialFile, TrialFolder, is_worked_on
from orchestrator.state.units import format_count
from orchestrator.tracking.location import RefusedError, TrackingLocation

LONGEST_PAUSE_S = 8.0


T = TypeVar("T")


@dataclass(frozen=True)
class SyncedSweep:
    """What was done for a sweep. checked: number of trials with results or attempts on this machine.

    sent: key -> run id. refused: key -> reason. closed: keys of RUNNING runs that no process worked on. problem: why the server
    could not be used, or not to the end.
    """

    sweep: str
    checked: int
    sent: Mapping[str, str]
    closed: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None

    def describe(self) -> str:
        """For people: one line, and one per problem."""
        count = format_count(self.checked, "trial")
        done = [f"{len(self.sent)} of {count} sent" if self.sent or self.problem else f"{count} checked, nothing was missing"]
        if self.closed:
            done.append(f"{format_count(len(self.closed), 'abandoned run')} closed")
        problems = [f"  {key}: {reason}" for key, reason in self.refused.items()]
        if self.problem:
            problems.append(f"  not complete yet: {self.problem}")
        return "\n".join([f"{self.sweep}: {', '.join(done)}", *problems])


@dataclass(frozen=True)
class SyncReport:
    """What ``orchestrate sync`` prints."""

    location: str
    sweeps: tuple[SyncedSweep, ...]

    @property
    def exit_code(self) -> int:
        """0: MLflow has everything; 1: something is still missing."""
        return int(any(sweep.problem or sweep.refused for sweep in self.sweeps))

    def to_json(self) -> dict[str, Any]:
        return {"tracking": self.location, "sweeps": [asdict(sweep) for sweep in self.sweeps]}

    def render(self) -> str:
        return "\n".join(sweep.describe() for sweep in self.sweeps) or "There are no sweeps in the ledger."


def sync(sweeps: Sequence[str] = (), patience_s: float = 60.0) -> SyncReport:
    """Send what MLflow lacks of these sweeps, or of all in the ledger.

    patience_s: how long to retry a request to a server that does not answer.

    Raises:
        SpecError: there is no such sweep.
        TrackingError: the ledger cannot be used.
    """
    home = Home.from_environment()
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps(sweeps)
    done: list[SyncedSweep] = []
    for sweep in sweeps or ledger.sweeps():
        done.append(_sync_sweep(sweep, home=home, ledger=ledger, patience_s=patience_s))
        if done[-1].problem:  # the other sweeps would fail as well
            break
    return SyncReport(str(TrackingLocation.of(home)), tuple(done))


def _sync_sweep(sweep: str, *, home: Home, ledger: Ledger, patience_s: float) -> SyncedSweep:
    from orchestrator.tracking.mirror.recorder import Recorder  # imports mlflow, which takes seconds
    from orchestrator.tracking.mirror.repair import find_missing

    location = TrackingLocation.of(home)
    patiently = partial(_retry, patience_s=patience_s)
    shared = read_shared_plan(ledger, sweep)
    labels = shared.labels if shared else {}
    folders = [folder for folder in list_idle(sweep, home=home, ledger=ledger) if not is_worked_on(folder)]
    sent: dict[str, str] = {}
    refused: dict[str, str] = {}

    def live_keys() -> set[str]:
        return {key for key, row in ledger.states(ledger.members(sweep)).items() if is_held(row, ledger, home)}

    try:
        recorder = patiently(lambda: Recorder(location))
        missing, closed = patiently(lambda: find_missing(recorder, sweep, folders, live_keys))
        for folder in missing:
            key = folder.path.name
            try:
                sent[key] = patiently(partial(recorder.send, sweep, folder, ended=True, label=labels.get(key)))
            except (RefusedError, TrialError) as error:  # concerns this trial alone: the others can be sent
                refused[key] = str(error)
    except TrackingError as error:
        return SyncedSweep(sweep, len(folders), sent, refused=refused, problem=str(error))
    return SyncedSweep(sweep, len(folders), sent, closed=closed, refused=refused)


def list_idle(sweep: str, *, home: Home, ledger: Ledger) -> Iterator[TrialFolder]:
    """Folders on this machine of the sweep's trials that no dispatcher holds and that may have something to send."""
    for key, row in ledger.states(ledger.members(sweep), sweep).items():
        folder = TrialFolder(home.trial_folder(key))
        if is_held(row, ledger, home) or not folder.has_trial:
            continue
        if folder.has_result:
            is_news = row.state.has_ended or row.sweep == sweep
        else:  # a trial that ended on another machine is sent from there; only an abandoned attempt lies here
            is_news = not row.state.has_ended and row.sweep == sweep and (folder.path / TrialFile.PROGRESS).exists()
        if is_news:
            yield folder


def is_held(row: LedgerRow, ledger: Ledger, home: Home) -> bool:
    """Whether a living dispatcher may be working on the trial."""
    return row.is_held(ledger.now_s()) and row.owner is not None and not home.is_dead(row.owner)


def _retry(work: Callable[[], T], *, patience_s: float) -> T:
    """Retry what fails because of the server, for ``patience_s``, unless it refuses this one request."""
    deadline_s, pause_s = time.monotonic() + patience_s, 1.0
    while True:
        try:
            return work()
        except RefusedError:
            raise
        except TrackingError as error:
            if time.monotonic() + pause_s > deadline_s:
                raise
            message = f"no answer yet, next try in {pause_s:.0f} s: {error}"
            Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
