"""Runs a sweep from its file to its summary: builds the parts, hands them to the dispatcher, evaluates its fixed ensembles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrator.configuration import Configuration, Facts
from orchestrator.dispatcher import Dispatcher
from orchestrator.ensemble.from_plan import (
    EnsembleOutcome,
    EnsembleState,
    Member,
    evaluate_ensembles,
    look_up_ensembles,
    make_record,
)
from orchestrator.ensemble.store import INFO_FILE
from orchestrator.errors import TrackingError
from orchestrator.home import Home
from orchestrator.launchers import LAUNCHERS
from orchestrator.launchers.base import Launcher, NothingToLaunch
from orchestrator.ledger import Ledger, Role
from orchestrator.parts import Outcome
from orchestrator.plan import Plan, make_plan, round_of, trials_of
from orchestrator.preflight import prepare
from orchestrator.presence import Presence, heeding_stops, present
from orchestrator.progress import SweepProgress
from orchestrator.shared_plan import make_label, share_plan
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.summary import PlanReport, SweepReport, describe_outcome, summarize_plan
from orchestrator.tracking.mirror import MlflowTracker
from orchestrator.tracking.place import Place
from orchestrator.trial import TrialFolder, TrialResult, TrialSpec, TrialState
from trainers.config import DataConfig

MIRROR_TIMEOUT_S = 120.0
"""How long the end of a sweep waits for the tracking server."""

SHORT_TIMEOUT_S = 10.0
"""The same, after Ctrl-C, or when the server has not answered the last time either."""


def plan_sweep(file: Path, *, overrides: Sequence[str]) -> PlanReport:
    """Lay out the sweep of ``file`` and run nothing.

    Raises:
        SpecError: the file or an override is wrong.
        DataError: the data cannot be used.
    """
    spec = load_spec(file, overrides)
    home = Home.from_environment()
    facts = look_ahead(spec, home)
    plan = look_up(spec, facts, home, Ledger(home.ledger_url), Console(stderr=True))
    return PlanReport(spec, plan, tuple(look_up_ensembles(plan, home)))


def run_sweep(file: Path, *, overrides: Sequence[str], launcher: str, slots: int | None) -> SweepReport:
    """Run what the sweep of ``file`` still lacks; progress goes to standard error.

    slots: trials at once; None: what the file says, else one a GPU or a core.

    Raises:
        SpecError: the file or an override is wrong.
        DataError: the data cannot be used.
        LaunchError: no worker can be started.
    """
    console = Console(stderr=True)
    console.print(f"reading {file}", highlight=False, markup=False, soft_wrap=True)
    spec = load_spec(file, overrides)
    home = Home.from_environment()
    ledger = Ledger(home.ledger_url)
    is_new = not ledger.members(spec.name)

    def build() -> Launcher:
        return LAUNCHERS[launcher](slots or spec.resources.slots, spec.resources.threads_per_slot)

    # of a new sweep first, because workers import torch in the background while data and plan are looked at
    workers = build() if is_new else None
    try:
        with present(home, ledger, spec.name, Role.SWEEP) as presence:
            facts = look_ahead(spec, home)
            plan = look_up(spec, facts, home, ledger, console)
            console.print(summarize_plan(spec, plan), highlight=False, markup=False, soft_wrap=True)
            share_plan(spec, plan, home=home, ledger=ledger)
            if workers is None:
                workers = build() if plan.has_work else NothingToLaunch()
            return run_plan(spec, plan, home=home, ledger=ledger, presence=presence, launcher=workers, console=console)
    finally:
        if workers is not None:
            workers.close()


def run_plan(
    spec: SweepSpec,
    plan: Plan,
    *,
    home: Home,
    ledger: Ledger,
    presence: Presence,
    launcher: Launcher,
    console: Console,
    is_worker: bool = False,
) -> SweepReport:
    """Work the plan off, be it one's own or, as a worker, that of a sweep; which then sees to the ensembles of its table."""
    from orchestrator.search import FolderHistory, build_search  # optuna takes a second: after the first sign of life

    tracker = MlflowTracker(Place.of(home))
    reported = {str(row.id): row.reported for row in spec.rows}
    tracker.label(spec.name, {t.spec.key: make_label(t.configuration, t.spec, reported) for t in plan.trials})
    tracker.reconcile(spec.name, lambda: live_keys(ledger, spec.name))
    storage, history = home.optuna_url or home.optuna_journal, FolderHistory(home)
    search = build_search(spec, plan, storage, owner=presence.owner, is_dead=home.is_dead, history=history)

    def list_trials(configuration: Configuration) -> list[TrialSpec]:
        trials = trials_of(configuration, spec, plan.facts)
        tracker.label(spec.name, {trial.key: make_label(configuration, trial, reported) for trial in trials})
        return trials

    total = None if plan.open_ended else len(plan.trials)
    with SweepProgress(total=total, console=console) as progress:
        dispatcher = Dispatcher(
            sweep=spec.name,
            search=search,
            launcher=launcher,
            tracker=tracker,
            ledger=ledger,
            home=home,
            owner=presence.owner,
            trials_of=list_trials,
            data_folder_of=lambda trial: plan.facts.of(trial.data).folder,
            round_of=lambda trial: round_of(trial, spec, plan),
            find_result=(lambda trial: _find_elsewhere(home, trial)) if home.tracking else None,
            monitor=progress,
            retry=spec.retry,
            limits=spec.limits,
        )
        with heeding_stops(dispatcher, presence.listener, progress.note):
            outcome = dispatcher.run()
    ensembles = [] if is_worker else _combine(plan, outcome, home, console)
    if spec.rows and not outcome.interrupted and not is_worker:
        tracker.log_table(spec.name, [make_record(e) for e in ensembles if e.state is not EnsembleState.WAITING])
    _mirror_rest(tracker, spec.name, outcome, home, console)
    return SweepReport(
        spec.name,
        outcome.wall_s,
        tuple(describe_outcome(trial, run_id=tracker.run_id(spec.name, trial.spec.key)) for trial in outcome.trials),
        outcome.interrupted,
        tuple(e.to_json_with_figures(tracker.run_id(spec.name, e.planned.title)) for e in ensembles),
        search.stopped_because,
        outcome.halted,
    )


