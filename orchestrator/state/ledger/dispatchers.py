"""Which dispatchers work on which sweep, and stop requests to them; also each sweep's plan, for workers that join."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from orchestrator.errors import TrackingError
from orchestrator.state.ledger.database import Database, tables
from orchestrator.state.ledger.reconnect import retried

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
        with self._database.begin() as connection:
            connection.execute(sa.insert(_dispatchers).values(row))
        try:
            yield
        finally:
            try:
                self.remove([owner])
            except TrackingError as error:  # without check-ins it counts as gone soon
                _log.warning("%s", error)

    @retried
    def check_in(self, owner: str) -> int:
        """Report that ``owner`` is alive; returns the number of stop requests.

        Raises:
            TrackingError: the database cannot be used now.
        """
        alive = sa.update(_dispatchers).where(_dispatchers.c.owner == owner).values(seen_s=self._clock())
        with self._database.begin() as connection:
            return connection.execute(alive.returning(_dispatchers.c.num_stops)).scalar_one_or_none() or 0

    @retried
    def ask_to_stop(self, owners: Iterable[str], num_stops: int) -> None:
        """Request dispatchers to stop; they obey at their next check-in. An earlier request for more stops remains."""
        asked = _dispatchers.c.owner.in_(list(owners))
        ask = sa.update(_dispatchers).where(asked, _dispatchers.c.num_stops < num_stops).values(num_stops=num_stops)
        with self._database.begin() as connection:
            connection.execute(ask)

    @retried
    def list_alive(self, is_alive: Callable[[str], bool | None]) -> list[DispatcherRow]:
        """Live dispatchers in the order of their start; where ``is_alive`` returns None, those with a recent check-in."""
        oldest_s = self._clock() - self._lease_s
        with self._database.begin() as connection:
            found = connection.execute(sa.select(_dispatchers).order_by(_dispatchers.c.started_s)).all()
        rows = [DispatcherRow(r.owner, r.sweep, Role(r.role), r.started_s, r.seen_s, r.num_stops) for r in found]
        known = {row.owner: is_alive(row.owner) for row in rows}
        return [row for row in rows if known[row.owner] or (known[row.owner] is None and row.seen_s >= oldest_s)]

    @retried
    def remove_dead(self, is_dead: Callable[[str], bool]) -> None:
        """Remove dispatchers that died."""
        with self._database.begin() as connection:
            owners = connection.execute(sa.select(_dispatchers.c.owner)).scalars().all()
        self.remove([owner for owner in owners if is_dead(owner)])

    @retried
    def remove(self, owners: Iterable[str]) -> None:
        """Remove dispatchers."""
        if names := list(owners):
            with self._database.begin() as connection:
                connection.execute(sa.delete(_dispatchers).where(_dispatchers.c.owner.in_(names)))

    @retried
    def write_plan(self, sweep: str, document: str) -> None:
        """Store a sweep's plan, in place of an earlier one."""
        insert = self._database.insert(_plans).values(sweep=sweep, document=document, written_s=self._clock())
        changed = {"document": insert.excluded.document, "written_s": insert.excluded.written_s}
        with self._database.begin() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["sweep"], set_=changed))

    @retried
    def read_plan(self, sweep: str) -> str | None:
        """The stored plan; None if there is none."""
        with self._database.begin() as connection:
            return connection.execute(sa.select(_plans.c.document).where(_plans.c.sweep == sweep)).scalar_one_or_none()

    @retried
    def latest(self) -> str | None:
        """The sweep whose plan was written last."""
        newest = sa.select(_plans.c.sweep).order_by(_plans.c.written_s.desc(), _plans.c.sweep).limit(1)
        with self._database.begin() as connection:
            return connection.execute(newest).scalar_one_or_none()

    @retried
    def sweeps(self) -> list[str]:
        """Names of the sweeps that have a plan here, or a dispatcher."""
        names = sa.union(sa.select(_plans.c.sweep), sa.select(_dispatchers.c.sweep))
        with self._database.begin() as connection:
            return sorted(connection.execute(names).scalars())
