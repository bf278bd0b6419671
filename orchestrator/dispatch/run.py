"""Runs a sweep from its file to its summary: builds the parts, hands them to the dispatcher, evaluates its fixed ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrator.dispatch.loop.dispatcher import Dispatcher
from orchestrator.dispatch.loop.memory import Needs, read_peaks
from orchestrator.dispatch.loop.ports import Outcome
from orchestrator.dispatch.notifications import Message, Notifier, describe_end, describe_failure, open_notifier
from orchestrator.dispatch.progress import SweepProgress
from orchestrator.dispatch.resume import find_elsewhere, look_at_data, look_up, num_slots
from orchestrator.dispatch.shutdown import Presence, heeding_stops, interrupted_by_stops, present
from orchestrator.dispatch.summary import SweepReport, describe_data, describe_outcome, summarize_plan
from orchestrator.ensemble.fixed import (
    EnsembleOutcome,
    EnsembleState,
    MemberTrial,
    evaluate_ensembles,
    look_up_ensembles,
    make_record,
)
from orchestrator.errors import LaunchError, TrackingError
from orchestrator.launchers.base import Launcher, NothingToLaunch, Requester, SlotRequest
from orchestrator.launchers.choose import LAUNCHERS
from orchestrator.operations.retention.clean import keep_at_end
from orchestrator.planning.configuration import Configuration
from orchestrator.planning.forecast import look_ahead
from orchestrator.planning.forecast.diff import content_of
from orchestrator.planning.forecast.snapshot import write_record
from orchestrator.planning.plan import Plan, longest_first, round_of, trials_of
from orchestrator.planning.shared import make_label, share_plan
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import TrialSpec
from orchestrator.tracking.checkpoints.uploads import open_checkpoints
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.tracker import MlflowTracker

MIRROR_TIMEOUT_S = 120.0
"""How long the end of a sweep waits for the tracking server."""

SHORT_TIMEOUT_S = 10.0
"""The same, after Ctrl-C, or when the server has not answered the last time either."""


def run_sweep(file: Path, *, overrides: Sequence[str], launcher: str, slots: int | None, again: str | None = None) -> SweepReport:
    """Run what the sweep of ``file`` still lacks; progress goes to standard error.

    slots: trials at once; None: what the file says, else one a GPU or a core. again: a name under which everything is trained,
    whatever was trained without it or under another.

    Raises:
        SpecError: the file or an override is wrong.
        DataError: the data cannot be used.
        LaunchError: no worker can be started, or the disk has no room for what the first trials write.
    """
    console = Console(stderr=True)
    console.print(f"reading {file}", highlight=False, markup=False, soft_wrap=True)
    spec = load_spec(file, overrides)
    home = Home.from_environment()
    notifier = open_notifier(spec)
    try:
        report = _run_spec(spec, home, launcher=launcher, slots=slots, again=again, console=console)
    except BaseException as error:  # of an interruption too: whoever waits for the sweep is told
        _tell(notifier, describe_failure(spec.name, error, home), console)
        raise
    _tell(notifier, describe_end(report, home), console)
    return report


def _tell(notifier: Notifier, message: Message, console: Console) -> None:
    for trouble in notifier.tell(message):
        console.print(f"[yellow]notify[/]: {escape(trouble)}", soft_wrap=True)


def _run_spec(
    spec: SweepSpec, home: Home, *, launcher: str, slots: int | None, again: str | None, console: Console
) -> SweepReport:
    ledger = Ledger(home.ledger_url)
    is_new = not ledger.members(spec.name)

    # of a new sweep first, because workers import torch in the background while data and plan are looked at
    workers: Launcher | None = None
    try:
        if is_new:
            workers = build_launcher(launcher, spec, slots=slots)
        with present(home, ledger, spec.name, Role.SWEEP) as presence:  # before the data are looked at: `clean` leaves them alone
            facts = look_at_data(spec, home, again=again)
            plan = look_up(spec, facts, home, ledger, console)
            outlook = look_ahead(spec, plan, home, ledger, slots=num_slots(launcher, slots))
            for line in (*describe_data(plan), summarize_plan(spec, plan), *outlook.lines()):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            if outlook.disk and (lack := outlook.disk.find_shortage()):
                raise LaunchError(lack)
            share_plan(spec, plan, home=home, ledger=ledger)
            _keep_content(spec, plan, home, console)
            if workers is None:
                workers = build_launcher(launcher, spec, slots=slots) if plan.has_work else NothingToLaunch()
            return run_plan(
                spec,
                plan,
                durations_s=outlook.durations_s,
                home=home,
                ledger=ledger,
                presence=presence,
                launcher=workers,
                console=console,
            )
    finally:
        if workers is not None:
            workers.close()


def build_launcher(name: str, spec: SweepSpec, *, slots: int | None) -> Launcher:
    """The launcher of that name for a sweep's trials. slots: trials at once; None: what the file says, else one a GPU or a core.

    Raises:
        LaunchError: this machine has nothing for it to run on.
    """
    asked = spec.resources
    requester = Requester(spec.name, spec.priority)
    return LAUNCHERS[name](SlotRequest(slots or asked.slots, asked.threads_per_slot, asked.trials_per_gpu, requester))


def _keep_content(spec: SweepSpec, plan: Plan, home: Home, console: Console) -> None:
    """For the next plan to tell what was changed; no reason to train nothing where it cannot be written."""
    try:
        write_record(home.plans, spec.name, content_of(spec, plan))
    except OSError as error:
        console.print(f"[yellow]the next plan cannot tell what was changed[/]: {escape(str(error))}", soft_wrap=True)


def run_plan(
    spec: SweepSpec,
    plan: Plan,
    *,
    durations_s: Mapping[str, float],
    home: Home,
    ledger: Ledger,
    presence: Presence,
    launcher: Launcher,
    console: Console,
    is_worker: bool = False,
    leave_after_s: float | None = None,
) -> SweepReport:
    """Work the plan off, be it one's own or, as a worker, that of a sweep; which then sees to the ensembles of its table.

    leave_after_s: how long to wait for nothing but others' trials; None: until they have ended.
    durations_s: what trials are expected to take, by their keys; the longest of a round goes first.
    """
    from orchestrator.search import build_search, read_epochs  # optuna takes a second: after the first sign of life

    tracker = MlflowTracker(TrackingLocation.of(home), takeover_s=spec.limits.takeover_s)
    reported = {str(row.id): row.reported for row in spec.rows}
    tracker.label(spec.name, {t.spec.key: make_label(t.configuration, t.spec, reported) for t in plan.trials})
    tracker.record_keep(spec.name, str(spec.keep.checkpoints))
    tracker.reconcile(spec.name, lambda: live_keys(ledger, spec.name))
    storage, history = home.optuna_url or home.optuna_journal, partial(read_epochs, home)
    in_order = longest_first(plan, spec, durations_s)
    search = build_search(
        spec, in_order, storage, owner=presence.owner, is_dead=home.is_dead, history=history, reconnection=ledger.reconnection
    )

    def list_trials(configuration: Configuration) -> list[TrialSpec]:
        trials = trials_of(configuration, spec, plan.facts)
        tracker.label(spec.name, {trial.key: make_label(configuration, trial, reported) for trial in trials})
        return trials

    total = None if plan.open_ended else len(plan.trials)
    with SweepProgress(total=total, starts_workers=plan.has_work, console=console) as progress:
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
            find_result=(lambda trial: find_elsewhere(home, trial)) if home.tracking else None,
            open_checkpoints=open_checkpoints(TrackingLocation.of(home)),
            monitor=progress,
            retry=spec.retry,
            limits=spec.limits,
            keep=spec.keep,
            needs=Needs(read_peaks(home)),
            leave_after_s=leave_after_s,
        )
        with heeding_stops(dispatcher, presence.listener, progress.note):
            outcome = dispatcher.run()
    with interrupted_by_stops(presence.listener):
        ensembles: list[EnsembleOutcome] = []
        if not is_worker:
            outcome, ensembles = _combine(plan, outcome, home, console)
        if spec.rows and not outcome.interrupted and not is_worker:
            tracker.log_table(spec.name, [make_record(e) for e in ensembles if e.state is not EnsembleState.WAITING])
        _mirror_rest(tracker, spec.name, outcome, home, console)
    if not outcome.interrupted:
        for line in keep_at_end(home, spec.name, spec.keep.checkpoints):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    position = {trial.spec.key: i for i, trial in enumerate(plan.trials)}  # in the order of the file, whatever ran first
    return SweepReport(
        spec.name,
        outcome.wall_s,
        tuple(
            describe_outcome(trial, run_id=tracker.run_id(spec.name, trial.spec.key))
            for trial in sorted(outcome.trials, key=lambda trial: position.get(trial.spec.key, len(position)))
        ),
        outcome.interrupted,
        tuple(e.to_json_with_result(tracker.run_id(spec.name, e.planned.title)) for e in ensembles),
        search.stopped_because,
        outcome.halted,
    )


def _combine(plan: Plan, outcome: Outcome, home: Home, console: Console) -> tuple[Outcome, list[EnsembleOutcome]]:
    """Evaluate the fixed ensembles that can be; after an interruption, or one now, those of earlier runs are looked up."""
    if outcome.interrupted or outcome.halted or not plan.ensembles:
        return outcome, look_up_ensembles(plan, home)
    console.print(f"evaluating {len(plan.ensembles)} ensembles; Ctrl-C leaves them to the next run")
    members = {trial.spec.key: MemberTrial(trial.state, trial.result, trial.reason) for trial in outcome.trials}
    try:
        found = evaluate_ensembles(plan, members, cache=home.cache, find_predictions=lambda trial: _find_predictions(home, trial))
    except KeyboardInterrupt:
        return replace(outcome, interrupted=True), look_up_ensembles(plan, home)
    return outcome, found


def _find_predictions(home: Home, spec: TrialSpec) -> Path:
    """The folder that holds a finished trial's predictions: its own, or what the tracking server has of it."""
    folder = home.trial_folder(spec.key)
    if (folder / TrialFile.PREDICTIONS_INFO).exists():
        return folder
    from orchestrator.ensemble.pooling import fetch_predictions
    from orchestrator.tracking.reader.runs import RunReader

    reader = RunReader(TrackingLocation.of(home))
    run = reader.find_finished([spec.key]).get(spec.key)
    if run is None:
        raise TrackingError(f"{folder}: has no predictions of {spec.name}, nor has {TrackingLocation.of(home)}. Train it again.")
    return fetch_predictions(reader, run, home.cache)


def live_keys(ledger: Ledger, sweep: str) -> list[str]:
    """Trials that another dispatcher works on right now."""
    now_s = ledger.now_s()
    return [key for key, row in ledger.states(ledger.members(sweep)).items() if row.is_held(now_s)]


def _mirror_rest(tracker: MlflowTracker, sweep: str, outcome: Outcome, home: Home, console: Console) -> None:
    """Wait for the tracking server, within reason: what it lacks is in the trial folders and is sent by the next sweep."""
    console.print("sending what is left to MLflow; Ctrl-C leaves it to the next run")
    why = "the server is slow"
    try:
        late = tracker.close(SHORT_TIMEOUT_S if outcome.interrupted or tracker.trouble else MIRROR_TIMEOUT_S)
    except KeyboardInterrupt:
        late, why = tracker.close(0.0), "it was not waited for"
    if late:
        trouble = escape(tracker.trouble or why)
        console.print(
            f"[yellow]{len(late)} trials of {escape(sweep)} are not wholly in MLflow yet[/]: {trouble}. "
            f"Nothing is lost: they are in {escape(str(home.trials))} and are sent when the sweep is run again, or by "
            f"`orchestrate sync {escape(sweep)}`.",
            soft_wrap=True,
        )
