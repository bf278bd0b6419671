"""Records what happens to each trial in ledger, search, mirror and monitor, and values configurations by their trials."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.dispatch.loop.outcomes import AttemptOutcome
from orchestrator.dispatch.loop.ports import Configuration, PlannedTrial, Ports, Session, TrialOutcome
from orchestrator.state.disk import DiskSpace
from orchestrator.state.ledger import LedgerRow
from orchestrator.state.trial.records import OBJECTIVE, Event, TrialResult, TrialSpec, TrialState


@dataclass
class Proposal:
    """One proposal of the search; the same configuration may be proposed again and gets the same value.

    is_given_up: the pruner stopped it.
    """

    configuration: Configuration
    keys: tuple[str, ...]
    is_given_up: bool = False


@dataclass(frozen=True)
class _End:
    state: TrialState
    value: float | None
    reason: str | None


class Proposals:
    """Values each configuration by the mean over its trials. Each trial ends once; proposals may come at any time."""

    def __init__(self) -> None:
        self._ends: dict[str, _End] = {}
        self._containing: defaultdict[str, list[Proposal]] = defaultdict(list)

    def add(self, configuration: Configuration, keys: Iterable[str]) -> list[Proposal]:
        """Add a proposal; returns it if it is ready because all its trials have ended already."""
        proposal = Proposal(configuration, tuple(keys))
        for key in proposal.keys:
            self._containing[key].append(proposal)
        return [] if self._open_keys(proposal) else [proposal]

    def end(self, key: str, state: TrialState, value: float | None, *, reason: str | None = None) -> list[Proposal]:
        """Record how a trial ended; returns the proposals that are now ready. reason: the trial's name and its failure."""
        self._ends[key] = _End(state, value, reason)
        return [proposal for proposal in self._containing[key] if not self._open_keys(proposal)]

    def give_up(self, key: str) -> list[str]:
        """Give up a trial's configurations; returns their open trials that no other configuration waits for."""
        for proposal in self._containing[key]:
            proposal.is_given_up = True
        beside = {other for proposal in self._containing[key] for other in self._open_keys(proposal)}
        return sorted(other for other in beside if self.is_unneeded(other))

    def is_unneeded(self, key: str) -> bool:
        """Whether only configurations that were given up, or that have a pruned trial, wait for an open trial."""
        waiting = [] if key in self._ends else self._containing[key]
        return bool(waiting) and all(
            proposal.is_given_up or any(end.state is TrialState.PRUNED for end in self._ends_of(proposal)) for proposal in waiting
        )

    def value_of(self, proposal: Proposal) -> tuple[float | None, TrialState, str | None]:
        """The mean and COMPLETE if every trial is complete; else None, FAILED or, without failures, PRUNED, and the reason."""
        ends = self._ends_of(proposal)
        for state in (TrialState.FAILED, TrialState.PRUNED):
            if reasons := [end.reason or str(end.state) for end in ends if end.state is state]:
                more = f"; and {len(reasons) - 1} more of its {len(ends)} trials" if len(reasons) > 1 else ""
                return None, state, f"{reasons[0]}{more}"
        values = [end.value for end in ends if end.value is not None]
        if len(values) < len(ends):
            return None, TrialState.FAILED, f"complete, but without {OBJECTIVE}"
        return sum(values) / len(values), TrialState.COMPLETE, None

    def _open_keys(self, proposal: Proposal) -> list[str]:
        return [key for key in proposal.keys if key not in self._ends]

    def _ends_of(self, proposal: Proposal) -> list[_End]:
        return [self._ends[key] for key in proposal.keys if key in self._ends]


