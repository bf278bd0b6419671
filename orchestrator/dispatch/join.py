"""`orchestrate worker`: joins a sweep that was begun elsewhere, by the plan that lies in the ledger; plans nothing itself."""

from __future__ import annotations

import os
import socket
import time
from functools import partial

from rich.console import Console

from orchestrator.dispatch.resume import look_at_data, look_up
from orchestrator.dispatch.run import build_launcher, run_plan
from orchestrator.dispatch.shutdown import present
from orchestrator.dispatch.summary import SweepReport, summarize_plan
from orchestrator.errors import DataError, SpecError, TrackingError
from orchestrator.launchers.base import Launcher, NothingToLaunch
from orchestrator.planning.configuration import Facts
from orchestrator.planning.plan import Plan
from orchestrator.planning.preflight import DATA_FOLDER, locate_source
from orchestrator.planning.shared import SharedPlan, read_shared_plan
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from trainers.config import TRAINER_VERSION, DataConfig

ASK_S = 1.0
"""Between two looks at whether a sweep has begun."""


def join_sweep(sweep: str, *, launcher: str, slots: int | None, leave_after_s: float | None = None) -> SweepReport:
    """Work on ``sweep`` beside whoever began it, until nothing of it is left; progress goes to standard error.

    slots: trials at once; None: what the file says, else one a GPU or a core. leave_after_s: how long to wait for nothing but
    others' trials, and before that for the sweep to begin; None: until they have ended, and not at all.

    Raises:
        SpecError: nobody began the sweep, or this machine has other code than the one that did.
        DataError: its data are not on this machine, or are others.
        TrackingError: results could not be exchanged.
        LaunchError: no worker can be started.
    """
    console = Console(stderr=True)
    home = Home.from_environment()
    ledger = Ledger(home.ledger_url)
    _await_plan(ledger, sweep, console, longest_s=leave_after_s or 0.0)
    shared = _read(ledger, sweep)
    _check_exchange(shared, home)
    spec = shared.spec
    with present(home, ledger, sweep, Role.WORKER) as presence:
        locate = partial(locate_source, folder=os.environ.get(DATA_FOLDER))
        facts = look_at_data(spec, home, again=shared.again, locate=locate)
        _check_facts(shared, facts)
        plan = look_up(spec, facts, home, ledger, console)
        _check_trials(shared, plan)
        console.print(f"joining {summarize_plan(spec, plan)}", highlight=False, markup=False, soft_wrap=True)
        workers: Launcher = NothingToLaunch()
        if plan.has_work:
            workers = build_launcher(launcher, spec, slots=slots)
        try:
            return run_plan(
                spec,
                plan,
                durations_s={},
                home=home,
                ledger=ledger,
                presence=presence,
                launcher=workers,
                console=console,
                is_worker=True,
                leave_after_s=leave_after_s,
            )
        finally:
            workers.close()


def _await_plan(ledger: Ledger, sweep: str, console: Console, *, longest_s: float) -> None:
    """Give whoever begins the sweep time to plan it."""
    deadline_s = time.monotonic() + longest_s
    if longest_s and ledger.roster.read_plan(sweep) is None:
        console.print(f"waiting for {sweep} to begin", highlight=False, markup=False)
    while time.monotonic() < deadline_s and ledger.roster.read_plan(sweep) is None:
        time.sleep(ASK_S)


def _read(ledger: Ledger, sweep: str) -> SharedPlan:
    ledger.check_sweeps([sweep])
    shared = read_shared_plan(ledger, sweep)
    if shared is None:
        raise SpecError(f"{sweep}: the ledger has no plan of it. Begin it with `orchestrate sweep FILE`, and join it then.")
    if shared.trainer_version != TRAINER_VERSION:
        raise SpecError(
            f"{sweep}: was begun with trainer version {shared.trainer_version}, and this machine has {TRAINER_VERSION}: "
            "their results differ. Install the same orchestrate on both."
        )
    return shared


def _check_exchange(shared: SharedPlan, home: Home) -> None:
    """With one ledger and a home each, results travel by way of the tracking server."""
    if home.storage is None or shared.host == socket.gethostname() or (shared.has_tracking and home.tracking):
        return
    lacking = "this machine" if shared.has_tracking else f"{shared.host}, which began the sweep,"
    raise TrackingError(
        f"{shared.spec.name}: {lacking} has no MLFLOW_TRACKING_URI, so that neither machine would find the other's results. "
        "Set it to the same server on both."
    )


def _check_facts(shared: SharedPlan, facts: Facts) -> None:
    """That data and the user's code are those of the machine that planned."""
    for known in shared.data:
        found = facts.data[known.source]
        if (found.fingerprint, found.removed) != (known.fingerprint, known.removed):
            what = "the same pictures, cleaned otherwise," if found.fingerprint == known.fingerprint else "other pictures"
            here = locate_source(DataConfig.model_validate_json(known.source), os.environ.get(DATA_FOLDER))
            raise DataError(
                f"{here.source}: {shared.spec.name} was begun on {shared.host} with fingerprint {known.fingerprint}, and "
                f"what this machine has is {found.fingerprint}: {what} than there. Copy that file here, or set {DATA_FOLDER}."
            )
    for path, known_hash in shared.code.items():
        if facts.code.get(path) != known_hash:
            raise SpecError(
                f"{path}: its file differs from that on {shared.host}, which began {shared.spec.name}. Copy it here, or begin "
                "the sweep again."
            )


def _check_trials(shared: SharedPlan, plan: Plan) -> None:
    """That both machines understand the same trials by the same plan; a search may have come to more since."""
    if strange := {trial.key for trial in shared.trials} - {trial.spec.key for trial in plan.trials}:
        raise SpecError(
            f"{shared.spec.name}: {len(strange)} of {len(shared.trials)} trials that {shared.host} planned are others here. "
            "Install the same orchestrate on both machines."
        )
