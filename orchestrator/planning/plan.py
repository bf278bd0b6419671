"""SweepSpec -> Plan: the trials of a sweep in order, with their states; pure, so that showing a plan changes nothing."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.planning.configuration import Configuration, Facts, list_choices, resolve
from orchestrator.spec.model import RowId, SweepSpec
from orchestrator.state.trial.records import TrialSpec, TrialState
from orchestrator.tracking.tags import RunLabel
from trainers.config import Fold

NOT_RUN = (TrialState.CACHED, TrialState.FAILED, TrialState.PRUNED)
"""States of trials that a run of the sweep leaves unchanged."""


@dataclass(frozen=True)
class PlannedTrial:
    """One training, its state, and what it takes to run it.

    round: trials of a lower round run first; always 0 in an open-ended search, which needs a configuration's value before it
    proposes the next. data_folder: the prepared data on this machine. label: of its run in this sweep.
    """

    spec: TrialSpec
    configuration: Configuration
    round: int
    data_folder: Path
    label: RunLabel
    state: TrialState = TrialState.WAITING


@dataclass(frozen=True)
class PlannedEnsemble:
    """A fixed ensemble of the file and its members.

    seed: that of its members if the sweep has several; a row with its own seed keeps it. missing: rows without a trial in the
    plan, because the budget ends before them. class_names: of the data on which the first member is scored.
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
    """All configurations, trials and ensembles of a sweep.

    trials: all configurations with the first seed, then all with the next, so that an interrupted sweep has covered every
    configuration once; folds of one seed together. configurations, ensembles: in the order of the file.
    open_ended: the search will propose more configurations as results come in.
    beyond_budget: configurations of the file that ``budget.trials`` leaves out, in order; num_beyond_budget: their trials.
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
        """Trials that are not finished, including running ones; FAILED and PRUNED ones count as finished."""
        return tuple(trial for trial in self.trials if trial.state not in NOT_RUN)

    @property
    def labels(self) -> dict[str, RunLabel]:
        """Key -> label of the trial's run."""
        return {trial.spec.key: trial.label for trial in self.trials}

    def with_states(self, states: Mapping[str, TrialState]) -> Plan:
        """The same plan with the state of each trial, by key; missing keys are WAITING, COMPLETE shows as CACHED."""

        def mark(trial: PlannedTrial) -> PlannedTrial:
            state = states.get(trial.spec.key, TrialState.WAITING)
            return replace(trial, state=TrialState.CACHED if state is TrialState.COMPLETE else state)

        ensembles = tuple(replace(ensemble, members=tuple(map(mark, ensemble.members))) for ensemble in self.ensembles)
        return replace(self, trials=tuple(map(mark, self.trials)), ensembles=ensembles)


def make_plan(spec: SweepSpec, facts: Facts, *, known: Sequence[Configuration] = ()) -> Plan:
    """Make the plan of a sweep, all of it WAITING. known: what an open-ended search proposed in earlier runs.

    ``budget.trials`` ends the list after the last configuration that fits with all its trials.

    Raises:
        SpecError: two entries of the file are the same training on this data.
    """
    listed = [*known] if spec.is_open_ended else [resolve(spec, choice, facts) for choice in list_choices(spec)]
    counts = Counter(one.label for one in listed)
    entries = [one if counts[one.label] == 1 else replace(one, label=f"{one.label} {one.id[:6]}") for one in listed]
    num_kept = _count_within_budget(entries, spec)
    configurations, beyond = entries[:num_kept], entries[num_kept:]
    planned = [trial for configuration in configurations for trial in plan_trials(configuration, spec, facts)]
    _check_distinct(planned)
    planned.sort(key=lambda trial: _position(trial.spec.seed, spec))  # stable: within a round, the order of the file
    return Plan(
        spec.name,
        facts,
        tuple(configurations),
        tuple(planned),
        spec.is_open_ended,
        tuple(_plan_ensembles(spec, planned, facts)),
        beyond_budget=tuple(beyond),
        num_beyond_budget=sum(_count_trials(one, spec) for one in beyond),
    )


def plan_trials(configuration: Configuration, spec: SweepSpec, facts: Facts) -> list[PlannedTrial]:
    """A configuration's trials, one per seed and fold, in the order in which they run."""
    seeds = spec.seeds if configuration.seed is None else (configuration.seed,)
    data_folder = facts.of(configuration.data).folder
    row = row_of(configuration)
    reported = next((one.reported for one in spec.rows if str(one.id) == row), None)
    planned = []
    for seed in seeds:
        for fold in spec.each_fold:
            trial = _make_trial(configuration, spec, facts, seed=seed, fold=fold)
            round = 0 if spec.is_open_ended else _position(seed, spec)
            planned.append(PlannedTrial(trial, configuration, round, data_folder, RunLabel(trial.name, row, reported)))
    return planned


