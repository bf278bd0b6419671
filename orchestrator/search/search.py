"""The search of a sweep: proposes, records, learns, gives up, and ends; what the dispatcher knows as parts.Search.

Optuna's trials are our configurations. The study is a record that agrees with the rest, never a lock: who may run a trial is the
ledger's decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Protocol

from optuna.trial import TrialState as OptunaState

from orchestrator.planning.configuration import Configuration
from orchestrator.search.pruning import Pruning
from orchestrator.search.sampling import Dimension
from orchestrator.search.storage import told
from orchestrator.search.study import Study
from orchestrator.search.study_trial import identify
from orchestrator.spec.model import SweepSpec
from orchestrator.state.trial.records import TrialSpec, TrialState

SAVE_S = 10.0
"""GPU time is written down this often; a kill loses no more of it."""


class Limits:
    """The budget in hours and GPU-hours, and the rule to stop by. Used by one thread.

    clock: seconds; ``budget.hours`` counts from now. GPU-hours are those of all runs of the sweep and of all its dispatchers.
    """

    def __init__(self, spec: SweepSpec, study: Study, clock: Callable[[], float]) -> None:
        self._study, self._clock, self._stop = study, clock, spec.stop
        budget = spec.budget
        self._deadline_s = clock() + budget.hours * 3600 if budget and budget.hours else math.inf
        self._gpu_s = budget.gpu_hours * 3600 if budget and budget.gpu_hours else math.inf
        self._unsaved_s = 0.0
        self._saved_at_s = clock()

    def spend(self, gpu_s: float) -> None:
        """Count GPU time that attempts of this dispatcher have taken since the last call."""
        self._unsaved_s += gpu_s
        if self._unsaved_s and self._gpu_s < math.inf and self._clock() >= self._saved_at_s + SAVE_S:
            self._save()

    def close(self) -> None:
        """Write down what has not been."""
        if self._unsaved_s and self._gpu_s < math.inf:
            self._save()

    def why_spent(self) -> str | None:
        """Which budget is used up, so that no trial may be begun any more; those that run are finished."""
        if self._clock() >= self._deadline_s:
            return "budget.hours is spent"
        if self._gpu_s < math.inf and self._study.spent_gpu_s() + self._unsaved_s >= self._gpu_s:
            return "budget.gpu_hours is spent"
        return None

    def why_stopped(self) -> str | None:
        """Why nothing new need be looked for, by ``stop``."""
        if self._stop is None:
            return None
        ended = [t for t in self._study.trials() if t.state in (OptunaState.COMPLETE, OptunaState.PRUNED) and t.ended]
        ended.sort(key=lambda trial: (trial.ended, trial.number))
        num_since = count_since_best((trial.value for trial in ended), self._stop.min_delta)
        if num_since < self._stop.no_improvement:
            return None
        delta = f" by more than {self._stop.min_delta:g}" if self._stop.min_delta else ""
        return f"stop: no improvement{delta} in the last {num_since} configurations"

    def _save(self) -> None:
        self._study.add_spent(self._unsaved_s)
        self._unsaved_s, self._saved_at_s = 0.0, self._clock()


def count_since_best(values: Iterable[float | None], min_delta: float) -> int:
    """How many values follow the last that exceeds the best before it by more than ``min_delta``; None exceeds nothing."""
    best, num_since = -math.inf, 0
    for value in values:
        is_better = value is not None and value > best + min_delta
        best, num_since = (value, 0) if is_better and value is not None else (best, num_since + 1)
    return num_since


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
