"""What `orchestrate status` prints, for people and as JSON: sweeps, running and failed trials, what MLflow lacks."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.operations.status.reading import FailedTrial, RunningTrial, SlotUse, SweepStatus, find_slot_use, read_sweep
from orchestrator.operations.stop import describe_dispatcher
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import cut_tail
from orchestrator.state.trial.records import OBJECTIVE, TrialState
from orchestrator.state.units import format_count, format_duration

SHOWN_LOG_LINES = 5
"""Lines of a failed trial's log; --json has all that was kept."""

SHOWN_NAMES = 5


@dataclass(frozen=True)
class StatusReport:
    """The state of some sweeps, and the slots of this machine."""

    sweeps: tuple[SweepStatus, ...]
    slots: SlotUse

    def to_json(self) -> dict[str, Any]:
        return {"sweeps": [_describe(sweep) for sweep in self.sweeps], "slots": asdict(self.slots)}

    def render(self) -> Group:
        parts = [part for sweep in self.sweeps for part in _draw(sweep)]
        return Group(*(parts or [Text("There are no sweeps in the ledger.")]), Text(self.slots.describe()))


def read_status(sweeps: Sequence[str] = ()) -> StatusReport:
    """The state of these sweeps; without names of all that are running, else of the last one.

    Raises:
        SpecError: there is no such sweep.
        TrackingError: the ledger cannot be used.
    """
    home = Home.from_environment()
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps(sweeps)
    running = dict.fromkeys(row.sweep for row in ledger.roster.list_alive(home.is_alive))
    latest = ledger.roster.latest()
    names = list(sweeps) or list(running) or ([latest] if latest else ledger.sweeps())
    return StatusReport(tuple(read_sweep(name, home=home, ledger=ledger) for name in names), find_slot_use())


def _describe(sweep: SweepStatus) -> dict[str, Any]:
    return {
        "sweep": sweep.sweep,
        "priority": sweep.priority,
        "trials": {state: sweep.counts[state] for state in TrialState if state is not TrialState.CACHED},
        "proposed_later": sweep.num_proposed_later,
        "dispatchers": [asdict(row) for row in sweep.dispatchers],
        "running": [_describe_running(trial) for trial in sweep.running],
        "interrupted": list(sweep.interrupted),
        "failed": [asdict(trial) for trial in sweep.failed],
        "unreadable": list(sweep.unreadable),
        "unmirrored": list(sweep.unmirrored),
        "best": None if sweep.best is None else {"name": sweep.best[0], "miou": sweep.best[1]},
        "trials_per_h": sweep.trials_per_h,
        "images_per_s": sweep.images_per_s,
        "left_s": sweep.left.seconds,
        "left_basis": sweep.left.basis,
        "left_is_guess": sweep.left.is_guess,
    }


def _describe_running(trial: RunningTrial) -> dict[str, Any]:
    described = asdict(trial)
    del described["progress"]
    progress = trial.progress
    return described | {"epoch": progress.epoch, "epochs": progress.epochs, "left_s": progress.left_s}


def _draw(sweep: SweepStatus) -> Iterator[RenderableType]:
    yield Text(_write_counts(sweep), style="bold")
    if sweep.dispatchers:
        yield Text(f"  {', '.join(describe_dispatcher(row) for row in sweep.dispatchers)}")
        yield Text(f"  {_write_pace(sweep)}")
    elif sweep.counts[TrialState.WAITING] or sweep.num_proposed_later:
        yield Text("  nothing is running; `orchestrate sweep` runs the waiting trials")
    if sweep.interrupted:
        yield Text(f"  interrupted, as their dispatcher died: {_shorten(sweep.interrupted)}; the next run resumes them")
    if sweep.running:
        yield Padding(_draw_running(sweep.running), (0, 0, 0, 2))
    for trial in sweep.failed:
        yield Text(_write_failure(trial))
    if sweep.failed:
        yield Text(f"  `orchestrate retry {sweep.sweep}` lets failed trials run again")
    for trouble in sweep.unreadable:
        yield Text(f"  {trouble}")
    if sweep.unmirrored:
        hint = "" if sweep.dispatchers else f"; `orchestrate sync {sweep.sweep}` sends them"
        yield Text(f"  not in MLflow yet: {format_count(len(sweep.unmirrored), 'trial')} ({_shorten(sweep.unmirrored)}){hint}")


def _write_counts(sweep: SweepStatus) -> str:
    order = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING, TrialState.PRUNED, TrialState.FAILED)
    counts = [f"{sweep.counts[state]} {state.lower()}" for state in order if sweep.counts[state]]
    if sweep.num_proposed_later:
        counts.append(f"up to {sweep.num_proposed_later} not proposed yet")
    best = "" if sweep.best is None else f"; best {OBJECTIVE} {sweep.best[1]:.4f} {sweep.best[0]}"
    priority = f" (priority {sweep.priority})" if sweep.priority else ""
    return f"{sweep.sweep}{priority}: {', '.join(counts) or 'no trials'}{best}"


def _write_pace(sweep: SweepStatus) -> str:
    speeds = [
        None if sweep.trials_per_h is None else f"{sweep.trials_per_h:.3g} trials/h",
        None if sweep.images_per_s is None else f"{sweep.images_per_s:.0f} images/s",
        f"time left unknown: {sweep.left.basis}"
        if sweep.left.seconds is None
        else f"about {format_duration(sweep.left.seconds)} left ({sweep.left.basis})",
    ]
    return ", ".join(speed for speed in speeds if speed is not None)


def _draw_running(running: Sequence[RunningTrial]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("running", "on", "attempt", "epoch", "best", "images/s", "last sign"):
        table.add_column(title, justify="left" if title in ("running", "on") else "right", overflow="fold")
    for trial in running:
        again = f" (after {trial.last_failure})" if trial.last_failure and trial.attempt > 1 else ""
        where = trial.host if trial.slot is None else f"{trial.slot} of {trial.host}"
        table.add_row(
            escape(f"{trial.name}{again}"),
            escape(where),
            str(trial.attempt),
            "-" if trial.progress.epochs is None else f"{trial.progress.epoch}/{trial.progress.epochs}",
            "-" if trial.best is None else f"{trial.best:.4f}",
            "-" if trial.images_per_s is None else f"{trial.images_per_s:.0f}",
            "-" if trial.silent_s is None else f"{trial.silent_s:.0f} s ago",
        )
    return table


def _write_failure(trial: FailedTrial) -> str:
    kind = f"{trial.failure}: " if trial.failure else ""
    lines = [line for line in trial.log_tail.splitlines() if line.strip(" ^~")]  # no underlines of tracebacks
    log = "".join(f"\n      {line}" for line in cut_tail(lines, SHOWN_LOG_LINES))
    return f"  failed: {trial.name} (attempt {trial.attempts}): {kind}{trial.reason}{log}"


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