class Bookkeeping:
    """Keeps ledger, search, mirror, monitor and outcomes consistent for one dispatcher. Used by one thread."""

    def __init__(self, session: Session, ports: Ports, disk: DiskSpace) -> None:
        self._session, self._ledger = session, session.ledger
        self._search, self._tracker, self._monitor = ports.search, ports.tracker, ports.monitor
        self._disk = disk
        self._outcomes: dict[str, TrialOutcome] = {}
        self._proposals = Proposals()
        self._given_up: set[str] = set()

    def add_proposal(self, configuration: Configuration, trials: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, LedgerRow]]:
        """Record a proposal; returns those of its trials that are new to this dispatcher, with their rows in the ledger."""
        sweep = self._session.sweep
        new = [trial for trial in trials if trial.spec.key not in self._outcomes]
        self._tracker.label(sweep, {trial.spec.key: trial.label for trial in trials})
        self._ledger.register(sweep, [(trial.spec.key, configuration.id) for trial in new])
        rows = self._ledger.states([trial.spec.key for trial in new], sweep)
        self._report_values(self._proposals.add(configuration, [trial.spec.key for trial in trials]))
        for trial in new:
            self._note(trial.spec, TrialState.WAITING, attempts=rows[trial.spec.key].attempt)
        return [(trial, rows[trial.spec.key]) for trial in new]

    def start(self, spec: TrialSpec, attempt: int) -> None:
        self._note(spec, TrialState.RUNNING, attempts=attempt)

    def take_back(self, spec: TrialSpec, attempt: int) -> None:
        """Undo ``start``: the launch failed, and that counts as no attempt."""
        self._ledger.give_back(spec.key, self._session.owner)
        self._note(spec, TrialState.WAITING, attempts=attempt - 1)

    def finish(self, spec: TrialSpec, outcome: AttemptOutcome) -> None:
        """Record how a trial of this dispatcher ended, in the ledger first."""
        state = TrialState.COMPLETE if outcome.state is TrialState.CACHED else outcome.state
        self._ledger.finish(spec.key, self._session.owner, state, outcome.reason)
        self.record(spec, outcome)

    def record(self, spec: TrialSpec, outcome: AttemptOutcome, *, attempts: int | None = None) -> None:
        """Report how a trial ended, whoever ran it. attempts: total over all dispatchers, if others ran it."""
        self._note(spec, outcome.state, result=outcome.result, attempts=attempts, reason=outcome.reason)
        self._mirror_end(spec, outcome)
        self._monitor.ended(spec, outcome.state, outcome.result, outcome.reason)
        value = outcome.result.metrics.get(OBJECTIVE) if outcome.result else None
        is_complete = outcome.state in (TrialState.COMPLETE, TrialState.CACHED)
        if is_complete and value is not None and self._search.report_end(spec, value):
            self._given_up.update(self._proposals.give_up(spec.key))
        reason = None if is_complete else f"{spec.name}: {outcome.reason}"
        self._report_values(self._proposals.end(spec.key, outcome.state, value, reason=reason))

    def record_epoch(self, spec: TrialSpec, event: Event) -> None:
        """Report an epoch of a running trial; the search may then give its configuration up."""
        self._monitor.epoch(spec, event)
        value = event.metrics.get(OBJECTIVE)
        if event.epoch is not None and value is not None and self._search.report(spec, event.epoch, value):
            self._given_up.update(self._proposals.give_up(spec.key))

    def take_given_up(self) -> set[str]:
        """Keys of trials whose training can stop; each is returned once."""
        given_up, self._given_up = self._given_up, set()
        return given_up

    def is_unneeded(self, spec: TrialSpec) -> bool:
        """Whether only configurations that were given up wait for the trial."""
        return self._proposals.is_unneeded(spec.key)

    def release(self, spec: TrialSpec, outcome: AttemptOutcome) -> None:
        """Release the claim on a trial that can be resumed, here, by another dispatcher or by the next run."""
        self._ledger.release(spec.key, self._session.owner)
        self._mirror_end(spec, outcome)
        self.wait(spec, outcome.reason, failed=outcome.result)

    def wait(self, spec: TrialSpec, reason: str | None, *, failed: TrialResult | None = None) -> None:
        """Record that a trial is not done, and why."""
        self._note(spec, TrialState.WAITING, reason=reason)
        self._monitor.ended(spec, TrialState.WAITING, failed, reason)

    def has_ended(self, spec: TrialSpec) -> bool:
        return self._outcomes[spec.key].state not in (TrialState.WAITING, TrialState.RUNNING)

    def outcomes(self) -> tuple[TrialOutcome, ...]:
        """Every trial's outcome so far, in the order in which they were proposed."""
        return tuple(self._outcomes.values())

    def _note(
        self,
        spec: TrialSpec,
        state: TrialState,
        *,
        result: TrialResult | None = None,
        attempts: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Set a trial's outcome; ``attempts`` None keeps their number."""
        if attempts is None:
            attempts = self._outcomes[spec.key].attempts
        self._outcomes[spec.key] = TrialOutcome(spec, state, result, attempts, reason)

    def _report_values(self, ready: Iterable[Proposal]) -> None:
        for proposal in ready:
            value, state, reason = self._proposals.value_of(proposal)
            self._search.tell(proposal.configuration, value, state, reason=reason)

    def _mirror_end(self, spec: TrialSpec, outcome: AttemptOutcome) -> None:
        if outcome.has_record:
            folder = self._session.folder_of(spec)
            self._disk.note(folder.path)
            self._tracker.mirror(self._session.sweep, folder, ended=True)
