"""Plan -> next configuration, until a budget is used up: in the plan's order, or as one of Optuna's samplers proposes."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Set

from optuna.trial import TrialState as OptunaState

from orchestrator.planning.configuration import Configuration, resolve
from orchestrator.planning.plan import Plan
from orchestrator.search.sampling import make_dimensions, suggest_point
from orchestrator.search.study import Study
from orchestrator.search.study_trial import StudyTrial, identify
from orchestrator.spec.model import SearchSpec, SweepSpec
from orchestrator.spec.space import fits
from orchestrator.state.trial.records import TrialState

MAX_REPEATS = 100
"""After this many known proposals in a row, nothing new is left, or the sampler does not find it."""

EXHAUSTED = "the space is exhausted: every proposal is known already"

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


class PlannedProposer:
    """Proposes the plan's configurations in order, each once, including those that have ended: a grid, rows, or base alone.

    ended: configurations without a trial left to train, by their identity in the study.
    """

    def __init__(self, plan: Plan, budget: Budget, *, ended: Set[str]) -> None:
        self.stopped_because: str | None = None
        self._left = deque(plan.configurations)
        self._budget, self._ended = budget, ended

    def propose(self) -> Configuration | None:
        spent = self._budget.why_spent()
        while self._left:
            configuration = self._left.popleft()
            if not spent or identify(configuration) in self._ended:
                return configuration
            self.stopped_because = spent
        return None


class SampledProposer:
    """Lets the study's sampler propose, as results come in, until ``budget.trials`` is used up.

    Proposals of earlier runs come first, ended or not, and those of other dispatchers last. So a run covers the whole sweep, and
    does not end before all of it is done. ended: as for PlannedProposer.
    """

    def __init__(self, spec: SweepSpec, search: SearchSpec, plan: Plan, *, study: Study, budget: Budget, ended: Set[str]) -> None:
        assert spec.budget is not None, "load_spec requires it"
        assert spec.budget.trials is not None, "load_spec requires it"
        self.stopped_because: str | None = None
        self._spec, self._search, self._facts = spec, search, plan.facts
        self._num_allowed = spec.budget.trials // spec.trials_per_configuration
        self._study, self._budget, self._ended = study, budget, ended
        self._dimensions = make_dimensions(search, [])
        self._proposed: set[str] = set()
        self._labels = {configuration.label for configuration in plan.configurations}
        self._planned = deque(plan.configurations)
        self._repeats_last = search.method == "BruteForceSampler"  # it repeats a point only when no other is left
        self._adopt()

    def propose(self) -> Configuration | None:
        self.stopped_because = self._budget.why_spent()
        configuration = self._next_earlier() or self._next_new() or self._next_of_others()
        if configuration is not None:
            self._proposed.add(configuration.id)
        return configuration

    def _next_earlier(self) -> Configuration | None:
        """A proposal of an earlier run: from the plan's list, then those requeued since."""
        while self._planned:
            configuration = self._planned.popleft()
            if configuration.id not in self._proposed and (configuration.id in self._ended or not self.stopped_because):
                return configuration
        requeued = (t for t in self._study.trials() if t.is_requeued and t.identity not in self._proposed)
        trial = None if self.stopped_because else next(requeued, None)
        return self._resolve(trial) if trial else None

    def _next_new(self) -> Configuration | None:
        """Ask until a new configuration comes; a known one gets its value at once and costs nothing."""
        if self.stopped_because or len(self._study.trials()) >= self._num_allowed:
            return None
        self.stopped_because = self._budget.why_stopped() or (EXHAUSTED if self._study.is_exhausted else None)
        if self.stopped_because:
            return None
        for _ in range(MAX_REPEATS):
            asked = self._study.ask()
            params = suggest_point(asked, self._spec, self._search, self._dimensions)
            configuration = resolve(self._spec, params, self._facts)
            if self._study.claim(asked, configuration):
                return self._with_own_label(configuration)
            if self._repeats_last and self._study.params_of(configuration) == params:
                break
        if not any(trial.is_running for trial in self._study.trials()):  # otherwise coming results may change the proposals
            self.stopped_because = EXHAUSTED
            self._study.mark_exhausted()
        return None

    def _next_of_others(self) -> Configuration | None:
        """A proposal of another dispatcher since this one began: shown when it ends, resumed if that dispatcher dies."""
        of_others = (t for t in self._study.trials() if t.identity not in self._proposed)
        trial = next((t for t in of_others if t.state.is_finished() or not self._budget.why_spent()), None)
        return self._resolve(trial) if trial else None

    def _resolve(self, trial: StudyTrial) -> Configuration:
        return self._with_own_label(resolve(self._spec, trial.params, self._facts))

    def _with_own_label(self, configuration: Configuration) -> Configuration:
        if configuration.label in self._labels:
            configuration = dataclasses.replace(configuration, label=f"{configuration.label} {configuration.id[:6]}")
        self._labels.add(configuration.label)
        return configuration

    def _adopt(self) -> None:
        """Copy results of the sweep's earlier studies into a new one, if they are points of its space."""
        if self._study.trials():
            return
        for trial in self._study.completed_before():
            if not fits(self._search, self._spec.base, self._spec.data, trial.params):
                continue
            configuration = resolve(self._spec, trial.params, self._facts)
            if configuration.id == trial.identity:  # otherwise base has changed, and the value belongs to another training
                self._study.add_steps(trial.identity, trial.steps)
                self._study.finish(configuration, self._dimensions, value=trial.value, state=TrialState.COMPLETE)
