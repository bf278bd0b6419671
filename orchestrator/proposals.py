"""Configurations under way: which trials each still waits for, and what the search is told when all have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.trial import TrialState

if TYPE_CHECKING:
    from orchestrator.configuration import Configuration

OBJECTIVE = "val/miou"
"""The metric that values a trial."""


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
