"""Runs a sweep from its file to its report: builds the parts, hands them to the dispatcher, and says what came of it."""

from __future__ import annotations

import math
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.configuration import Configuration, Facts
from orchestrator.dispatcher import Dispatcher
from orchestrator.errors import TrackingError
from orchestrator.home import Home
from orchestrator.launchers import LAUNCHERS
from orchestrator.launchers.base import Launcher, NothingToLaunch
from orchestrator.leaderboard import describe_config
from orchestrator.ledger import Ledger
from orchestrator.parts import Outcome, TrialOutcome
from orchestrator.plan import Plan, PlannedTrial, make_plan, round_of, trials_of
from orchestrator.preflight import prepare
from orchestrator.progress import STATE_COLORS, SweepProgress
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.tracking.mirror import MlflowTracker
from orchestrator.tracking.place import Place
from orchestrator.trial import TrialFolder, TrialResult, TrialSpec, TrialState

MIRROR_TIMEOUT_S = 120.0
"""How long the end of a sweep waits for the tracking server."""

SHORT_TIMEOUT_S = 10.0
"""The same, after Ctrl-C, or when the server has not answered the last time either."""


@dataclass(frozen=True)
class SweepReport:
    """What ``orchestrate sweep`` prints."""

    sweep: str
    wall_s: float
    trials: tuple[dict[str, Any], ...]
    interrupted: bool
    note: str | None = None
    """Why the search ended early."""

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trials failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return int(any(trial["state"] == TrialState.FAILED for trial in self.trials))

    def to_json(self) -> dict[str, Any]:
        return {"sweep": self.sweep, "wall_s": round(self.wall_s, 3), "trials": list(self.trials)}

    def render(self) -> Group:
        states = [trial["state"] for trial in self.trials]
        counted = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states)) or "no trials"
        lines = [f"{self.sweep}: {counted} in {self.wall_s:.0f} s"]
        if self.note:
            lines.append(self.note)
        if self.interrupted:
            lines.append("Interrupted; the same command goes on where it stopped.")
        elif self.exit_code:
            lines.append(
                "Why trials failed: see above, or log.txt in their folders. `orchestrate retry` lets them be tried again."
            )
        lines.append(f"Ranking: orchestrate leaderboard {self.sweep}    Ensemble: orchestrate best-ensemble {self.sweep} --k 4")
        return Group(*(Text(line) for line in lines))


@dataclass(frozen=True)
class PlanReport:
    """What ``orchestrate sweep --plan`` prints."""

    spec: SweepSpec
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        return {
            "sweep": self.plan.sweep,
            "open_ended": self.plan.open_ended,
            "trials": [
                {
                    "key": trial.spec.key,
                    "name": trial.spec.name,
                    "state": trial.state,
                    "config": describe_config(trial.spec),
                    "configuration": trial.configuration.id,
                }
                for trial in self.plan.trials
            ],
        }

    def render(self) -> Group:
        table = Table(title=f"Plan of {self.plan.sweep}", box=None, padding=(0, 2), header_style="dim", title_justify="left")
        for title in ("", "trial", "epochs", "seed", "key", "state"):
            table.add_column(title, justify="right" if title in ("", "epochs", "seed") else "left", overflow="fold")
        for number, trial in enumerate(self.plan.trials, start=1):
            table.add_row(str(number), *_plan_row(trial))
        return Group(table, summarize_plan(self.spec, self.plan))


def plan_sweep(file: Path, *, overrides: Sequence[str]) -> PlanReport:
    """Lay out the sweep of ``file`` and run nothing.

    Raises:
        SpecError: the file or an override is wrong.
        DataError: the data cannot be used.
    """
    spec = load_spec(file, overrides)
    home = Home.from_environment()
    facts = _prepare(spec, home)
    return PlanReport(spec, _look_up(spec, facts, home, Ledger(home.ledger_url), Console(stderr=True)))


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
        facts = _prepare(spec, home)
        plan = _look_up(spec, facts, home, ledger, console)
        console.print(summarize_plan(spec, plan), highlight=False, markup=False, soft_wrap=True)
        if workers is None:
            workers = build() if plan.has_work else NothingToLaunch()
        with home.become_owner() as owner:
            return _run(spec, plan, home=home, ledger=ledger, owner=owner.name, launcher=workers, console=console)
    finally:
        if workers is not None:
            workers.close()


