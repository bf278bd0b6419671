"""The search of a sweep, as the dispatcher uses it: built here, it proposes, records and prunes configurations in the budget.

Optuna's trials are our configurations. The study is a record and never a lock: the ledger decides who may run a trial.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from pydantic_core import to_json

from orchestrator.planning.configuration import Configuration, Facts, resolve
from orchestrator.planning.plan import Plan, PlannedTrial, plan_trials
from orchestrator.search.options import check_search
from orchestrator.search.proposers import Budget, PlannedProposer, SampledProposer
from orchestrator.search.pruning import History, Pruning
from orchestrator.search.sampling import Dimension, build_sampler, make_dimensions
from orchestrator.search.storage import open_storage, translate_errors
from orchestrator.search.study import Study
from orchestrator.search.study_trial import identify
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.sections import class_name
from orchestrator.spec.space import sample_points
from orchestrator.state.ledger import Reconnection
from orchestrator.state.trial.records import TrialSpec, TrialState


@dataclass
class StudySearch:
    """Proposes configurations, records them in a study, prunes them and keeps the budget. Used by one thread.

    Every method may raise TrackingError.

    dimensions: of the space, by path. ended: configurations without a trial left to train, by their identity in the study.
    """

    spec: SweepSpec
    facts: Facts
    proposer: PlannedProposer | SampledProposer
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


def build_search(
    spec: SweepSpec,
    plan: Plan,
    storage: Path | str,
    *,
    owner: str,
    is_dead: Callable[[str], bool],
    history: History = lambda _: {},
    reconnection: Reconnection | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> StudySearch:
    """Build the sweep's search, recorded in a study in ``storage``; it is the dispatcher's ``ports.Search``.

    storage: a journal file of this machine, or the URL of a database. owner: this dispatcher, as in the ledger.
    is_dead: whether an owner has ended. history: epochs of trials that did not report to this study, for pruners.
    reconnection: how long to wait for a database that becomes unreachable. clock: seconds; ``budget.hours`` counts from now.

    Raises:
        SpecError: as check_search.
        TrackingError: the database cannot be opened.
    """
    check_search(spec)
    opened = open_storage(storage, reconnection)
    study = _open_study(spec, plan.facts, opened, owner=owner, is_dead=is_dead)
    budget = Budget(spec, study, clock)
    left = {identify(trial.configuration) for trial in plan.left}
    ended = {identify(configuration) for configuration in plan.configurations} - left
    proposer: PlannedProposer | SampledProposer = PlannedProposer(plan, budget, ended=ended)
    if spec.search is not None and spec.is_open_ended:
        study.use(sampler=build_sampler(spec.search))
        proposer = SampledProposer(spec, spec.search, plan, study=study, budget=budget, ended=ended)
    return StudySearch(
        spec,
        plan.facts,
        proposer,
        study,
        dimensions=make_dimensions(spec.search, [str(row.id) for row in spec.rows]),
        ended=ended,
        pruning=Pruning(spec, plan.facts, study, history),
        budget=budget,
    )


def read_known(spec: SweepSpec, facts: Facts, storage: Path | str) -> tuple[tuple[Configuration, float | None], ...]:
    """Return what an open-ended search proposed in earlier runs, in order, with each known value; reads only."""
    if not spec.is_open_ended or (isinstance(storage, Path) and not storage.exists()):
        return ()
    opened = open_storage(storage)
    if study_name(spec, facts) not in optuna.get_all_study_names(opened):
        return ()
    trials = _open_study(spec, facts, opened, owner="", is_dead=lambda _: False).trials()
    return tuple((resolve(spec, t.params, facts), t.value if t.is_complete else None) for t in trials)


def _open_study(spec: SweepSpec, facts: Facts, storage: BaseStorage, *, owner: str, is_dead: Callable[[str], bool]) -> Study:
    """Open the sweep's study. Each name of ``--again`` counts as a separate sweep, with its own results and budget."""
    name = study_name(spec, facts)
    sweep = f"{spec.name} again {facts.again}" if facts.again else spec.name
    return Study(storage, name=name, owner=owner, sweep=sweep, rounds=_rounds(spec), is_dead=is_dead)


def study_name(spec: SweepSpec, facts: Facts) -> str:
    """Return the sweep's name and a hash of all that gives values and reports their meaning, such as the space and the pruner."""
    left_out = {"seed"} if spec.search and spec.search.options else {"seed", "options"}  # the first studies had no options
    space = spec.search.model_dump_json(exclude=left_out) if spec.search else ""
    point = next(sample_points(spec.search, spec.base, spec.data)) if spec.search else {}
    anchor = resolve(spec, spec.rows[0] if spec.rows else point, facts).id
    rows = [row.model_dump_json(exclude={"label", "reported"}) for row in spec.rows]
    lines = [space, anchor, _rounds(spec), *rows]
    if spec.pruner is not None:  # as earlier versions wrote it, which had a field ``over``, so that their studies are found again
        pruner = {"name": class_name(spec.pruner.name), "over": None, "options": spec.pruner.options}
        lines.append(to_json(pruner, inf_nan_mode="null").decode())
    text = "\n".join(lines)
    return f"{spec.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _rounds(spec: SweepSpec) -> str:
    """Describe the trials that a configuration's value is the mean of."""
    return f"seeds {list(spec.seeds)} folds {spec.folds}"
