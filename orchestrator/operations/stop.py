"""`orchestrate stop`: asks the dispatchers of a sweep on all machines to stop, and waits until they have."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from orchestrator.state.home import Home
from orchestrator.state.ledger import DispatcherRow, Ledger

WAIT_S = 0.2
"""Pause between two checks of which dispatchers still run."""


@dataclass(frozen=True)
class StopReport:
    """What ``orchestrate stop`` prints. asked: dispatchers that were running; left: those that still are."""

    sweep: str
    asked: tuple[DispatcherRow, ...]
    left: tuple[DispatcherRow, ...]
    wall_s: float

    @property
    def exit_code(self) -> int:
        """0: all have ended; 1: some still run."""
        return int(bool(self.left))

    def to_json(self) -> dict[str, Any]:
        left = {row.owner for row in self.left}
        return {
            "sweep": self.sweep,
            "wall_s": round(self.wall_s, 3),
            "dispatchers": [{"owner": row.owner, "role": row.role, "has_ended": row.owner not in left} for row in self.asked],
        }

    def render(self) -> str:
        if not self.asked:
            return f"{self.sweep}: nothing is running."
        if not self.left:
            hint = "`orchestrate sweep` resumes where it stopped."
            return f"{self.sweep}: {_list(self.asked)} stopped after {self.wall_s:.0f} s. {hint}"
        hint = "They stop when their running epochs end; --now kills those."
        return f"{self.sweep}: {_list(self.left)} still running after {self.wall_s:.0f} s. {hint}"


def stop_sweep(sweep: str, *, now: bool = False, timeout_s: float | None = None) -> StopReport:
    """Ask all dispatchers of ``sweep`` to stop, and wait at most ``timeout_s`` until they have.

    now: kill running trials, as a second Ctrl-C does.

    Raises:
        SpecError: there is no such sweep.
        TrackingError: the ledger cannot be used.
    """
    started_s = time.monotonic()
    home = Home.from_environment()
    ledger = Ledger(home.ledger_url)
    ledger.check_sweeps([sweep])

    def find() -> list[DispatcherRow]:
        return [row for row in ledger.roster.list_alive(home.is_alive) if row.sweep == sweep]

    asked = find()
    if asked:
        ledger.roster.ask_to_stop([row.owner for row in asked], 2 if now else 1)
        for row in asked:
            home.nudge(row.owner)
        how = "running trials are killed" if now else "running epochs are finished and kept"
        Console(stderr=True).print(f"asked {escape(_list(asked))} to stop: {how}", highlight=False, soft_wrap=True)
    names = {row.owner for row in asked}
    left = asked
    while left and (timeout_s is None or time.monotonic() - started_s < timeout_s):
        time.sleep(WAIT_S)
        left = [row for row in find() if row.owner in names]
    return StopReport(sweep, tuple(asked), tuple(left), time.monotonic() - started_s)


def _list(rows: Sequence[DispatcherRow]) -> str:
    return ", ".join(describe_dispatcher(row) for row in rows)


def describe_dispatcher(row: DispatcherRow) -> str:
    """For people: ``sweep on HOST (process 123)``."""
    host, process, _ = row.owner.rsplit(":", 2)
    return f"{row.role} on {host} (process {process.partition('-')[0]})"
