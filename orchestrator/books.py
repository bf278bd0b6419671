"""The dispatcher's books: whatever becomes of a trial is entered here, once for all who want to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from orchestrator.exits import Ending
from orchestrator.ledger import LedgerRow
from orchestrator.parts import Outcomes, Search, Shared, TrialOutcome
from orchestrator.proposals import OBJECTIVE, Proposal, Proposals
from orchestrator.trial import Event, TrialFolder, TrialResult, TrialSpec, TrialState

if TYPE_CHECKING:
    from orchestrator.configuration import Configuration


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