def _combine(plan: Plan, outcome: Outcome, home: Home, console: Console) -> list[EnsembleOutcome]:
    """Evaluate the fixed ensembles that can be; after an interruption those of earlier runs are looked up."""
    if outcome.interrupted or outcome.halted or not plan.ensembles:
        return look_up_ensembles(plan, home)
    console.print(f"evaluating {len(plan.ensembles)} ensembles")
    members = {trial.spec.key: Member(trial.state, trial.result, trial.reason) for trial in outcome.trials}
    return evaluate_ensembles(plan, members, cache=home.cache, find_predictions=lambda trial: _find_predictions(home, trial))


def _find_predictions(home: Home, spec: TrialSpec) -> Path:
    """The folder that holds a finished trial's predictions: its own, or what the tracking server has of it."""
    folder = home.trial_folder(spec.key)
    if (folder / INFO_FILE).exists():
        return folder
    from orchestrator.ensemble.from_runs import fetch_predictions
    from orchestrator.tracking.runs import RunReader

    reader = RunReader(Place.of(home))
    run = reader.find_finished([spec.key]).get(spec.key)
    if run is None:
        raise TrackingError(f"{folder}: has no predictions of {spec.name}, nor has {Place.of(home)}. Train it again.")
    return fetch_predictions(reader, run, home.cache)


def look_ahead(spec: SweepSpec, home: Home, locate: Callable[[DataConfig], DataConfig] = lambda data: data) -> Facts:
    """What has to be known of data, code and search before anything starts; ``locate`` as in preflight.prepare.

    Raises:
        SpecError: an option of the search, or something of the user's own, cannot be used.
        DataError: the data cannot be used.
    """
    if spec.is_open_ended or spec.pruner:
        from orchestrator.search import check_search

        check_search(spec)
    with redirect_stdout(sys.stderr):  # the user's own code is imported, and may print
        return prepare(spec, home.data, locate)


def look_up(spec: SweepSpec, facts: Facts, home: Home, ledger: Ledger, console: Console) -> Plan:
    """The plan, with where each trial stands: by the ledger, by its folder, or by another machine's run in MLflow."""
    known: tuple[Configuration, ...] = ()
    if spec.is_open_ended:
        from orchestrator.search import read_known

        known = tuple(configuration for configuration, _ in read_known(spec, facts, home.optuna_url or home.optuna_journal))
    plan = make_plan(spec, facts, {}, known=known)
    specs = [trial.spec for trial in plan.trials]
    states = {key: row.state for key, row in ledger.states([trial.key for trial in specs], spec.name).items()}
    missing = {trial.key: trial for trial in specs if _find_here(home, trial) is None}
    found = set(_adopt(home, list(missing.values()), console)) if home.tracking and missing else set()
    for trial in specs:
        if trial.key not in missing or trial.key in found:
            states[trial.key] = TrialState.COMPLETE
        elif states.get(trial.key) is TrialState.COMPLETE:  # whose result is nowhere to be had
            states[trial.key] = TrialState.WAITING
    return make_plan(spec, facts, states, known=known)


def _adopt(home: Home, specs: Sequence[TrialSpec], console: Console) -> list[str]:
    """Take over what other machines have finished; a server that cannot be reached stops no sweep."""
    from orchestrator.tracking.adopt import adopt_finished

    try:
        return adopt_finished(home, specs)
    except TrackingError as error:
        console.print(f"[yellow]planned from this machine alone[/]: {escape(str(error))}", soft_wrap=True)
        return []


def _find_here(home: Home, spec: TrialSpec) -> TrialResult | None:
    """A finished trial's result in its folder on this machine."""
    result = TrialFolder(home.trial_folder(spec.key)).result()
    return result if result is not None and result.state is TrialState.COMPLETE else None


def _find_elsewhere(home: Home, spec: TrialSpec) -> TrialResult | None:
    """The result of a trial that another machine has finished, by way of the tracking server."""
    from orchestrator.tracking.adopt import adopt_finished

    return _find_here(home, spec) if adopt_finished(home, [spec]) else None


def live_keys(ledger: Ledger, sweep: str) -> list[str]:
    """Trials that another dispatcher works on right now."""
    now_s = ledger.now_s()
    return [key for key, row in ledger.states(ledger.members(sweep)).items() if row.is_held(now_s)]


def _mirror_rest(tracker: MlflowTracker, sweep: str, outcome: Outcome, home: Home, console: Console) -> None:
    """Wait for the tracking server, within reason: what it lacks is in the trial folders and is sent by the next sweep."""
    console.print("sending what is left to MLflow; Ctrl-C leaves it to the next run")
    try:
        late = tracker.close(SHORT_TIMEOUT_S if outcome.interrupted or tracker.trouble else MIRROR_TIMEOUT_S)
    except KeyboardInterrupt:
        late = tracker.close(0.0)
    if late:
        trouble = escape(tracker.trouble or "the server is slow")
        console.print(
            f"[yellow]{len(late)} trials of {escape(sweep)} are not in MLflow yet[/]: {trouble}. "
            f"Nothing is lost: they are in {escape(str(home.trials))} and are sent when the sweep is run again.",
            soft_wrap=True,
        )
