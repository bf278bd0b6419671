"""Prepares a sweep before anything runs: checks the inputs, finds trials that are already done, makes the plan."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrator.dispatch.notifications import open_services
from orchestrator.dispatch.summary import PlanReport
from orchestrator.ensemble.fixed import look_up_ensembles
from orchestrator.errors import TrackingError
from orchestrator.planning.configuration import Configuration, Facts
from orchestrator.planning.forecast.outlook import look_ahead
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.preflight import prepare
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult, TrialSpec, TrialState
from trainers.config import DataConfig


def plan_sweep(file: Path, *, overrides: Sequence[str], launcher: str, slots: int | None, again: str | None = None) -> PlanReport:
    """Make the plan of ``file`` and run nothing, for `orchestrate sweep --plan`; launcher, slots, again: as run_sweep.

    Raises:
        SpecError: the file or an override is wrong.
        DataError: the data cannot be used.
    """
    spec = load_spec(file, overrides)
    home = Home.from_environment()
    open_services(spec)  # refuses unusable addresses
    facts = check_inputs(spec, home, again=again)
    ledger = Ledger(home.ledger_url)
    plan = make_current_plan(spec, facts, home, ledger, Console(stderr=True))
    outlook = look_ahead(spec, plan, home, ledger, slots=count_slots(launcher, slots))
    return PlanReport(spec, plan, tuple(look_up_ensembles(plan, home)), outlook)


def count_slots(launcher: str, slots: int | None) -> int | None:
    """The requested slots, limited to one inline."""
    return 1 if launcher == "inline" else slots


def check_inputs(
    spec: SweepSpec, home: Home, *, again: str | None, locate: Callable[[DataConfig], DataConfig] = lambda data: data
) -> Facts:
    """Check data, custom code and Optuna's options of a sweep. again: as run_sweep; locate: as prepare.

    Raises:
        SpecError: the file is wrong.
        DataError: the data cannot be used.
    """
    if spec.is_open_ended or spec.pruner:
        from orchestrator.search import check_search

        check_search(spec)
    with redirect_stdout(sys.stderr):  # imports custom code, which may print
        return replace(prepare(spec, home.data, locate), again=again)


def make_current_plan(spec: SweepSpec, facts: Facts, home: Home, ledger: Ledger, console: Console) -> Plan:
    """Make the plan, with each trial's state from the ledger, its folder, or another machine's run in MLflow."""
    known: tuple[Configuration, ...] = ()
    if spec.is_open_ended:
        from orchestrator.search import read_known

        known = tuple(configuration for configuration, _ in read_known(spec, facts, home.storage or home.optuna_journal))
    plan = make_plan(spec, facts, known=known)
    specs = [trial.spec for trial in plan.trials]
    states = {key: row.state for key, row in ledger.states([trial.key for trial in specs], spec.name).items()}
    missing = {trial.key: trial for trial in specs if TrialFolder(home.trial_folder(trial.key)).complete_result() is None}
    found = set(_adopt(home, list(missing.values()), console)) if home.tracking and missing else set()
    for trial in specs:
        if trial.key not in missing or trial.key in found:
            states[trial.key] = TrialState.COMPLETE
        elif states.get(trial.key) is TrialState.COMPLETE:  # its result is lost
            states[trial.key] = TrialState.WAITING
    return plan.with_states(states)


def _adopt(home: Home, specs: Sequence[TrialSpec], console: Console) -> list[str]:
    """Adopt trials that other machines finished; a sweep also runs without the server."""
    from orchestrator.tracking.reader.adopt import adopt_finished

    try:
        return adopt_finished(home, specs)
    except TrackingError as error:
        console.print(f"[yellow]planned from this machine alone[/]: {escape(str(error))}", soft_wrap=True)
        return []


def fetch_result(home: Home, spec: TrialSpec) -> TrialResult | None:
    """The result of a trial that another machine finished, from the tracking server."""
    from orchestrator.tracking.reader.adopt import adopt_finished

    return TrialFolder(home.trial_folder(spec.key)).complete_result() if adopt_finished(home, [spec]) else None
