"""Plan -> next configuration: in the order of the plan, or as one of Optuna's samplers wants it; for searches.py."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Set

from orchestrator.planning.configuration import Configuration, resolve
from orchestrator.planning.plan import Plan
from orchestrator.search.sampling import make_distributions, suggest_point
from orchestrator.search.search import Limits
from orchestrator.search.study import Study
from orchestrator.search.study_trial import StudyTrial, identify
from orchestrator.spec.model import SearchSpec, SweepSpec
from orchestrator.spec.space import fits
from orchestrator.state.trial.records import TrialState

MAX_REPEATS = 100
"""Proposals in a row that were all known: there is nothing new left, or the sampler does not find it."""

EXHAUSTED = "the space is exhausted: what is proposed is all known already"


class PlannedProposer:
    """Goes through the plan's configurations in order, each once, finished ones too: a grid, rows, or base alone.

    ended: configurations, by their identity in the study, that need no more training.
    """

    def __init__(self, plan: Plan, limits: Limits, *, ended: Set[str]) -> None:
        self.stopped_because: str | None = None
        self._left = deque(plan.configurations)
        self._limits, self._ended = limits, ended

    def propose(self) -> Configuration | None:
        spent = self._limits.why_spent()
        while self._left:
            configuration = self._left.popleft()
            if not spent or identify(configuration) in self._ended:
                return configuration
            self.stopped_because = spent
        return None


class SampledProposer:
    """Lets the study's sampler propose, as results come in, until ``budget.trials`` is used up.

    What earlier runs proposed comes first, finished or not, and what other dispatchers proposed last, so that a run has seen all
    of its sweep and ends none of it before it is done. ended: as for PlannedProposer.
    """

    def __init__(self, spec: SweepSpec, search: SearchSpec, plan: Plan, *, study: Study, limits: Limits, ended: Set[str]) -> None:
        assert spec.budget is not None, "load_spec asks for it"
        assert spec.budget.trials is not None, "load_spec asks for it"
        self.stopped_because: str | None = None
        self._spec, self._search, self._facts = spec, search, plan.facts
        self._num_allowed = spec.budget.trials // spec.trials_per_configuration
        self._study, self._limits, self._ended = study, limits, ended
        self._distributions = make_distributions(search, [])
        self._proposed: set[str] = set()
        self._labels = {configuration.label for configuration in plan.configurations}
        self._planned = deque(plan.configurations)
        self._repeats_last = search.method == "BruteForceSampler"  # which repeats a point only when there is no other
        self._adopt()

    def propose(self) -> Configuration | None:
        self.stopped_because = self._limits.why_spent()
        configuration = self._next_earlier() or self._next_new() or self._next_of_others()
        if configuration is not None:
            self._proposed.add(configuration.id)
        return configuration

    def _next_earlier(self) -> Configuration | None:
        """What earlier runs proposed: the plan's list, then what was given back since."""
        while self._planned:
            configuration = self._planned.popleft()
            if configuration.id not in self._proposed and (configuration.id in self._ended or not self.stopped_because):
                return configuration
        given_back = (t for t in self._study.trials() if t.is_given_back and t.identity not in self._proposed)
        trial = None if self.stopped_because else next(given_back, None)
        return self._resolve(trial) if trial else None

    def _next_new(self) -> Configuration | None:
        """Ask until something new comes; what is known gets its value at once and costs nothing."""
        if self.stopped_because or len(self._study.trials()) >= self._num_allowed:
            return None
        self.stopped_because = self._limits.why_stopped() or (EXHAUSTED if self._study.is_exhausted else None)
        if self.stopped_because:
            return None
        for _ in range(MAX_REPEATS):
            asked = self._study.ask()
            params = suggest_point(asked, self._spec, self._search, self._distributions)
            configuration = resolve(self._spec, params, self._facts)
            if self._study.keep(asked, configuration):
                return self._with_own_label(configuration)
            if self._repeats_last and self._study.params_of(configuration) == params:
                break
        if not any(trial.is_running for trial in self._study.trials()):  # otherwise results to come may lead elsewhere
            self.stopped_because = EXHAUSTED
            self._study.mark_exhausted()
        return None

    def _next_of_others(self) -> Configuration | None:
        """What other dispatchers have proposed since this one began: shown when it ends, gone on with where they die."""
        of_others = (t for t in self._study.trials() if t.identity not in self._proposed)
        trial = next((t for t in of_others if t.state.is_finished() or not self._limits.why_spent()), None)
        return self._resolve(trial) if trial else None

    def _resolve(self, trial: StudyTrial) -> Configuration:
        return self._with_own_label(resolve(self._spec, trial.params, self._facts))

    def _with_own_label(self, configuration: Configuration) -> Configuration:
        if configuration.label in self._labels:
            configuration = dataclasses.replace(configuration, label=f"{configuration.label} {configuration.id[:6]}")
        self._labels.add(configuration.label)
        return configuration

    def _adopt(self) -> None:
        """Give a new study what earlier forms of the sweep found out, where it is a point of this space too."""
        if self._study.trials():
            return
        for trial in self._study.of_earlier_spaces():
            if not fits(self._search, self._spec.base, self._spec.data, trial.params):
                continue
            configuration = resolve(self._spec, trial.params, self._facts)
            if configuration.id == trial.identity:  # otherwise base has changed, and the value is of something else
                self._study.note(trial.identity, trial.steps)
                self._study.finish(configuration, self._distributions, value=trial.value, state=TrialState.COMPLETE)
