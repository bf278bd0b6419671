"""SweepSpec -> Plan: what will run, in which order, and what is done already; pure, so that showing a plan changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.planning.configuration import Configuration, Facts, list_choices, resolve
from orchestrator.spec.model import FixedEnsemble, RowId, SweepSpec
from orchestrator.state.trial.records import TrialSpec, TrialState, make_key
from trainers.config import Fold

STAYING = (TrialState.CACHED, TrialState.FAILED, TrialState.PRUNED)
"""States of trials that a run of the sweep leaves as they are."""


@dataclass(frozen=True)
class PlannedTrial:
    """One training and where it stands."""

    spec: TrialSpec
    configuration: Configuration
    state: TrialState


@dataclass(frozen=True)
class PlannedEnsemble:
    """A fixed ensemble of the file, with the trials that it is the mean of.

    seed: that of its members, where the sweep has several; a row with a seed of its own keeps it. missing: rows without a trial
    in the plan, because the budget ends before them.
    class_names: of the data that the first member is scored on.
    """

    id: RowId
    title: str
    reported: float | None
    rows: tuple[RowId, ...]
    members: tuple[PlannedTrial, ...]
    missing: tuple[RowId, ...] = ()
    seed: int | None = None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a sweep comes to.

    trials: all configurations with the first seed, then all with the next, so that a sweep that is cut short has seen every
    configuration once; folds of one seed together. configurations, ensembles: in the order of the file.
    open_ended: configurations beyond these will be proposed as results come in.
    beyond_budget: configurations of the file that ``budget.trials`` leaves out, in its order; num_beyond_budget: their trials.
    """

    sweep: str
    facts: Facts
    configurations: tuple[Configuration, ...]
    trials: tuple[PlannedTrial, ...]
    open_ended: bool
    ensembles: tuple[PlannedEnsemble, ...] = ()
    beyond_budget: tuple[Configuration, ...] = ()
    num_beyond_budget: int = 0

    @property
    def has_work(self) -> bool:
        """Whether anything may have to be trained."""
        return self.open_ended or bool(self.left)

    @property
    def left(self) -> tuple[PlannedTrial, ...]:
        """Trials that are still to be trained, those that run just now too; FAILED and PRUNED ones stay as they are."""
        return tuple(trial for trial in self.trials if trial.state not in STAYING)

    def count(self) -> Counter[TrialState]:
        """State -> number of trials."""
        return Counter(trial.state for trial in self.trials)


def make_plan(spec: SweepSpec, facts: Facts, states: Mapping[str, TrialState], *, known: Sequence[Configuration] = ()) -> Plan:
    """Lay out a sweep.

    states: trial's key -> where it stands; keys that are missing wait, COMPLETE shows as CACHED. known: what an open-ended
    search has proposed in earlier runs. ``budget.trials`` cuts the list after the last configuration that fits with all trials.

    Raises:
        SpecError: two entries of the file come to the same training on this data.
    """
    listed = [*known] if spec.is_open_ended else [resolve(spec, choice, facts) for choice in list_choices(spec)]
    entries = _with_distinct_labels(_with_titles(listed, spec))
    num_kept = _count_within_budget(entries, spec)
    configurations, beyond = entries[:num_kept], entries[num_kept:]
    planned = [
        PlannedTrial(trial, configuration, _planned_state(states.get(trial.key)))
        for configuration in configurations
        for trial in trials_of(configuration, spec, facts)
    ]
    _check_distinct(planned)
    planned.sort(key=lambda trial: _position(trial.spec.seed, spec))  # stable: within a round, the order of the file
    ensembles = tuple(_plan_ensembles(spec, planned, facts))
    return Plan(
        spec.name,
        facts,
        tuple(configurations),
        tuple(planned),
        spec.is_open_ended,
        ensembles,
        beyond_budget=tuple(beyond),
        num_beyond_budget=sum(_count_trials(one, spec) for one in beyond),
    )


def trials_of(configuration: Configuration, spec: SweepSpec, facts: Facts) -> list[TrialSpec]:
    """A configuration's trials: each of its seeds, each fold."""
    seeds = spec.seeds if configuration.seed is None else (configuration.seed,)
    return [_make_trial(configuration, spec, facts, seed=seed, fold=fold) for seed in seeds for fold in spec.each_fold]


def _make_trial(configuration: Configuration, spec: SweepSpec, facts: Facts, *, seed: int, fold: Fold | None) -> TrialSpec:
    found = facts.of(configuration.data)
    code = facts.code_of(configuration.train)
    train, data = configuration.train, configuration.data
    name = configuration.label
    if len(spec.seeds) > 1 or configuration.seed is not None:
        name += f" seed {seed}"
    if fold:
        name += f" fold {fold.index + 1}/{fold.count}"
    if facts.again:
        name += f" again {facts.again}"
    return TrialSpec(
        key=make_key(
            train,
            data,
            seed=seed,
            fold=fold,
            source_fingerprint=found.fingerprint,
            code=code,
            removed=found.removed,
            again=facts.again,
        ),
        configuration=configuration.id,
        name=name,
        train=train,
        data=data,
        seed=seed,
        fold=fold,
        source_fingerprint=found.fingerprint,
        code=code,
    )


