"""SweepSpec + Plan -> the search that runs it, and its study's name; what sweep.py calls."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from orchestrator.errors import SpecError
from orchestrator.planning.configuration import Configuration, Facts, resolve
from orchestrator.planning.plan import Plan
from orchestrator.search.history import History, NoHistory
from orchestrator.search.proposers import PlannedProposer, SampledProposer
from orchestrator.search.pruning import Pruning, build_pruner
from orchestrator.search.sampling import build_sampler, make_distributions
from orchestrator.search.search import Limits, Proposer, StudySearch
from orchestrator.search.storage import open_storage
from orchestrator.search.study import Study
from orchestrator.search.study_trial import identify
from orchestrator.spec.document import Place, write_place
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.optuna_names import class_name
from orchestrator.spec.space import sample_points
from orchestrator.state.ledger import Patience
from orchestrator.state.trial.records import TrialState


def build_search(
    spec: SweepSpec,
    plan: Plan,
    storage: Path | str,
    *,
    owner: str,
    is_dead: Callable[[str], bool],
    history: History | None = None,
    patience: Patience | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> StudySearch:
    """The search that a sweep asks for, recorded in a study in ``storage``; what the dispatcher knows as parts.Search.

    storage: a journal file of this machine, or the URL of a database. owner: whoever runs this dispatcher, as in the ledger.
    is_dead: whether an owner is known to have ended. history: what pruners may ask of trials that did not report to this study.
    patience: with which the database is waited for when it goes away. clock: seconds; ``budget.hours`` counts from now.

    Raises:
        SpecError: as check_search.
        TrackingError: the database cannot be opened.
    """
    check_search(spec)
    opened = open_storage(storage, patience)
    study = _open_study(spec, plan.facts, opened, owner=owner, is_dead=is_dead)
    limits = Limits(spec, study, clock)
    ended = _find_ended(plan)
    proposer: Proposer = PlannedProposer(plan, limits, ended=ended)
    if spec.search is not None and spec.is_open_ended:
        study.use(sampler=build_sampler(spec.search))
        proposer = SampledProposer(spec, spec.search, plan, study=study, limits=limits, ended=ended)
    return StudySearch(
        proposer,
        study,
        dimensions=make_distributions(spec.search, [str(row.id) for row in spec.rows]),
        ended=ended,
        pruning=Pruning(spec, plan.facts, study, history or NoHistory()),
        limits=limits,
    )


def _find_ended(plan: Plan) -> set[str]:
    """Configurations, by their identity in the study, of which no trial needs training."""
    ended = (TrialState.CACHED, TrialState.PRUNED, TrialState.FAILED)
    left = {identify(trial.configuration) for trial in plan.trials if trial.state not in ended}
    return {identify(configuration) for configuration in plan.configurations} - left


def check_search(spec: SweepSpec) -> None:
    """Check what only Optuna knows, the values of its samplers' and pruners' options, before anything runs.

    Raises:
        SpecError: Optuna refuses a value, with the place in the sweep file.
    """
    if spec.search is not None and spec.is_open_ended:
        search = spec.search
        _try(spec, lambda: build_sampler(search), ("search", "options"))
    if spec.pruner is not None:
        pruner = spec.pruner
        _try(spec, lambda: build_pruner(pruner), ("pruner", "options"))


def _try(spec: SweepSpec, build: Callable[[], object], place: Place) -> None:
    try:
        build()
    except (ValueError, TypeError) as error:
        raise SpecError(f"{spec.where(place)}: {write_place(place)}: Optuna refuses them: {error}") from error


def read_known(spec: SweepSpec, facts: Facts, storage: Path | str) -> tuple[tuple[Configuration, float | None], ...]:
    """What an open-ended search has proposed in earlier runs, in order, with the value where it is known; changes nothing."""
    if not spec.is_open_ended or (isinstance(storage, Path) and not storage.exists()):
        return ()
    opened = open_storage(storage)
    if study_name(spec, facts) not in optuna.get_all_study_names(opened):
        return ()
    trials = _open_study(spec, facts, opened, owner="", is_dead=lambda _: False).trials()
    return tuple((resolve(spec, t.params, facts), t.value if t.is_complete else None) for t in trials)


def _open_study(spec: SweepSpec, facts: Facts, storage: BaseStorage, *, owner: str, is_dead: Callable[[str], bool]) -> Study:
    """What was done under another name of ``--again`` is another sweep's: of this one nothing is known or spent yet."""
    name = study_name(spec, facts)
    sweep = f"{spec.name} again {facts.again}" if facts.again else spec.name
    return Study(storage, name=name, owner=owner, sweep=sweep, rounds=_rounds(spec), is_dead=is_dead)


def study_name(spec: SweepSpec, facts: Facts) -> str:
    """The sweep's name and a hash of all that decides what a value, or what a pruner has noted, means.

    A changed space starts a new study, and so does a changed pruner.
    """
    space = spec.search.model_dump_json(exclude=_left_out(spec)) if spec.search else ""
    point = next(sample_points(spec.search, spec.base, spec.data)) if spec.search else {}
    anchor = resolve(spec, spec.rows[0] if spec.rows else point, facts).id
    rows = [row.model_dump_json(exclude={"label", "reported"}) for row in spec.rows]
    text = "\n".join([space, anchor, _rounds(spec), *rows, *_describe_pruner(spec)])
    return f"{spec.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _left_out(spec: SweepSpec) -> set[str]:
    """Fields of the search without a say; ``options`` came later than the first studies."""
    return {"seed"} if spec.search and spec.search.options else {"seed", "options"}


def _describe_pruner(spec: SweepSpec) -> list[str]:
    if spec.pruner is None:
        return []
    return [spec.pruner.model_copy(update={"name": class_name(spec.pruner.name)}).model_dump_json()]


def _rounds(spec: SweepSpec) -> str:
    """What a configuration's value is the mean over."""
    return f"seeds {list(spec.seeds)} folds {spec.folds}"
