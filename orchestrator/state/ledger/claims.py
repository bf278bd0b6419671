"""Which dispatcher owns which trial: claims with leases."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from orchestrator.errors import SpecError
from orchestrator.state.ledger.database import Database, tables
from orchestrator.state.ledger.dispatchers import Roster
from orchestrator.state.ledger.reconnect import retried
from orchestrator.state.trial.records import TrialState
from trainers.config import describe_unknown

KEYS_PER_STATEMENT = 500
"""SQLite allows a limited number of parameters per statement."""

_trials = sa.Table(
    "ledger_trials",
    tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(255)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("settled_attempt", sa.Integer, nullable=False),
    sa.Column("lease_expires_s", sa.Double),
    sa.Column("sweep", sa.String(255)),
    sa.Column("reason", sa.Text),
    sa.Index("ledger_trials_by_state", "state", "owner"),
)

_members = sa.Table(
    "ledger_members",
    tables,
    sa.Column("sweep", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("configuration", sa.String(64), nullable=False),
    sa.Column("pruned", sa.Boolean, nullable=False, default=False),
)

# Frequent statements are built once: building one takes longer than SQLite needs to execute it.


def _pruned_in(sweep: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return sa.exists().where(_members.c.key == _trials.c.key, _members.c.sweep == sweep, _members.c.pruned)


_THE_TRIAL = _trials.c.key == sa.bindparam("trial")

_IS_HELD = (_trials.c.owner == sa.bindparam("holder"), _trials.c.state == TrialState.RUNNING)

_IS_FREE = sa.or_(
    _trials.c.state.in_([TrialState.WAITING, TrialState.PRUNED]),
    sa.and_(_trials.c.state == TrialState.RUNNING, _trials.c.lease_expires_s < sa.bindparam("now_s")),
)

_AFTER = sa.bindparam("after", type_=sa.Integer)

_CLAIM = (
    sa.update(_trials)
    .where(_THE_TRIAL, _IS_FREE, ~_pruned_in(sa.bindparam("for_sweep")))
    .values(
        state=TrialState.RUNNING,
        owner=sa.bindparam("holder"),
        attempt=sa.case((_trials.c.attempt < _AFTER, _AFTER), else_=_trials.c.attempt) + 1,
        lease_expires_s=sa.bindparam("until_s"),
        sweep=sa.bindparam("for_sweep"),
        reason=None,
    )
    .returning(_trials.c.attempt)
)

_END = sa.update(_trials).where(_THE_TRIAL, *_IS_HELD).values(state=sa.bindparam("end"), lease_expires_s=None)

_RELEASE = _END.values(owner=None, reason=None)

_GIVE_BACK = _RELEASE.values(attempt=_trials.c.attempt - 1)

_FINISH = _END.values(reason=sa.bindparam("why"), settled_attempt=_trials.c.attempt)

_MARK_PRUNED = (
    sa.update(_members)
    .where(
        _members.c.key == sa.bindparam("trial"),
        _members.c.sweep == sa.select(_trials.c.sweep).where(_THE_TRIAL).scalar_subquery(),
    )
    .values(pruned=True)
)

_STATES = sa.select(_trials, _pruned_in(sa.bindparam("for_sweep")).label("is_pruned_here")).where(
    _trials.c.key.in_(sa.bindparam("some_trials", expanding=True))
)


@dataclass(frozen=True)
class LedgerRow:
    """A trial in the ledger.

    attempt: how often it was claimed. settled_attempt: the last one whose end was recorded by ``finish``; a result of a later one
    in the trial's folder is unknown to the ledger. sweep: the one that claimed it last.
    """

    state: TrialState
    owner: str | None
    attempt: int
    lease_expires_s: float | None
    sweep: str | None
    reason: str | None
    settled_attempt: int = 0

    def is_held(self, now_s: float) -> bool:
        """Whether its owner may still work on it."""
        return self.state is TrialState.RUNNING and self.lease_expires_s is not None and self.lease_expires_s >= now_s


class Ledger:
    """Gives a trial to at most one owner at a time, and a finished one to nobody.

    Any number of processes may use one database. A claim lasts ``lease_s`` and must be renewed well before. COMPLETE holds for
    all sweeps until ``forget``, PRUNED within its sweep, FAILED until ``reset_failed``.

    Raises:
        TrackingError: the database cannot be opened; from every method: it cannot be used, or did not come back in time.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] | None = None, lease_s: float = 60.0) -> None:
        self.lease_s = lease_s
        self._database = Database(url)
        self.now_s = clock or self._database.clock
        """Unix time by the clock that leases are measured with."""
        self.reconnection = self._database.reconnection
        """How long to wait for a server that becomes unreachable."""
        self._insert_trials = self._database.insert(_trials).on_conflict_do_nothing()
        self._insert_members = self._database.insert(_members).on_conflict_do_nothing()
        self.roster = Roster(self._database, clock=self.now_s, lease_s=lease_s)
        """The dispatchers, and the sweeps' plans."""

    def close(self) -> None:
        self._database.close()

    @retried
    def register(self, sweep: str, trials: Iterable[tuple[str, str]]) -> None:
        """Add trials, given as pairs of key and configuration's id, to ``sweep``; known ones stay as they are."""
        pairs = sorted(set(trials))
        if not pairs:
            return
        waiting = {"state": TrialState.WAITING, "attempt": 0, "settled_attempt": 0}
        with self._database.begin() as connection:
            connection.execute(self._insert_trials, [{"key": key, **waiting} for key, _ in pairs])
            rows = [{"sweep": sweep, "key": key, "configuration": configuration} for key, configuration in pairs]
            connection.execute(self._insert_members, rows)

    def claim(self, key: str, sweep: str, owner: str, *, after: int = 0) -> int | None:
        """Take a trial; returns the number of the attempt (from 1), or None if it cannot be taken.

        after: the number will be higher; for attempts that this ledger may not know, such as those of a lost one.
        One statement, so that exactly one of several claimants wins.
        """
        now_s = self.now_s()
        times = {"now_s": now_s, "until_s": now_s + self.lease_s}
        taken = self._database.execute(_CLAIM, {"trial": key, "for_sweep": sweep, "holder": owner, "after": after, **times})
        return int(taken[0].attempt) if taken else None

    def renew(self, owner: str, keys: Sequence[str]) -> list[str]:
        """Renew claims; returns those that ``owner`` has lost and must no longer touch."""
        if not keys:
            return []
        held = sa.and_(_trials.c.key.in_(keys), *_IS_HELD)
        prolong = sa.update(_trials).where(held).values(lease_expires_s=self.now_s() + self.lease_s).returning(_trials.c.key)
        kept = {row.key for row in self._database.execute(prolong, {"holder": owner})}
        return [key for key in keys if key not in kept]

    def release(self, key: str, owner: str) -> bool:
        """Release a trial, so that anybody can resume it; False if ``owner`` no longer had it."""
        return self._end(_RELEASE, key, owner, TrialState.WAITING)

    def give_back(self, key: str, owner: str) -> bool:
        """Release a trial that was claimed but not started: the attempt does not count. Returns as ``release``."""
        return self._end(_GIVE_BACK, key, owner, TrialState.WAITING)

    def finish(self, key: str, owner: str, state: TrialState, reason: str | None = None) -> bool:
        """Record how a trial ended; False if ``owner`` no longer had it."""
        assert state.has_ended
        return self._end(_FINISH, key, owner, state, why=reason)

    @retried
    def states(self, keys: Iterable[str], sweep: str | None = None) -> dict[str, LedgerRow]:
        """The rows of those of ``keys`` that are registered.

        With ``sweep``, as that sweep sees them: trials that another one pruned are WAITING, those that it pruned stay PRUNED.
        """
        found: dict[str, LedgerRow] = {}
        names = list(dict.fromkeys(keys))
        with self._database.begin() as connection:
            for start in range(0, len(names), KEYS_PER_STATEMENT):
                some = names[start : start + KEYS_PER_STATEMENT]
                for row in connection.execute(_STATES, {"some_trials": some, "for_sweep": sweep}):
                    state = TrialState(row.state)
                    if sweep is not None and row.is_pruned_here and state is not TrialState.COMPLETE:
                        state = TrialState.PRUNED
                    elif sweep is not None and state is TrialState.PRUNED:
                        state = TrialState.WAITING
                    found[row.key] = LedgerRow(
                        state, row.owner, row.attempt, row.lease_expires_s, row.sweep, row.reason, row.settled_attempt
                    )
        return found

    def members(self, sweep: str) -> dict[str, str]:
        """A sweep's trials: key -> id of the configuration."""
        rows = self._database.execute(sa.select(_members.c.key, _members.c.configuration).where(_members.c.sweep == sweep))
        return {row.key: row.configuration for row in rows}

    def sweeps(self) -> list[str]:
        """Names of the sweeps that have registered trials."""
        rows = self._database.execute(sa.select(_members.c.sweep).distinct().order_by(_members.c.sweep))
        return [str(row.sweep) for row in rows]

    def memberships(self) -> dict[str, set[str]]:
        """All registered trials: key -> names of its sweeps."""
        found: dict[str, set[str]] = {}
        for row in self._database.execute(sa.select(_members.c.key, _members.c.sweep)):
            found.setdefault(row.key, set()).add(row.sweep)
        return found

    def check_sweeps(self, names: Iterable[str]) -> None:
        """Check that these sweeps are known here.

        Raises:
            SpecError: one is not; the message names the nearest.
        """
        known = sorted({*self.sweeps(), *self.roster.sweeps()})
        for name in names:
            if name not in known:
                raise SpecError(describe_unknown(name, known, "sweep"))

    def reclaim(self, is_dead: Callable[[str], bool]) -> list[str]:
        """Reset trials of dead owners to WAITING; returns their keys."""
        running = _trials.c.state == TrialState.RUNNING
        owners = self._database.execute(sa.select(_trials.c.owner).where(running).distinct())
        dead = [row.owner for row in owners if row.owner is not None and is_dead(row.owner)]
        return self._reset(running, _trials.c.owner.in_(dead)) if dead else []

    def reset_failed(self, keys: Iterable[str]) -> list[str]:
        """Reset FAILED trials to WAITING; returns their keys."""
        names, is_failed = list(dict.fromkeys(keys)), _trials.c.state == TrialState.FAILED
        parts = (names[start : start + KEYS_PER_STATEMENT] for start in range(0, len(names), KEYS_PER_STATEMENT))
        return sorted(key for part in parts for key in self._reset(_trials.c.key.in_(part), is_failed))

    def forget(self, key: str) -> bool:
        """Reset a COMPLETE trial whose result is lost to WAITING; False if it is not COMPLETE."""
        return bool(self._reset(_trials.c.key == key, _trials.c.state == TrialState.COMPLETE))

    def _reset(self, *conditions: sa.ColumnElement[bool]) -> list[str]:
        again = sa.update(_trials).where(*conditions).returning(_trials.c.key)
        rows = self._database.execute(again.values(state=TrialState.WAITING, owner=None, lease_expires_s=None, reason=None))
        return sorted(row.key for row in rows)

    @retried
    def _end(self, statement: sa.Update, key: str, owner: str, state: TrialState, **values: str | None) -> bool:
        with self._database.begin() as connection:
            ended = connection.execute(statement, {"trial": key, "holder": owner, "end": state, **values})
            is_ours = ended.rowcount == 1
            if is_ours and state is TrialState.PRUNED:
                connection.execute(_MARK_PRUNED, {"trial": key})
        return is_ours