def _run(
    spec: SweepSpec, plan: Plan, *, home: Home, ledger: Ledger, owner: str, launcher: Launcher, console: Console
) -> SweepReport:
    from orchestrator.search import build_search  # optuna takes a second: after the first sign of life

    tracker = MlflowTracker(Place.of(home))
    tracker.reconcile(spec.name, _live_keys(ledger, spec.name))
    search = build_search(spec, plan, home.optuna_url or home.optuna_journal, owner=owner, is_dead=home.is_dead)
    total = None if plan.open_ended else len(plan.trials)
    with SweepProgress(total=total, console=console) as progress:
        dispatcher = Dispatcher(
            sweep=spec.name,
            search=search,
            launcher=launcher,
            tracker=tracker,
            ledger=ledger,
            home=home,
            owner=owner,
            trials_of=lambda configuration: trials_of(configuration, spec, plan.facts),
            data_folder_of=lambda trial: plan.facts.of(trial.data).folder,
            round_of=lambda trial: round_of(trial, spec, plan),
            find_result=(lambda trial: _find_elsewhere(home, trial)) if home.tracking else None,
            monitor=progress,
        )
        with _stopping(dispatcher, progress):
            outcome = dispatcher.run()
    _mirror_rest(tracker, spec.name, outcome, home, console)
    described = tuple(_describe(trial, run_id=tracker.run_id(spec.name, trial.spec.key)) for trial in outcome.trials)
    return SweepReport(spec.name, outcome.wall_s, described, outcome.interrupted, search.stopped_because)


def _prepare(spec: SweepSpec, home: Home) -> Facts:
    with redirect_stdout(sys.stderr):  # the user's own code is imported, and may print
        return prepare(spec, home.data)


def _look_up(spec: SweepSpec, facts: Facts, home: Home, ledger: Ledger, console: Console) -> Plan:
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


def summarize_plan(spec: SweepSpec, plan: Plan) -> str:
    """One line: how many trials, how many of them are done."""
    count = plan.count()
    done = f", {count[TrialState.CACHED]} of them done already" if count[TrialState.CACHED] else ""
    other = "".join(f", {count[state]} {state.lower()}" for state in (TrialState.FAILED, TrialState.PRUNED) if count[state])
    if plan.open_ended and spec.budget is not None:
        method = spec.search.method if spec.search else ""
        allowed = f"up to {spec.budget.trials} trials; {len(plan.trials)} so far{done}"
        return f"{plan.sweep}: {method} proposes as results come in, {allowed}"
    return f"{plan.sweep}: {len(plan.configurations)} configurations, {len(plan.trials)} trials{done}{other}"


def _plan_row(trial: PlannedTrial) -> tuple[str, ...]:
    train, state = trial.spec.train, trial.state
    shown = "new" if state is TrialState.WAITING else state.lower()
    color = STATE_COLORS.get(state, "default")
    return escape(trial.spec.name), str(train.epochs), str(trial.spec.seed), trial.spec.key, f"[{color}]{shown}[/]"


def _live_keys(ledger: Ledger, sweep: str) -> list[str]:
    """Trials that another dispatcher works on right now."""
    now_s = ledger.now_s()
    return [key for key, row in ledger.states(ledger.members(sweep)).items() if row.is_held(now_s)]


@contextmanager
def _stopping(dispatcher: Dispatcher, progress: SweepProgress) -> Iterator[None]:
    """Turn the first Ctrl-C (or SIGTERM) into a graceful end, the second into a quick one."""
    num_signals = 0

    def stop(_number: int, _frame: types.FrameType | None) -> None:
        nonlocal num_signals
        num_signals += 1
        if num_signals == 1:
            progress.note("stopping: running epochs end and are kept; once more to stop at once")
        dispatcher.request_stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _describe(trial: TrialOutcome, *, run_id: str | None) -> dict[str, Any]:
    """A trial in ``sweep --json``."""
    spec: TrialSpec = trial.spec
    metrics = trial.result.metrics if trial.result else {}
    return {
        "key": spec.key,
        "name": spec.name,
        "state": trial.state,
        "config": describe_config(spec),
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "run_id": run_id,
        "attempts": trial.attempts,
        "reason": trial.reason,
    }
