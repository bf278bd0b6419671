"""Runs a sweep from its file to its summary: builds the parts, passes them to the dispatcher, evaluates fixed ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from orchestrator.dispatch.loop.dispatcher import Dispatcher
from orchestrator.dispatch.loop.memory import MemoryEstimates, read_peaks
from orchestrator.dispatch.loop.ports import Policy, Ports, Session, SweepOutcome
from orchestrator.dispatch.notifications import Message, Service, describe_end, describe_failure, open_services
from orchestrator.dispatch.preparation import check_inputs, count_slots, fetch_result, make_current_plan
from orchestrator.dispatch.progress import SweepProgress
from orchestrator.dispatch.shutdown import StopListener, interrupt_on_request, registered, stop_on_request
from orchestrator.dispatch.summary import SweepReport, describe_data, summarize_plan
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
from orchestrator.planning.forecast.outlook import look_ahead
from orchestrator.planning.forecast.snapshot import PlanSnapshot, write_snapshot
from orchestrator.planning.plan import Plan
from orchestrator.planning.shared import share_plan
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import TrialSpec
from orchestrator.tracking.checkpoints.uploads import open_checkpoints
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.tracker import MlflowTracker

if TYPE_CHECKING:
    from orchestrator.search import StudySearch

MIRROR_TIMEOUT_S = 120.0
"""Maximum wait for the tracking server at the end of a sweep."""

SHORT_TIMEOUT_S = 10.0
"""The same after Ctrl-C, or if the server did not answer the last time."""


def run_sweep(file: Path, *, overrides: Sequence[str], launcher: str, slots: int | None, again: str | None = None) -> SweepReport:
    """Run the unfinished trials of ``file``; progress goes to standard error.

    slots: number of parallel trials; None: as the file says, else one per GPU or core. again: a name under which everything is
    trained again.

    Raises:
        SpecError: the file or an override is wrong.
        DataError: the data cannot be used.
        LaunchError: no worker can be started, or the disk has no room for the first trials.
    """
    console = Console(stderr=True)
    console.print(f"reading {file}", highlight=False, markup=False, soft_wrap=True)
    spec = load_spec(file, overrides)
    home = Home.from_environment()
    services = open_services(spec)
    try:
        report = _run_spec(spec, home, launcher=launcher, slots=slots, again=again, console=console)
    except BaseException as error:  # interruptions too
        _notify(services, describe_failure(spec.name, error, home), console)
        raise
    _notify(services, describe_end(report, home), console)
    return report


def _notify(services: Sequence[Service], message: Message, console: Console) -> None:
    for service in services:
        if (trouble := service.send(message)) is not None:
            console.print(f"[yellow]notify[/]: {escape(trouble)}", soft_wrap=True)


def _run_spec(
    spec: SweepSpec, home: Home, *, launcher: str, slots: int | None, again: str | None, console: Console
) -> SweepReport:
    ledger = Ledger(home.ledger_url)
    workers: Launcher | None = None
    try:
        if not ledger.members(spec.name):  # a new sweep: workers import torch in the background while the plan is made
            workers = build_launcher(launcher, spec, slots=slots)
        with registered(home, ledger, spec.name, Role.SWEEP) as listener:  # before the data are read: `clean` then keeps them
            facts = check_inputs(spec, home, again=again)
            plan = make_current_plan(spec, facts, home, ledger, console)
            outlook = look_ahead(spec, plan, home, ledger, slots=count_slots(launcher, slots))
            for line in (*describe_data(plan), summarize_plan(spec, plan), *outlook.lines()):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            if outlook.disk and (lack := outlook.disk.find_shortage()):
                raise LaunchError(lack)
            share_plan(spec, plan, home=home, ledger=ledger)
            _store_snapshot(outlook.snapshot, home, console)
            if workers is None:
                workers = build_launcher(launcher, spec, slots=slots) if plan.has_work else NothingToLaunch()
            session = Session(spec.name, listener.owner, home, ledger)
            return PlanRun(spec, plan, outlook.start_order, session, listener, workers, console).run()
    finally:
        if workers is not None:
            workers.close()


def build_launcher(name: str, spec: SweepSpec, *, slots: int | None) -> Launcher:
    """Build the launcher of that name for a sweep's trials. slots: as run_sweep.

    Raises:
        LaunchError: this machine has nothing for it to run on.
    """
    asked = spec.resources
    requester = Requester(spec.name, spec.priority)
    return LAUNCHERS[name](SlotRequest(slots or asked.slots, asked.threads_per_slot, asked.trials_per_gpu, requester))


def _store_snapshot(snapshot: PlanSnapshot, home: Home, console: Console) -> None:
    """Store what the next plan is compared with; the sweep also runs without it."""
    try:
        write_snapshot(home.plans, snapshot)
    except OSError as error:
        console.print(f"[yellow]the next plan cannot show what was changed[/]: {escape(str(error))}", soft_wrap=True)


@dataclass(frozen=True)
class PlanRun:
    """One run of a plan. Call ``run`` once.

    start_order: the plan with its longest trials first. is_worker: the sweep was begun by another command, which evaluates the
    ensembles. leave_after_s: as Policy.
    """

    spec: SweepSpec
    plan: Plan
    start_order: Plan
    session: Session
    listener: StopListener
    launcher: Launcher
    console: Console
    is_worker: bool = False
    leave_after_s: float | None = None

    def run(self) -> SweepReport:
        """Run the trials that are left, then evaluate the ensembles and send the rest to MLflow."""
        tracker = MlflowTracker(TrackingLocation.of(self.session.home), takeover_s=self.spec.limits.takeover_s)
        tracker.label(self.spec.name, self.plan.labels)
        tracker.record_keep(self.spec.name, str(self.spec.keep.checkpoints))
        tracker.reconcile(self.spec.name, partial(_held_keys, self.session.ledger, self.spec.name))
        search = self._build_search()
        outcome = self._dispatch(search, tracker)
        with interrupt_on_request(self.listener):
            outcome, ensembles = (outcome, []) if self.is_worker else self._evaluate(outcome, tracker)
            self._mirror_rest(tracker, is_interrupted=outcome.interrupted)
        if not outcome.interrupted:
            for line in keep_at_end(self.session.home, self.spec.name, self.spec.keep.checkpoints):
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        names = [*(trial.spec.key for trial in outcome.trials), *(ensemble.planned.title for ensemble in ensembles)]
        run_ids = {name: tracker.run_id(self.spec.name, name) for name in names}
        position = {trial.spec.key: i for i, trial in enumerate(self.plan.trials)}  # the file's order, whatever ran first
        trials = sorted(outcome.trials, key=lambda trial: position.get(trial.spec.key, len(position)))
        return SweepReport(
            self.spec.name, replace(outcome, trials=tuple(trials)), tuple(ensembles), run_ids, search.stopped_because
        )

    def _build_search(self) -> StudySearch:
        from orchestrator.search import build_search, read_epochs  # imports optuna, after the first output

        home = self.session.home
        return build_search(
            self.spec,
            self.start_order,
            home.storage or home.optuna_journal,
            owner=self.session.owner,
            is_dead=home.is_dead,
            history=partial(read_epochs, home),
            reconnection=self.session.ledger.reconnection,
        )

    def _dispatch(self, search: StudySearch, tracker: MlflowTracker) -> SweepOutcome:
        spec, home = self.spec, self.session.home
        total = None if self.plan.open_ended else len(self.plan.trials)
        with SweepProgress(total=total, starts_workers=self.plan.has_work, console=self.console) as progress:
            ports = Ports(
                search,
                self.launcher,
                tracker,
                progress,
                find_result=partial(fetch_result, home) if home.tracking else None,
                open_checkpoints=open_checkpoints(TrackingLocation.of(home)),
            )
            policy = Policy(spec.retry, spec.limits, spec.keep, self.leave_after_s)
            dispatcher = Dispatcher(self.session, ports, policy, memory=MemoryEstimates(read_peaks(home)))
            with stop_on_request(dispatcher.request_stop, self.listener, progress.note):
                return dispatcher.run()

    def _evaluate(self, outcome: SweepOutcome, tracker: MlflowTracker) -> tuple[SweepOutcome, list[EnsembleOutcome]]:
        """Evaluate the fixed ensembles and log the table; after an interruption, look up earlier evaluations."""
        home = self.session.home
        if outcome.interrupted or outcome.halted or not self.plan.ensembles:
            ensembles = look_up_ensembles(self.plan, home)
        else:
            self.console.print(f"evaluating {len(self.plan.ensembles)} ensembles; Ctrl-C leaves them to the next run")
            members = {trial.spec.key: MemberTrial(trial.state, trial.result, trial.reason) for trial in outcome.trials}
            find = partial(_find_predictions, home)
            try:
                ensembles = evaluate_ensembles(self.plan, members, cache=home.cache, find_predictions=find)
            except KeyboardInterrupt:
                return replace(outcome, interrupted=True), look_up_ensembles(self.plan, home)
        if self.spec.rows and not outcome.interrupted:
            tracker.log_table(self.spec.name, [make_record(e) for e in ensembles if e.state is not EnsembleState.WAITING])
        return outcome, ensembles

    def _mirror_rest(self, tracker: MlflowTracker, *, is_interrupted: bool) -> None:
        """Wait for the tracking server, within limits: what it lacks is in the trial folders, and the next sweep sends it."""
        self.console.print("sending what is left to MLflow; Ctrl-C leaves it to the next run")
        why = "the server is slow"
        try:
            late = tracker.close(SHORT_TIMEOUT_S if is_interrupted or tracker.trouble else MIRROR_TIMEOUT_S)
        except KeyboardInterrupt:
            late, why = tracker.close(0.0), "the wait was interrupted"
        if late:
            sweep, trouble = escape(self.spec.name), escape(tracker.trouble or why)
            self.console.print(
                f"[yellow]{len(late)} trials of {sweep} are not completely in MLflow yet[/]: {trouble}. "
                f"Nothing is lost: they are in {escape(str(self.session.home.trials))}, and the next run of the sweep or "
                f"`orchestrate sync {sweep}` sends them.",
                soft_wrap=True,
            )


def _held_keys(ledger: Ledger, sweep: str) -> list[str]:
    """Trials that another dispatcher works on right now."""
    now_s = ledger.now_s()
    return [key for key, row in ledger.states(ledger.members(sweep)).items() if row.is_held(now_s)]


def _find_predictions(home: Home, spec: TrialSpec) -> Path:
    """The folder with a finished trial's predictions: its own, or a download from the tracking server."""
    folder = home.trial_folder(spec.key)
    if (folder / TrialFile.PREDICTIONS_INFO).exists():
        return folder
    from orchestrator.ensemble.pooling import fetch_predictions
    from orchestrator.tracking.reader.runs import RunReader

    location = TrackingLocation.of(home)
    reader = RunReader(location)
    run = reader.find_finished([spec.key]).get(spec.key)
    if run is None:
        raise TrackingError(f"neither {folder} nor {location} has predictions of {spec.name}. Train it again.")
    return fetch_predictions(reader, run, home.cache)
