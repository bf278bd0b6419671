"""`orchestrate stop`: asks the dispatchers of a sweep, wherever they run, to end, and waits until they have."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from orchestrator.state.home import Home
from orchestrator.state.ledger import DispatcherRow, Ledger, Roster

WAIT_S = 0.2
"""Between two looks at who still runs."""


@dataclass(frozen=True)
class StopReport:
    """What ``orchestrate stop`` prints. asked: dispatchers that ran; left: those of them that still do."""

    sweep: str
    asked: tuple[DispatcherRow, ...]
    left: tuple[DispatcherRow, ...]
    wall_s: float

    @property
    def exit_code(self) -> int:
        """0 nothing runs any more, 1 something still does."""
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
            return f"{self.sweep}: nothing runs."
        if not self.left:
            hint = "`orchestrate sweep` goes on where it stopped."
            return f"{self.sweep}: {_list(self.asked)} ended after {self.wall_s:.0f} s. {hint}"
        hint = "They end when their running epochs have; --now kills these."
        return f"{self.sweep}: {_list(self.left)} still there after {self.wall_s:.0f} s. {hint}"


def stop_sweep(sweep: str, *, now: bool = False, timeout_s: float | None = None) -> StopReport:
    """Ask all who work on ``sweep`` to stop and wait until they have, at most ``timeout_s``.

    now: kill what runs, as a second Ctrl-C does.

    Raises:
        SpecError: nobody knows the sweep.
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
        _ask(ledger.roster, home, asked, now=now)
        how = "what runs is killed" if now else "running epochs end and are kept"
        Console(stderr=True).print(f"asked {escape(_list(asked))} to stop: {how}", highlight=False, soft_wrap=True)
    names = {row.owner for row in asked}
    left = asked
    while left and (timeout_s is None or time.monotonic() - started_s < timeout_s):
        time.sleep(WAIT_S)
        left = [row for row in find() if row.owner in names]
    return StopReport(sweep, tuple(asked), tuple(left), time.monotonic() - started_s)


def _ask(roster: Roster, home: Home, rows: Sequence[DispatcherRow], *, now: bool) -> None:
    roster.ask_to_stop([row.owner for row in rows], 2 if now else 1)
    for row in rows:
        home.nudge(row.owner)


def _list(rows: Sequence[DispatcherRow]) -> str:
    return ", ".join(describe_dispatcher(row) for row in rows)


def describe_dispatcher(row: DispatcherRow) -> str:
    """For people: ``sweep on HOST (process 123)``."""
    host, process, _ = row.owner.rsplit(":", 2)
    return f"{row.role} on {host} (process {process.partition('-')[0]})"
