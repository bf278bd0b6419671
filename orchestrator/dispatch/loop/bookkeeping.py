"""The dispatcher's books: whatever becomes of a trial is entered here, once for all who want to know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.dispatch.loop.endings import Ending
from orchestrator.dispatch.loop.ports import Outcomes, Search, Shared, TrialOutcome
from orchestrator.state.ledger import LedgerRow
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialSpec, TrialState

if TYPE_CHECKING:
    from orchestrator.planning.configuration import Configuration


@dataclass
class Proposal:
    """One proposal of the search. The same configuration may be proposed again: it gets the same value.

    is_given_up: a pruner has found it worse than others.
    """

    configuration: Configuration
    keys: tuple[str, ...]
    open_keys: set[str] = field(default_factory=set)
    is_given_up: bool = False


@dataclass(frozen=True)
class _End:
    """How a trial ended."""

    state: TrialState
    value: float | None
    reason: str | None


class Proposals:
    """Values each configuration by the mean over its trials. A trial's end is entered once, proposals at any time."""

    def __init__(self) -> None:
        self._ends: dict[str, _End] = {}
        self._containing: defaultdict[str, list[Proposal]] = defaultdict(list)

    def add(self, configuration: Configuration, keys: Iterable[str]) -> list[Proposal]:
        """Note a proposal; returns it if it is ready, because all its trials have ended before."""
        names = tuple(keys)
        proposal = Proposal(configuration, names, {key for key in names if key not in self._ends})
        for key in names:
            self._containing[key].append(proposal)
        return [] if proposal.open_keys else [proposal]

    def end(self, key: str, state: TrialState, value: float | None, *, reason: str | None = None) -> list[Proposal]:
        """Enter a trial's end; returns the proposals that are ready now. reason: which trial it was, and why it has no value."""
        self._ends[key] = _End(state, value, reason)
        ready = []
        for proposal in self._containing[key]:
            if key in proposal.open_keys:
                proposal.open_keys.discard(key)
                if not proposal.open_keys:
                    ready.append(proposal)
        return ready

    def give_up(self, key: str) -> list[str]:
        """Give up the configurations that a trial is of; returns their trials that have not ended and nobody else waits for."""
        for proposal in self._containing[key]:
            proposal.is_given_up = True
        beside = {other for proposal in self._containing[key] for other in proposal.open_keys}
        return sorted(other for other in beside if self.is_needless(other))

    def is_needless(self, key: str) -> bool:
        """Whether a trial that has not ended is waited for by given up configurations only: also by those with a pruned trial."""
        waiting = [proposal for proposal in self._containing[key] if key in proposal.open_keys]
        return bool(waiting) and all(proposal.is_given_up or self._is_pruned(proposal) for proposal in waiting)

    def value_of(self, proposal: Proposal) -> tuple[float | None, TrialState]:
        """The mean and COMPLETE where every trial is complete; else None and PRUNED or, failures first, FAILED."""
        ends = [self._ends[key] for key in proposal.keys]
        for state in (TrialState.FAILED, TrialState.PRUNED):
            if any(end.state is state for end in ends):
                return None, state
        values: Sequence[float] = [end.value for end in ends if end.value is not None]
        if len(values) < len(ends):  # complete, but without this metric
            return None, TrialState.FAILED
        return sum(values) / len(values), TrialState.COMPLETE

    def reason_of(self, proposal: Proposal) -> str | None:
        """Why a configuration has no value: the reason of the first trial that failed or, without failures, was pruned."""
        _, state = self.value_of(proposal)
        if state is TrialState.COMPLETE:
            return None
        ends = [self._ends[key] for key in proposal.keys]
        reasons = [end.reason or str(end.state) for end in ends if end.state is state]
        if not reasons:
            return f"complete, but without {OBJECTIVE}"
        more = f"; and {len(reasons) - 1} more of its {len(ends)} trials" if len(reasons) > 1 else ""
        return f"{reasons[0]}{more}"

    def _is_pruned(self, proposal: Proposal) -> bool:
        return any(key in self._ends and self._ends[key].state is TrialState.PRUNED for key in proposal.keys)


