"""What a dispatcher is given (session, ports, policy, planned trials) and what it returns (outcomes)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from orchestrator.launchers.base import Launcher
from orchestrator.spec.sections import KeepSpec, LimitsSpec, RetrySpec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.checkpoint import Fetched
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialResult, TrialSpec, TrialState


class PlannedTrial(Protocol):
    """One training of the plan, as the dispatcher sees it."""

    @property
    def spec(self) -> TrialSpec: ...

    @property
    def round(self) -> int:
        """Trials of a lower round start first, even if the search has to propose further configurations for that."""

    @property
    def data_folder(self) -> Path:
        """The prepared data on this machine."""

    @property
    def label(self) -> Any:
        """How the tracker labels the trial's run in this sweep."""


class Configuration(Protocol):
    """What a search proposes. The dispatcher reads its id and passes it back."""

    @property
    def id(self) -> str: ...


class Search(Protocol):
    """Where configurations come from."""

    def propose(self) -> Configuration | None:
        """The next configuration; None if there is none now, perhaps until a result is known."""

    def trials_of(self, configuration: Any) -> Sequence[PlannedTrial]:
        """The trials of a proposed configuration, in the order in which they start."""

    def tell(self, configuration: Any, value: float | None, state: TrialState, *, reason: str | None = None) -> None:
        """Record the mean over the configuration's trials; None with PRUNED or FAILED and the reason."""

    def report(self, trial: TrialSpec, epoch: int, value: float) -> bool:
        """Record an epoch's value; True: stop training all trials of the configuration."""

    def report_end(self, trial: TrialSpec, value: float) -> bool:
        """Record a complete trial's value; True: train no other trial of the configuration."""

    def may_begin(self) -> bool:
        """Whether the time budget allows another trial to start; once False, always False."""

    def spend(self, gpu_s: float) -> None:
        """Count GPU time that attempts used since the last call."""

    def reconcile(self) -> None:
        """Release proposals of dispatchers that died."""

    def close(self) -> None:
        """Return unfinished proposals."""


class Tracker(Protocol):
    """Where the team sees the trials."""

    def label(self, sweep: str, labels: dict[str, Any]) -> None:
        """Set how this sweep labels the runs of trials, by key."""

    def mirror(self, sweep: str, folder: TrialFolder, ended: bool) -> None:
        """Queue a trial folder for mirroring. Never blocks and may be repeated."""


class CheckpointSource(Protocol):
    """Where other machines store the checkpoints of their trials."""

    def fetch(self, key: str, target: Path, *, after: int) -> Fetched:
        """Download a trial's latest checkpoint into the folder ``target`` if its epoch is later than ``after``.

        Raises:
            TrackingError: the server does not answer now.
        """


FindResult = Callable[[TrialSpec], TrialResult | None]
"""Looks up a complete trial's result outside its folder, in the dispatcher's thread; may raise TrackingError."""


class Monitor(Protocol):
    """Watches a sweep. Called in the dispatcher's thread."""

    def started(self, spec: TrialSpec, attempt: int) -> None: ...

    def epoch(self, spec: TrialSpec, event: Event) -> None: ...

    def ended(self, spec: TrialSpec, state: TrialState, result: TrialResult | None, reason: str | None) -> None:
        """An attempt ended. WAITING: the trial will run again, here or elsewhere; with a ``result``, because it failed."""


@dataclass(frozen=True)
class Session:
    """One dispatcher's work on one sweep. owner: its name in the ledger."""

    sweep: str
    owner: str
    home: Home
    ledger: Ledger

    def folder_of(self, spec: TrialSpec) -> TrialFolder:
        return TrialFolder(self.home.trial_folder(spec.key))


@dataclass(frozen=True)
class Ports:
    """The systems around a dispatcher. open_checkpoints: opens the checkpoint store of other machines, in a separate thread."""

    search: Search
    launcher: Launcher
    tracker: Tracker
    monitor: Monitor
    find_result: FindResult | None = None
    open_checkpoints: Callable[[], CheckpointSource] | None = None


@dataclass(frozen=True)
class Policy:
    """The rules of the sweep file. leave_after_s: exit after this many seconds in which only others had work; None: never."""

    retry: RetrySpec = field(default_factory=RetrySpec)
    limits: LimitsSpec = field(default_factory=LimitsSpec)
    keep: KeepSpec = field(default_factory=KeepSpec)
    leave_after_s: float | None = None


class TrialOutcome(NamedTuple):
    """A trial at the end of the dispatcher's run. WAITING: not started, or stopped with a checkpoint."""

    spec: TrialSpec
    state: TrialState
    result: TrialResult | None
    attempts: int
    reason: str | None = None
    """Why it failed, was pruned or waits, in one line."""


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep at the end of the dispatcher's run; trials in the order in which they were proposed."""

    trials: tuple[TrialOutcome, ...]
    interrupted: bool
    wall_s: float
    halted: str | None = None
    """Why no more trials could start, such as a full disk, and what to do; trials that did not run are WAITING."""
