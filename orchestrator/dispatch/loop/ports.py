"""What the dispatcher is handed (search, tracker, monitor) and what it hands back (outcomes)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialResult, TrialSpec, TrialState

if TYPE_CHECKING:
    from orchestrator.planning.configuration import Configuration
    from orchestrator.state.disk import DiskSpace
    from orchestrator.state.ledger import Ledger
    from orchestrator.state.trial.checkpoint import Fetched


class Search(Protocol):
    """Where configurations come from."""

    def propose(self) -> Configuration | None:
        """The next configuration; None where there is none now, perhaps until something is told."""

    def tell(self, configuration: Configuration, value: float | None, state: TrialState, *, reason: str | None = None) -> None:
        """The mean over the configuration's trials; None with PRUNED or FAILED, and then why."""

    def report(self, trial: TrialSpec, epoch: int, value: float) -> bool:
        """Enter an epoch's value; True: nothing of the trial's configuration need be trained on."""

    def report_end(self, trial: TrialSpec, value: float) -> bool:
        """Enter a complete trial's value; True: no other trial of its configuration need be trained."""

    def may_begin(self) -> bool:
        """Whether the budget of time lets a trial that waits be started; once False, always."""

    def spend(self, gpu_s: float) -> None:
        """Count GPU time that attempts have taken since the last call."""

    def reconcile(self) -> None:
        """Give up proposals whose dispatcher has died."""

    def close(self) -> None:
        """Give back what is unfinished."""


class Tracker(Protocol):
    """Where trials are shown to the team."""

    def mirror(self, sweep: str, folder: TrialFolder, ended: bool) -> None:
        """Note that a folder has news, or that its attempt has ended. Never blocks, may be repeated."""

    def close(self, timeout_s: float) -> list[TrialFolder]:
        """Send what is left; returns the folders that are not mirrored yet."""


class CheckpointSource(Protocol):
    """Where checkpoints of trials are kept that another machine has begun."""

    def fetch(self, key: str, target: Path, *, after: int) -> Fetched:
        """Bring the latest of a trial into the folder ``target``, if it is of a later epoch than ``after``.

        Raises:
            TrackingError: it cannot be asked now.
        """


class Monitor(Protocol):
    """Who watches a sweep run. Called in the dispatcher's thread."""

    def started(self, spec: TrialSpec, attempt: int) -> None: ...

    def epoch(self, spec: TrialSpec, event: Event) -> None: ...

    def ended(self, spec: TrialSpec, state: TrialState, result: TrialResult | None, reason: str | None) -> None:
        """How a trial ended; WAITING: it is to be run (again) by us or by others, and ``reason`` says why.

        A ``result`` with WAITING is a failure that is tried again.
        """


class NoMonitor:
    """Nobody watches."""

    def started(self, spec: TrialSpec, attempt: int) -> None:
        """Pass over it."""

    def epoch(self, spec: TrialSpec, event: Event) -> None:
        """Pass over it."""

    def ended(self, spec: TrialSpec, state: TrialState, result: TrialResult | None, reason: str | None) -> None:
        """Pass over it."""


@dataclass(frozen=True)
class Shared:
    """What the parts of one dispatcher have in common."""

    sweep: str
    owner: str
    ledger: Ledger
    tracker: Tracker
    monitor: Monitor
    disk: DiskSpace


class TrialOutcome(NamedTuple):
    """What became of a trial. WAITING: not run, or stopped and to be gone on with."""

    spec: TrialSpec
    state: TrialState
    result: TrialResult | None
    attempts: int
    reason: str | None = None
    """Why it failed, was pruned or waits, in one line."""


@dataclass(frozen=True)
class Outcome:
    """What became of a sweep; trials in the order in which they were proposed."""

    trials: tuple[TrialOutcome, ...]
    interrupted: bool
    wall_s: float
    halted: str | None = None
    """Why no more trials were started, such as a full disk, and what to do; those not run are WAITING."""


class Outcomes:
    """How each trial of a running sweep stands, in the order in which they were proposed."""

    def __init__(self) -> None:
        self._by_key: dict[str, TrialOutcome] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def note(
        self,
        spec: TrialSpec,
        state: TrialState,
        *,
        result: TrialResult | None = None,
        attempts: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Enter a state; ``attempts`` None leaves their number as it is."""
        if attempts is None:
            attempts = self._by_key[spec.key].attempts
        self._by_key[spec.key] = TrialOutcome(spec, state, result, attempts, reason)

    def has_ended(self, spec: TrialSpec) -> bool:
        return self._by_key[spec.key].state not in (TrialState.WAITING, TrialState.RUNNING)

    def in_order(self) -> tuple[TrialOutcome, ...]:
        return tuple(self._by_key.values())