def _plan_ensembles(spec: SweepSpec, planned: Sequence[PlannedTrial], facts: Facts) -> Iterator[PlannedEnsemble]:
    """Each fixed ensemble: once where all its rows have seeds of their own or the sweep has one, else once for each seed."""
    by_row: dict[str, list[PlannedTrial]] = defaultdict(list)
    for trial in planned:
        by_row[row_of(trial.configuration) or ""].append(trial)
    own_seed = {str(row.id): row.seed for row in spec.rows}
    for ensemble in spec.ensembles:
        has_seeds = len(spec.seeds) > 1 and any(own_seed[str(row)] is None for row in ensemble.members)
        for seed in spec.seeds if has_seeds else spec.seeds[:1]:
            chosen = [
                [t for t in by_row[str(row)] if own_seed[str(row)] is not None or t.spec.seed == seed] for row in ensemble.members
            ]
            yield _plan_ensemble(ensemble, chosen, facts, seed=seed if has_seeds else None)


def _plan_ensemble(
    ensemble: FixedEnsemble, chosen: Sequence[Sequence[PlannedTrial]], facts: Facts, *, seed: int | None
) -> PlannedEnsemble:
    members = tuple(trial for trials in chosen for trial in trials)
    return PlannedEnsemble(
        id=ensemble.id,
        title=ensemble.title if seed is None else f"{ensemble.title} seed {seed}",
        reported=ensemble.reported,
        rows=ensemble.members,
        members=members,
        missing=tuple(row for row, trials in zip(ensemble.members, chosen, strict=True) if not trials),
        seed=seed,
        class_names=facts.of(members[0].spec.data).class_names if members else (),
    )


def row_of(configuration: Configuration) -> str | None:
    """The id of the row that a configuration is; None where it comes from a search."""
    return str(configuration.params["row"]) if "row" in configuration.params else None


def _with_titles(configurations: Iterable[Configuration], spec: SweepSpec) -> list[Configuration]:
    """Rows under their labels, where the file gives them."""
    titles = {str(row.id): row.title for row in spec.rows}
    return [c if (row := row_of(c)) is None else dataclasses.replace(c, label=titles[row]) for c in configurations]


def _count_within_budget(configurations: Sequence[Configuration], spec: SweepSpec) -> int:
    """How many of the first fit into it with all their trials; what a search has proposed already stays."""
    allowed = spec.budget.trials if spec.budget and not spec.is_open_ended else None
    if allowed is None:
        return len(configurations)
    totals = itertools.accumulate(_count_trials(one, spec) for one in configurations)
    return sum(1 for total in totals if total <= allowed)


def _count_trials(configuration: Configuration, spec: SweepSpec) -> int:
    return (spec.folds or 1) * (len(spec.seeds) if configuration.seed is None else 1)


def _with_distinct_labels(configurations: Iterable[Configuration]) -> list[Configuration]:
    configurations = list(configurations)
    counts = Counter(c.label for c in configurations)
    return [c if counts[c.label] == 1 else dataclasses.replace(c, label=f"{c.label} {c.id[:6]}") for c in configurations]


def _planned_state(state: TrialState | None) -> TrialState:
    if state is None:
        return TrialState.WAITING
    return TrialState.CACHED if state is TrialState.COMPLETE else state


def round_of(trial: TrialSpec, spec: SweepSpec, plan: Plan) -> int:
    """When a trial is to run: those of a lower round first, as ``plan.trials`` has them.

    Always 0 in an open-ended search, where a configuration's value is wanted before the next is proposed.
    """
    return 0 if plan.open_ended else _position(trial.seed, spec)


def longest_first(plan: Plan, spec: SweepSpec, durations_s: Mapping[str, float]) -> Plan:
    """The plan with long trials before short ones, so that no slot is left with one at the end.

    durations_s: by trial's key; what is missing takes no time. Rounds stay one after another. Nothing moves where the sweep may
    end before it is through, by a budget of time or a pruner: what comes first is then what is done at all.
    """
    may_be_cut = spec.pruner or (spec.budget and (spec.budget.hours or spec.budget.gpu_hours))
    if plan.open_ended or may_be_cut or not durations_s:
        return plan
    longest: defaultdict[str, float] = defaultdict(float)
    for trial in plan.trials:
        name = trial.configuration.id
        longest[name] = max(longest[name], durations_s.get(trial.spec.key, 0.0))
    return dataclasses.replace(
        plan,
        configurations=tuple(sorted(plan.configurations, key=lambda c: -longest[c.id])),
        trials=tuple(sorted(plan.trials, key=lambda t: (_position(t.spec.seed, spec), -longest[t.configuration.id]))),
    )


def _position(seed: int, spec: SweepSpec) -> int:
    """Of a seed among the sweep's; 0 for one that only a row has."""
    return spec.seeds.index(seed) if seed in spec.seeds else 0


def _check_distinct(planned: Sequence[PlannedTrial]) -> None:
    """Entries that differ in words only, such as two paths to one file, would claim each other's trials."""
    seen: dict[str, PlannedTrial] = {}
    for trial in planned:
        other = seen.setdefault(trial.spec.key, trial)
        if other is not trial:
            both = f"{other.configuration.label!r} and {trial.configuration.label!r}"
            raise SpecError(f"{both} are the same training on the same data. Leave one out, or give rows a 'seed' of their own.")
