"""`orchestrate worker`: joins a sweep that another machine began, using the plan in the ledger."""

import socket
import time

from rich.console import Console

from orchestrator.dispatch.loop.ports import Session
from orchestrator.dispatch.preparation import check_inputs, make_current_plan
from orchestrator.dispatch.run import PlanRun, build_launcher
from orchestrator.dispatch.shutdown import registered
from orchestrator.dispatch.summary import SweepReport, summarize_plan
from orchestrator.errors import DataError, SpecError, TrackingError
from orchestrator.launchers.base import NothingToLaunch
from orchestrator.planning.configuration import Facts
from orchestrator.planning.plan import Plan
from orchestrator.planning.preflight import DATA_FOLDER, locate_source
from orchestrator.planning.shared import SharedPlan, read_shared_plan
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from trainers.config import TRAINER_VERSION, DataConfig

ASK_S = 1.0
"""Interval between two checks whether a sweep has begun."""


def join_sweep(sweep: str, *, launcher: str, slots: int | None, leave_after_s: float | None = None) -> SweepReport:
    """Run trials of ``sweep`` beside the command that began it, until none is left; progress goes to standard error.

    slots: as run_sweep. leave_after_s: exit after this many idle seconds, and wait as long for the sweep to begin; None: exit
    when the sweep ends, and do not wait for its begin.

    Raises:
        SpecError: the sweep has not begun, or this machine has different code.
        DataError: this machine does not have its data, or has different data.
        TrackingError: the machines cannot exchange results.
        LaunchError: no worker can be started.
    """
    console = Console(stderr=True)
    home = Home.from_environment()
    ledger = Ledger(home.ledger_url)
    _await_plan(ledger, sweep, console, longest_s=leave_after_s or 0.0)
    shared = _read(ledger, sweep)
    _check_exchange(shared, home)
    spec = shared.spec
    with registered(home, ledger, sweep, Role.WORKER) as listener:
        facts = check_inputs(spec, home, again=shared.again, locate=locate_source)
        _check_facts(shared, facts)
        plan = make_current_plan(spec, facts, home, ledger, console)
        _check_trials(shared, plan)
        console.print(f"joining {summarize_plan(spec, plan)}", highlight=False, markup=False, soft_wrap=True)
        workers = build_launcher(launcher, spec, slots=slots) if plan.has_work else NothingToLaunch()
        try:
            session = Session(sweep, listener.owner, home, ledger)
            run = PlanRun(spec, plan, plan, session, listener, workers, console, is_worker=True, leave_after_s=leave_after_s)
            return run.run()
        finally:
            workers.close()


def _await_plan(ledger: Ledger, sweep: str, console: Console, *, longest_s: float) -> None:
    """Wait up to ``longest_s`` for the plan of the sweep."""
    deadline_s = time.monotonic() + longest_s
    if longest_s and ledger.roster.read_plan(sweep) is None:
        console.print(f"waiting for {sweep} to begin", highlight=False, markup=False)
    while time.monotonic() < deadline_s and ledger.roster.read_plan(sweep) is None:
        time.sleep(ASK_S)


def _read(ledger: Ledger, sweep: str) -> SharedPlan:
    ledger.check_sweeps([sweep])
    shared = read_shared_plan(ledger, sweep)
    if shared is None:
        raise SpecError(f"{sweep}: the ledger has no plan of it. Begin it with `orchestrate sweep FILE`, then join it.")
    if shared.trainer_version != TRAINER_VERSION:
        raise SpecError(
            f"{sweep}: began with trainer version {shared.trainer_version}, and this machine has {TRAINER_VERSION}: "
            "their results differ. Install the same orchestrate on both machines."
        )
    return shared


def _check_exchange(shared: SharedPlan, home: Home) -> None:
    """Machines with a shared ledger and separate homes exchange results through the tracking server."""
    if home.storage is None or shared.host == socket.gethostname() or (shared.has_tracking and home.tracking):
        return
    lacking = "this machine" if shared.has_tracking else f"{shared.host}, which began the sweep,"
    raise TrackingError(
        f"{shared.spec.name}: {lacking} has no MLFLOW_TRACKING_URI, so that neither machine would find the other's results. "
        "Set it to the same server on both machines."
    )


def _check_facts(shared: SharedPlan, facts: Facts) -> None:
    """Refuse data and custom code that differ from those of the machine that planned."""
    for known in shared.data:
        found = facts.data[known.source]
        if (found.fingerprint, found.removed) != (known.fingerprint, known.removed):
            what = "the same images, cleaned differently" if found.fingerprint == known.fingerprint else "different images"
            here = locate_source(DataConfig.model_validate_json(known.source))
            raise DataError(
                f"{here.source}: {shared.spec.name} began on {shared.host} with fingerprint {known.fingerprint}, and this "
                f"machine has {found.fingerprint}: {what}. Copy that file here, or set {DATA_FOLDER}."
            )
    for path, known_hash in shared.code.items():
        if facts.code.get(path) != known_hash:
            raise SpecError(
                f"{path}: its file differs from that on {shared.host}, which began {shared.spec.name}. Copy it here, or begin "
                "the sweep again."
            )


def _check_trials(shared: SharedPlan, plan: Plan) -> None:
    """Refuse if this machine derives other trials from the plan; a search may have proposed more since."""
    if strange := {trial.key for trial in shared.trials} - {trial.spec.key for trial in plan.trials}:
        raise SpecError(
            f"{shared.spec.name}: {len(strange)} of {len(shared.trials)} trials that {shared.host} planned differ on this "
            "machine. Install the same orchestrate on both machines."
        )
