"""The search of a sweep, as the dispatcher uses it: proposes configurations, records and prunes them, and keeps the budget.

Optuna's trials are our configurations. The study is a record and never a lock: the ledger decides who may run a trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from optuna.trial import TrialState as OptunaState

from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.plan import PlannedTrial, plan_trials
from orchestrator.search.pruning import Pruning
from orchestrator.search.sampling import Dimension
from orchestrator.search.storage import translate_errors
from orchestrator.search.study import Study
from orchestrator.search.study_trial import identify
from orchestrator.spec.model import SweepSpec
from orchestrator.state.trial.records import TrialSpec, TrialState


@dataclass
class StudySearch:
    """Proposes configurations, records them in a study, prunes them and keeps the budget. Used by one thread.

    Every method may raise TrackingError.

    dimensions: of the space, by path. ended: configurations without a trial left to train, by their identity in the study.
    """

    spec: SweepSpec
    facts: Facts
    proposer: Proposer
    study: Study
    dimensions: Mapping[str, Dimension]
    ended: Set[str]
    pruning: Pruning
    budget: Budget
    _spent: str | None = None

    @property
    def stopped_because(self) -> str | None:
        """Why the search ended early, for people; None if it did not."""
        return self._spent or self.proposer.stopped_because

    @translate_errors()
    def propose(self) -> Configuration | None:
        """Return the next configuration, recorded as running; None if there is none now."""
        configuration = self.proposer.propose()
        if configuration is not None:
            self.pruning.add(configuration)
            if identify(configuration) not in self.ended:
                self.study.start(configuration, self.dimensions)
        return configuration

    def trials_of(self, configuration: Configuration) -> list[PlannedTrial]:
        """Plan the trials of a proposed configuration, one per seed and fold."""
        return plan_trials(configuration, self.spec, self.facts)

    @translate_errors()
    def tell(self, configuration: Configuration, value: float | None, state: TrialState, *, reason: str | None = None) -> None:
        """Record a configuration's outcome: the mean over its trials, or None and why it failed. WAITING requeues it."""
        self.study.finish(configuration, self.dimensions, value=value, state=state, reason=reason)

    @translate_errors()
    def report(self, trial: TrialSpec, epoch: int, value: float) -> bool:
        """Enter an epoch's val/miou; True: the trial's configuration is pruned."""
        return self.pruning.report(trial, epoch, value)

    @translate_errors()
    def report_end(self, trial: TrialSpec, value: float) -> bool:
        """Enter a complete trial's val/miou; True: its configuration is pruned."""
        return self.pruning.report_end(trial, value)

    @translate_errors()
    def may_begin(self) -> bool:
        """Whether the budget allows another trial to start; once False, always False."""
        self._spent = self._spent or self.budget.why_spent()
        return self._spent is None

    @translate_errors()
    def spend(self, gpu_s: float) -> None:
        """Add the GPU time of this dispatcher's attempts since the last call."""
        self.budget.spend(gpu_s)

    @translate_errors()
    def reconcile(self) -> None:
        """Requeue what dead dispatchers left running."""
        self.study.requeue_abandoned()

    @translate_errors()
    def close(self) -> None:
        """Save the budget, and requeue what this dispatcher leaves unfinished."""
        self.budget.save()
        self.study.requeue_own()


class Proposer(Protocol):
    """Which configuration comes next."""

    stopped_because: str | None
    """Why the search ended early."""

    def propose(self) -> Configuration | None:
        """Return the next configuration, or None. With a budget used up, only configurations that need no training."""


SAVE_S = 10.0
"""GPU time is saved this often, so a kill loses at most this much of it."""


class Budget:
    """The sweep's hours, GPU-hours and stop rule. Used by one thread.

    clock: seconds; ``budget.hours`` counts from now. GPU-hours are summed over all runs and dispatchers of the sweep.
    """

    def __init__(self, spec: SweepSpec, study: Study, clock: Callable[[], float]) -> None:
        self._study, self._clock, self._stop = study, clock, spec.stop
        budget = spec.budget
        self._deadline_s = clock() + budget.hours * 3600 if budget and budget.hours else math.inf
        self._gpu_s = budget.gpu_hours * 3600 if budget and budget.gpu_hours else math.inf
        self._unsaved_s = 0.0
        self._saved_at_s = clock()

    def spend(self, gpu_s: float) -> None:
        """Add the GPU time of this dispatcher's attempts since the last call."""
        self._unsaved_s += gpu_s
        if self._clock() >= self._saved_at_s + SAVE_S:
            self.save()

    def save(self) -> None:
        """Save what is not saved yet."""
        if self._unsaved_s and self._gpu_s < math.inf:
            self._study.add_spent(self._unsaved_s)
            self._unsaved_s, self._saved_at_s = 0.0, self._clock()

    def why_spent(self) -> str | None:
        """Return which budget is used up, or None. No trial may start then; running ones finish."""
        if self._clock() >= self._deadline_s:
            return "budget.hours is spent"
        if self._gpu_s < math.inf and self._study.spent_gpu_s() + self._unsaved_s >= self._gpu_s:
            return "budget.gpu_hours is spent"
        return None

    def why_stopped(self) -> str | None:
        """Return why the stop rule ends the search, or None."""
        if self._stop is None:
            return None
        ended = [t for t in self._study.trials() if t.state in (OptunaState.COMPLETE, OptunaState.PRUNED) and t.ended]
        ended.sort(key=lambda trial: (trial.ended, trial.number))
        num_since = count_since_best((trial.value for trial in ended), self._stop.min_delta)
        if num_since < self._stop.no_improvement:
            return None
        delta = f" by more than {self._stop.min_delta:g}" if self._stop.min_delta else ""
        return f"stop: no improvement{delta} in the last {num_since} configurations"


def count_since_best(values: Iterable[float | None], min_delta: float) -> int:
    """Count the values since the last one that beat all before it by more than ``min_delta``; None beats nothing."""
    best, num_since = -math.inf, 0
    for value in values:
        is_better = value is not None and value > best + min_delta
        best, num_since = (value, 0) if is_better and value is not None else (best, num_since + 1)
    return num_since