class Books:
    """Keeps ledger, search, mirror, monitor and outcomes in step for one dispatcher. Used by one thread."""

    def __init__(self, shared: Shared, search: Search, folder_of: Callable[[TrialSpec], TrialFolder]) -> None:
        self._sweep, self._owner, self._ledger = shared.sweep, shared.owner, shared.ledger
        self._tracker, self._monitor, self._disk = shared.tracker, shared.monitor, shared.disk
        self._search = search
        self._folder_of = folder_of
        self._outcomes = Outcomes()
        self._proposals = Proposals()
        self._given_up: set[str] = set()

    def take_in(self, configuration: Configuration, trials: Sequence[TrialSpec]) -> list[tuple[TrialSpec, LedgerRow]]:
        """Enter a proposal; returns those of its trials that were not known here yet, with what the ledger knows of them."""
        new = [spec for spec in trials if spec.key not in self._outcomes]
        self._ledger.register(self._sweep, [(spec.key, configuration.id) for spec in new])
        rows = self._ledger.states([spec.key for spec in new], self._sweep)
        self._tell(self._proposals.add(configuration, [spec.key for spec in trials]))
        for spec in new:
            self._outcomes.note(spec, TrialState.WAITING, attempts=rows[spec.key].attempt)
        return [(spec, rows[spec.key]) for spec in new]

    def begin(self, spec: TrialSpec, attempt: int) -> None:
        """A trial of ours is being started."""
        self._outcomes.note(spec, TrialState.RUNNING, attempts=attempt)

    def take_back(self, spec: TrialSpec, attempt: int) -> None:
        """It could not be started: that was no attempt."""
        self._ledger.give_back(spec.key, self._owner)
        self._outcomes.note(spec, TrialState.WAITING, attempts=attempt - 1)

    def finish(self, spec: TrialSpec, ending: Ending) -> None:
        """Enter how a trial of ours ended, and settle it."""
        state = TrialState.COMPLETE if ending.state is TrialState.CACHED else ending.state
        self._ledger.finish(spec.key, self._owner, state, ending.reason)
        self.settle(spec, ending)

    def settle(self, spec: TrialSpec, ending: Ending, *, attempts: int | None = None) -> None:
        """Tell everybody how a trial ended, whoever ran it; attempts: of all who tried, where others did."""
        self._outcomes.note(spec, ending.state, result=ending.result, attempts=attempts, reason=ending.reason)
        self._mirror_end(spec, ending)
        self._monitor.ended(spec, ending.state, ending.result, ending.reason)
        value = ending.result.metrics.get(OBJECTIVE) if ending.result else None
        is_complete = ending.state in (TrialState.COMPLETE, TrialState.CACHED)
        if is_complete and value is not None and self._search.report_end(spec, value):
            self._given_up.update(self._proposals.give_up(spec.key))
        reason = None if is_complete else f"{spec.name}: {ending.reason}"
        self._tell(self._proposals.end(spec.key, ending.state, value, reason=reason))

    def report(self, spec: TrialSpec, event: Event) -> None:
        """Tell of an epoch of ours; the search may then give its configuration up."""
        self._monitor.epoch(spec, event)
        value = event.metrics.get(OBJECTIVE)
        if event.epoch is not None and value is not None and self._search.report(spec, event.epoch, value):
            self._given_up.update(self._proposals.give_up(spec.key))

    def take_given_up(self) -> set[str]:
        """Keys of trials that need not be trained on, told once."""
        given_up, self._given_up = self._given_up, set()
        return given_up

    def is_needless(self, spec: TrialSpec) -> bool:
        """Whether only configurations that were given up wait for the trial."""
        return self._proposals.is_needless(spec.key)

    def release(self, spec: TrialSpec, ending: Ending) -> None:
        """Give a trial back that can be gone on with: by us, by whoever works on it, or after a stop by the next run."""
        self._ledger.release(spec.key, self._owner)
        self._mirror_end(spec, ending)
        self.wait(spec, ending.reason, failed=ending.result)

    def wait(self, spec: TrialSpec, reason: str | None, *, failed: TrialResult | None = None) -> None:
        """Show that a trial is not done, and why."""
        self._outcomes.note(spec, TrialState.WAITING, reason=reason)
        self._monitor.ended(spec, TrialState.WAITING, failed, reason)

    def has_ended(self, spec: TrialSpec) -> bool:
        return self._outcomes.has_ended(spec)

    def outcomes(self) -> tuple[TrialOutcome, ...]:
        """How each trial stands, in the order in which they were proposed."""
        return self._outcomes.in_order()

    def _tell(self, ready: Iterable[Proposal]) -> None:
        for proposal in ready:
            reason = self._proposals.reason_of(proposal)
            self._search.tell(proposal.configuration, *self._proposals.value_of(proposal), reason=reason)

    def _mirror_end(self, spec: TrialSpec, ending: Ending) -> None:
        if ending.has_record:
            folder = self._folder_of(spec)
            self._disk.note(folder.path)
            self._tracker.mirror(self._sweep, folder, ended=True)
