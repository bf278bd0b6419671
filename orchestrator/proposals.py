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
    """One proposal of the search. The same configuration may be proposed again: it gets the same value."""

    configuration: Configuration
    keys: tuple[str, ...]
    open_keys: set[str] = field(default_factory=set)


class Proposals:
    """Values each configuration by the mean over its trials. A trial's end is entered once, proposals at any time."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[TrialState, float | None]] = {}
        self._waiting_for: defaultdict[str, list[Proposal]] = defaultdict(list)

    def add(self, configuration: Configuration, keys: Iterable[str]) -> list[Proposal]:
        """Note a proposal; returns it if it is ready, because all its trials have ended before."""
        names = tuple(keys)
        proposal = Proposal(configuration, names, {key for key in names if key not in self._ends})
        for key in proposal.open_keys:
            self._waiting_for[key].append(proposal)
        return [] if proposal.open_keys else [proposal]

    def end(self, key: str, state: TrialState, value: float | None) -> list[Proposal]:
        """Enter a trial's end; returns the proposals that are ready now."""
        self._ends[key] = (state, value)
        ready = []
        for proposal in self._waiting_for.pop(key, []):
            proposal.open_keys.discard(key)
            if not proposal.open_keys:
                ready.append(proposal)
        return ready

    def value_of(self, proposal: Proposal) -> tuple[float | None, TrialState]:
        """The mean and COMPLETE where every trial is complete; else None and PRUNED or, failures first, FAILED."""
        ends = [self._ends[key] for key in proposal.keys]
        for state in (TrialState.FAILED, TrialState.PRUNED):
            if any(ended is state for ended, _ in ends):
                return None, state
        values: Sequence[float] = [value for _, value in ends if value is not None]
        if len(values) < len(ends):  # complete, but without this metric
            return None, TrialState.FAILED
        return sum(values) / len(values), TrialState.COMPLETE
