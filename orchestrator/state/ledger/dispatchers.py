"""Which dispatchers work on which sweep, and stop requests to them; also each sweep's plan, for workers that join."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from orchestrator.errors import TrackingError
from orchestrator.state.ledger.database import Database, tables

_log = logging.getLogger(__name__)

_dispatchers = sa.Table(
    "ledger_dispatchers",
    tables,
    sa.Column("owner", sa.String(255), primary_key=True),
    sa.Column("sweep", sa.String(255), nullable=False, index=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("started_s", sa.Double, nullable=False),
    sa.Column("seen_s", sa.Double, nullable=False),
    sa.Column("num_stops", sa.Integer, nullable=False),
)

_plans = sa.Table(
    "ledger_plans",
    tables,
    sa.Column("sweep", sa.String(255), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("written_s", sa.Double, nullable=False),
)


class Role(StrEnum):
    """The command that a dispatcher runs."""

    SWEEP = "sweep"
    WORKER = "worker"


@dataclass(frozen=True)
class DispatcherRow:
    """A registered dispatcher.

    started_s, seen_s: Unix time of its start and of its last check-in.
    num_stops: stop requests so far, as by Ctrl-C: the first is graceful, the second immediate.
    """

    owner: str
    sweep: str
    role: Role
    started_s: float
    seen_s: float
    num_stops: int


class Roster:
    """The dispatchers of all sweeps, and the plans. Any number of processes may use it.

    A stop request is written to the dispatchers that are registered, so it never reaches one that starts later.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float], lease_s: float) -> None:
        self._database = database
        self._clock = clock
        self._lease_s = lease_s

    @contextmanager
    def registered(self, owner: str, sweep: str, role: Role) -> Iterator[None]:
        """Register a dispatcher of ``sweep`` for the duration of the context."""
        now_s = self._clock()
        row = {"owner": owner, "sweep": sweep, "role": role, "started_s": now_s, "seen_s": now_s, "num_stops": 0}
        with self._database.begin() as connection:  # not repeated: the row may be there
            connection.execute(sa.insert(_dispatchers).values(row))
        try:
            yield
        finally:
            try:
                self.remove([owner])
            except TrackingError as error:  # without check-ins it counts as gone soon
                _log.warning("%s", error)

    def check_in(self, owner: str) -> int:
        """Report that ``owner`` is alive; returns the number of stop requests.

        Raises:
            TrackingError: the database cannot be used now.
        """
        alive = sa.update(_dispatchers).where(_dispatchers.c.owner == owner).values(seen_s=self._clock())
        found = self._database.execute(alive.returning(_dispatchers.c.num_stops))
        return int(found[0].num_stops) if found else 0

    def ask_to_stop(self, owners: Iterable[str], num_stops: int) -> None:
        """Request dispatchers to stop; they obey at their next check-in. An earlier request for more stops remains."""
        asked = _dispatchers.c.owner.in_(list(owners))
        self._database.execute(
            sa.update(_dispatchers).where(asked, _dispatchers.c.num_stops < num_stops).values(num_stops=num_stops)
        )

    def list_alive(self, is_alive: Callable[[str], bool | None]) -> list[DispatcherRow]:
        """Live dispatchers in the order of their start; where ``is_alive`` returns None, those with a recent check-in."""
        oldest_s = self._clock() - self._lease_s
        found = self._database.execute(sa.select(_dispatchers).order_by(_dispatchers.c.started_s))
        rows = [DispatcherRow(r.owner, r.sweep, Role(r.role), r.started_s, r.seen_s, r.num_stops) for r in found]
        known = {row.owner: is_alive(row.owner) for row in rows}
        return [row for row in rows if known[row.owner] or (known[row.owner] is None and row.seen_s >= oldest_s)]

    def remove_dead(self, is_dead: Callable[[str], bool]) -> None:
        """Remove dispatchers that died."""
        found = self._database.execute(sa.select(_dispatchers.c.owner))
        self.remove([row.owner for row in found if is_dead(row.owner)])

    def remove(self, owners: Iterable[str]) -> None:
        """Remove dispatchers."""
        if names := list(owners):
            self._database.execute(sa.delete(_dispatchers).where(_dispatchers.c.owner.in_(names)))

    def write_plan(self, sweep: str, document: str) -> None:
        """Store a sweep's plan, in place of an earlier one."""
        insert = self._database.insert(_plans).values(sweep=sweep, document=document, written_s=self._clock())
        changed = {"document": insert.excluded.document, "written_s": insert.excluded.written_s}
        self._database.execute(insert.on_conflict_do_update(index_elements=["sweep"], set_=changed))

    def read_plan(self, sweep: str) -> str | None:
        """The stored plan; None if there is none."""
        found = self._database.execute(sa.select(_plans.c.document).where(_plans.c.sweep == sweep))
        return found[0].document if found else None

    def latest(self) -> str | None:
        """The sweep whose plan was written last."""
        newest = sa.select(_plans.c.sweep).order_by(_plans.c.written_s.desc(), _plans.c.sweep).limit(1)
        found = self._database.execute(newest)
        return found[0].sweep if found else None

    def sweeps(self) -> list[str]:
        """Names of the sweeps that have a plan here, or a dispatcher."""
        names = sa.union(sa.select(_plans.c.sweep), sa.select(_dispatchers.c.sweep))
        return sorted(row.sweep for row in self._database.execute(names))