def _make_trial(configuration: Configuration, spec: SweepSpec, facts: Facts, *, seed: int, fold: Fold | None) -> TrialSpec:
    train, data, name = configuration.train, configuration.data, configuration.label
    if len(spec.seeds) > 1 or configuration.seed is not None:
        name += f" seed {seed}"
    if fold:
        name += f" fold {fold.index + 1}/{fold.count}"
    if facts.again:
        name += f" again {facts.again}"
    return TrialSpec(
        key=facts.key_of(train, data, seed, fold),
        configuration=configuration.id,
        name=name,
        train=train,
        data=data,
        seed=seed,
        fold=fold,
        source_fingerprint=facts.of(data).fingerprint,
        code=facts.code_of(train),
    )


def _plan_ensembles(spec: SweepSpec, planned: Sequence[PlannedTrial], facts: Facts) -> Iterator[PlannedEnsemble]:
    """Each fixed ensemble: once if the sweep has one seed or all its rows have their own, else once per seed."""
    by_row: dict[str, list[PlannedTrial]] = defaultdict(list)
    for trial in planned:
        by_row[row_of(trial.configuration) or ""].append(trial)
    own_seed = {str(row.id): row.seed for row in spec.rows}
    for ensemble in spec.ensembles:
        rows = ensemble.members
        has_seeds = len(spec.seeds) > 1 and any(own_seed[str(row)] is None for row in rows)
        for seed in spec.seeds if has_seeds else spec.seeds[:1]:
            chosen = {row: [t for t in by_row[str(row)] if own_seed[str(row)] is not None or t.spec.seed == seed] for row in rows}
            members = tuple(trial for row in rows for trial in chosen[row])
            yield PlannedEnsemble(
                id=ensemble.id,
                title=f"{ensemble.title} seed {seed}" if has_seeds else ensemble.title,
                reported=ensemble.reported,
                rows=rows,
                members=members,
                missing=tuple(row for row in rows if not chosen[row]),
                seed=seed if has_seeds else None,
                class_names=facts.of(members[0].spec.data).class_names if members else (),
            )


def row_of(configuration: Configuration) -> str | None:
    """The configuration's row id; None if it comes from a search."""
    return str(configuration.params["row"]) if "row" in configuration.params else None


def _count_within_budget(configurations: Sequence[Configuration], spec: SweepSpec) -> int:
    """How many of the first configurations fit with all their trials; what a search has proposed always fits."""
    allowed = spec.budget.trials if spec.budget and not spec.is_open_ended else None
    if allowed is None:
        return len(configurations)
    totals = itertools.accumulate(_count_trials(one, spec) for one in configurations)
    return sum(1 for total in totals if total <= allowed)


def _count_trials(configuration: Configuration, spec: SweepSpec) -> int:
    return (spec.folds or 1) * (len(spec.seeds) if configuration.seed is None else 1)


def longest_first(plan: Plan, spec: SweepSpec, durations_s: Mapping[str, float]) -> Plan:
    """The plan with long trials before short ones, so that no long trial runs alone at the end.

    durations_s: by key; missing ones count as 0. Rounds keep their order. Nothing moves if a time budget or a pruner may end the
    sweep early: the file's order then decides what runs at all.
    """
    may_be_cut = spec.pruner or (spec.budget and (spec.budget.hours or spec.budget.gpu_hours))
    if plan.open_ended or may_be_cut or not durations_s:
        return plan
    longest: defaultdict[str, float] = defaultdict(float)
    for trial in plan.trials:
        name = trial.configuration.id
        longest[name] = max(longest[name], durations_s.get(trial.spec.key, 0.0))
    return replace(
        plan,
        configurations=tuple(sorted(plan.configurations, key=lambda c: -longest[c.id])),
        trials=tuple(sorted(plan.trials, key=lambda t: (t.round, -longest[t.configuration.id]))),
    )


def _position(seed: int, spec: SweepSpec) -> int:
    """Position of a seed among the sweep's; 0 for a row's own seed."""
    return spec.seeds.index(seed) if seed in spec.seeds else 0


def _check_distinct(planned: Sequence[PlannedTrial]) -> None:
    """Refuse entries that differ only in wording, such as two paths to one file: they would claim each other's trials."""
    seen: dict[str, PlannedTrial] = {}
    for trial in planned:
        other = seen.setdefault(trial.spec.key, trial)
        if other is not trial:
            both = f"{other.configuration.label!r} and {trial.configuration.label!r}"
            raise SpecError(f"{both} are the same training on the same data. Leave one out, or give rows a 'seed' of their own.")
