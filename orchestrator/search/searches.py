"""Plan -> next configuration, and results back to the sampler.

Optuna's trials are our configurations. The study is a record that agrees with the rest, never a lock: who may run a trial is the
ledger's decision.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import optuna

from orchestrator.configuration import Configuration, Facts, resolve
from orchestrator.plan import Plan
from orchestrator.search.sampling import SAMPLERS, SeededPerTrial, make_distributions, suggest_point
from orchestrator.search.study import Study, StudyTrial, open_storage
from orchestrator.spec.model import SearchSpec, SweepSpec
from orchestrator.spec.space import fits, sample_points
from orchestrator.trial import TrialState

MAX_REPEATS = 100
"""Proposals in a row that were all known: there is nothing new left, or the sampler does not find it."""


def build_search(
    spec: SweepSpec,
    plan: Plan,
    storage: Path | str,
    *,
    owner: str,
    is_dead: Callable[[str], bool],
    clock: Callable[[], float] = time.monotonic,
) -> PlannedSearch | SampledSearch:
    """The search that a sweep asks for, recorded in a study in ``storage``; what the dispatcher knows as parts.Search.

    storage: a journal file of this machine, or the URL of a database. owner: whoever runs this dispatcher, as in the ledger.
    is_dead: whether an owner is known to have ended. clock: seconds; ``budget.hours`` counts from now.

    Raises:
        TrackingError: the database cannot be opened.
    """
    study = Study(
        open_storage(storage),
        name=study_name(spec, plan.facts),
        owner=owner,
        sweep=spec.name,
        rounds=_rounds(spec),
        is_dead=is_dead,
    )
    deadline_s = clock() + spec.budget.hours * 3600 if spec.budget and spec.budget.hours else math.inf
    if spec.search is None or not spec.is_open_ended:
        return PlannedSearch(spec, plan, study, is_over=lambda: clock() >= deadline_s)
    return SampledSearch(spec, spec.search, plan, study, is_over=lambda: clock() >= deadline_s)


def read_known(spec: SweepSpec, facts: Facts, storage: Path | str) -> tuple[tuple[Configuration, float | None], ...]:
    """What an open-ended search has proposed in earlier runs, in order, with the value where it is known; changes nothing."""
    if not spec.is_open_ended or (isinstance(storage, Path) and not storage.exists()):
        return ()
    name = study_name(spec, facts)
    opened = open_storage(storage)
    if name not in optuna.get_all_study_names(opened):
        return ()
    trials = Study(opened, name=name, owner="", sweep=spec.name, rounds=_rounds(spec), is_dead=lambda _: False).trials()
    return tuple((resolve(spec, t.params, facts), t.value if t.is_complete else None) for t in trials)


def study_name(spec: SweepSpec, facts: Facts) -> str:
    """The sweep's name and a hash of all that decides what a value means; a changed space starts a new study."""
    space = spec.search.model_dump_json(exclude={"seed"}) if spec.search else ""
    point = next(sample_points(spec.search, spec.base, spec.data)) if spec.search else {}
    anchor = resolve(spec, spec.rows[0] if spec.rows else point, facts).id
    rows = [row.model_dump_json() for row in spec.rows]
    text = "\n".join([space, anchor, _rounds(spec), *rows])
    return f"{spec.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _rounds(spec: SweepSpec) -> str:
    """What a configuration's value is the mean over."""
    return f"seeds {list(spec.seeds)} folds {spec.folds}"


class PlannedSearch:
    """Goes through the plan's configurations in order, each once, finished ones too: a grid, rows, or base alone.

    Used by one thread. stopped_because: why nothing more is proposed, where that is not simply the end of the plan.
    """

    def __init__(self, spec: SweepSpec, plan: Plan, study: Study, *, is_over: Callable[[], bool]) -> None:
        self.stopped_because: str | None = None
        self._left = list(plan.configurations)
        self._study = study
        self._is_over = is_over
        rows = [str(row.id) for row in spec.rows]
        self._distributions = make_distributions(spec.search, rows)

    def propose(self) -> Configuration | None:
        if not self._left:
            return None
        if self._is_over():
            self.stopped_because = "budget.hours is spent"
            return None
        configuration = self._left.pop(0)
        self._study.start(configuration, self._distributions)
        return configuration

    def tell(self, configuration: Configuration, value: float | None, state: TrialState) -> None:
        self._study.finish(configuration, self._distributions, value=value, state=state)

    def reconcile(self) -> None:
        self._study.give_back()


class SampledSearch:
    """Lets one of Optuna's samplers propose, as results come in, until ``budget.trials`` is used up.

    What earlier runs proposed comes first, finished or not, so that a run has seen all of its sweep. Used by one thread.
    stopped_because: why nothing more is proposed, where that is not simply the end of the budget.
    """

    def __init__(self, spec: SweepSpec, search: SearchSpec, plan: Plan, study: Study, *, is_over: Callable[[], bool]) -> None:
        assert spec.budget is not None, "load_spec asks for it"
        assert spec.budget.trials is not None, "load_spec asks for it"
        self.stopped_because: str | None = None
        self._spec, self._search, self._facts = spec, search, plan.facts
        self._num_allowed = spec.budget.trials // spec.trials_per_configuration
        self._study = study
        self._is_over = is_over
        self._distributions = make_distributions(search, [])
        self._proposed: set[str] = set()
        self._labels = {configuration.label for configuration in plan.configurations}
        self._planned = list(plan.configurations)
        study.use(SeededPerTrial(lambda seed: SAMPLERS[search.method](search, seed), search.seed))
        self._adopt()

    def propose(self) -> Configuration | None:
        if self._is_over():
            self.stopped_because = "budget.hours is spent"
            return None
        if (configuration := self._next_earlier()) is not None:
            self._study.start(configuration, self._distributions)
        elif len(self._study.trials()) < self._num_allowed and not self.stopped_because:
            configuration = self._next_new()
        if configuration is not None:
            self._proposed.add(configuration.id)
        return configuration

    def tell(self, configuration: Configuration, value: float | None, state: TrialState) -> None:
        self._study.finish(configuration, self._distributions, value=value, state=state)

    def reconcile(self) -> None:
        self._study.give_back()

    def _next_earlier(self) -> Configuration | None:
        """What earlier runs proposed: the plan's list, then what was given back since."""
        while self._planned:
            configuration = self._planned.pop(0)
            if configuration.id not in self._proposed:
                return configuration
        given_back = (t for t in self._study.trials() if t.is_given_back and t.identity not in self._proposed)
        trial = next(given_back, None)
        return self._resolve(trial) if trial else None

    def _next_new(self) -> Configuration | None:
        """Ask until something new comes; what is known gets its value at once and costs nothing."""
        if self._study.is_exhausted:
            self.stopped_because = "the space is exhausted: an earlier run found nothing new in it"
            return None
        for _ in range(MAX_REPEATS):
            asked = self._study.ask()
            params = suggest_point(asked, self._spec, self._search, self._distributions)
            configuration = self._with_own_label(resolve(self._spec, params, self._facts))
            if self._study.keep(asked, configuration):
                return configuration
        if not any(trial.is_running for trial in self._study.trials()):  # otherwise results to come may lead elsewhere
            self.stopped_because = f"the space is exhausted: {MAX_REPEATS} proposals in a row were known already"
            self._study.mark_exhausted()
        return None

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
                self._study.finish(configuration, self._distributions, value=trial.value, state=TrialState.COMPLETE)
