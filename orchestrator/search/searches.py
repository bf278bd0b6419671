"""The search of a sweep: proposes, records, learns, gives up, and ends; what the dispatcher knows as parts.Search.

Optuna's trials are our configurations. The study is a record that agrees with the rest, never a lock: who may run a trial is the
ledger's decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Protocol

from orchestrator.configuration import Configuration
from orchestrator.search.limits import Limits
from orchestrator.search.pruning import Pruning
from orchestrator.search.records import identify
from orchestrator.search.sampling import Dimension
from orchestrator.search.storage import told
from orchestrator.search.study import Study
from orchestrator.trial import TrialSpec, TrialState


class Proposer(Protocol):
    """Which configuration comes next.

    stopped_because: why not all was proposed that the file asks for, where it was not.
    """

    stopped_because: str | None

    def propose(self) -> Configuration | None:
        """The next configuration; None where there is none now. With a budget used up, only what needs no training."""


class StudySearch:
    """A proposer whose configurations are recorded in a study, pruned and limited. Used by one thread.

    Every method may raise TrackingError.

    dimensions: of the space, by path. ended: configurations, by their identity in the study, that need no more training.
    """

    def __init__(
        self,
        proposer: Proposer,
        study: Study,
        *,
        dimensions: Mapping[str, Dimension],
        ended: Set[str],
        pruning: Pruning,
        limits: Limits,
    ) -> None:
        self._proposer, self._study = proposer, study
        self._dimensions, self._ended = dimensions, ended
        self._pruning, self._limits = pruning, limits
        self._spent: str | None = None

    @property
    def stopped_because(self) -> str | None:
        """Why the search ended before it was through, for people."""
        return self._spent or self._proposer.stopped_because

    @told()
    def propose(self) -> Configuration | None:
        """The next configuration, from now on recorded as running; None where there is none now."""
        configuration = self._proposer.propose()
        if configuration is not None:
            self._pruning.take_in(configuration)
            if identify(configuration) not in self._ended:
                self._study.start(configuration, self._dimensions)
        return configuration

    @told()
    def tell(self, configuration: Configuration, value: float | None, state: TrialState, *, reason: str | None = None) -> None:
        """Enter how a configuration ended: the mean over its trials, or None and why it failed. WAITING gives it back."""
        self._study.finish(configuration, self._dimensions, value=value, state=state, reason=reason)

    @told()
    def report(self, trial: TrialSpec, epoch: int, value: float) -> bool:
        """Enter an epoch's val/miou; True: nothing of the trial's configuration need be trained on."""
        return self._pruning.report(trial, epoch, value)

    @told()
    def report_end(self, trial: TrialSpec, value: float) -> bool:
        """Enter a complete trial's val/miou; True: no other trial of its configuration need be trained."""
        return self._pruning.report_end(trial, value)

    @told()
    def may_begin(self) -> bool:
        """Whether the budget of time lets a trial that waits be started; once False, always."""
        self._spent = self._spent or self._limits.why_spent()
        return self._spent is None

    @told()
    def spend(self, gpu_s: float) -> None:
        """Count GPU time that attempts of this dispatcher have taken since the last call."""
        self._limits.spend(gpu_s)

    @told()
    def reconcile(self) -> None:
        """Give back what dead dispatchers left running."""
        self._study.give_back()

    @told()
    def close(self) -> None:
        """Give back what this dispatcher leaves unfinished, so that nothing is shown as running."""
        self._limits.close()
        self._study.give_back_own()
