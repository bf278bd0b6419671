"""Who owns which trial: the dispatchers' one book of claims with leases, in SQLite here, in PostgreSQL when shared."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.errors import TrackingError
from orchestrator.secrets import redact
from orchestrator.trial import TrialState

LEDGER_VERSION = 1
"""Of the tables below."""

DATABASES = ("sqlite", "postgresql")

BUSY_TIMEOUT_S = 60.0
"""How long a statement waits for another process to end its own."""

KEYS_A_STATEMENT = 500
"""SQLite takes a limited number of parameters a statement."""

_tables = sa.MetaData()

_meta = sa.Table("ledger_meta", _tables, sa.Column("version", sa.Integer, primary_key=True))

_trials = sa.Table(
    "ledger_trials",
    _tables,
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
    _tables,
    sa.Column("sweep", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("configuration", sa.String(64), nullable=False),
    sa.Column("pruned", sa.Boolean, nullable=False, default=False),
)


@dataclass(frozen=True)
class LedgerRow:
    """What the ledger knows of a trial.

    attempt: how often it was claimed. settled_attempt: the last attempt whose end was entered by ``finish``; a result
    of a later attempt that lies in the trial's folder is news to the ledger.
    sweep: the one that claimed it last.
    """

    state: TrialState
    owner: str | None
    attempt: int
    lease_expires_s: float | None
    sweep: str | None
    reason: str | None
    settled_attempt: int = 0

    def is_held(self, now_s: float) -> bool:
        """Whether its owner may still be working on it."""
        return self.state is TrialState.RUNNING and self.lease_expires_s is not None and self.lease_expires_s >= now_s


class Ledger:
    """Gives every trial to at most one owner at a time; a finished trial is never given again.

    Any number of processes may use one database. A claim lasts for ``lease_s`` and is to be renewed well before.
    COMPLETE holds for everybody until ``forget``, PRUNED within its sweep, FAILED until ``reset_failed``.

    Raises:
        TrackingError: the database cannot be opened.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time, lease_s: float = 60.0) -> None:
        self.lease_s = lease_s
        self._clock = clock
        with _telling(url):
            self._engine = _connect(url)
            self._create_tables()

    def close(self) -> None:
        self._engine.dispose()

    def now_s(self) -> float:
        """Unix time by the clock that leases are measured with."""
        return self._clock()

    def register(self, sweep: str, trials: Iterable[tuple[str, str]]) -> None:
        """Make trials known as parts of ``sweep``; what is known already stays as it is.

        trials: pairs of the trial's key and its configuration's id.
        """
        pairs = sorted(set(trials))
        if not pairs:
            return
        waiting = {"state": TrialState.WAITING, "attempt": 0, "settled_attempt": 0}
        with self._engine.begin() as connection:
            connection.execute(self._insert(_trials), [{"key": key, **waiting} for key, _ in pairs])
            rows = [{"sweep": sweep, "key": key, "configuration": configuration} for key, configuration in pairs]
            connection.execute(self._insert(_members), rows)

    def claim(self, key: str, sweep: str, owner: str, *, after: int = 0) -> int | None:
        """Take a trial; returns the number of the attempt (from 1), or None where it is not to be had.

        after: an attempt that this ledger may not know of, such as one of a ledger that was lost; the number is higher.
        One statement, so that of any number of claimants exactly one wins.
        """
        now = self._clock()
        claimable = sa.or_(
            _trials.c.state.in_([TrialState.WAITING, TrialState.PRUNED]),
            sa.and_(_trials.c.state == TrialState.RUNNING, _trials.c.lease_expires_s < now),
        )
        take = (
            sa.update(_trials)
            .where(_trials.c.key == key, claimable, ~_pruned_in(sweep))
            .values(
                state=TrialState.RUNNING,
                owner=owner,
                attempt=sa.case((_trials.c.attempt < after, after), else_=_trials.c.attempt) + 1,
                lease_expires_s=now + self.lease_s,
                sweep=sweep,
                reason=None,
            )
            .returning(_trials.c.attempt)
        )
        with self._engine.begin() as connection:
            return connection.execute(take).scalar_one_or_none()

    def renew(self, owner: str, keys: Sequence[str]) -> list[str]:
        """Prolong claims; returns those that ``owner`` has lost, whose trials it must not touch any more."""
        if not keys:
            return []
        held = sa.and_(_trials.c.key.in_(keys), *_is_held_by(owner))
        prolong = sa.update(_trials).where(held).values(lease_expires_s=self._clock() + self.lease_s).returning(_trials.c.key)
        with self._engine.begin() as connection:
            kept = set(connection.execute(prolong).scalars())
        return [key for key in keys if key not in kept]

    def release(self, key: str, owner: str) -> bool:
        """Give a trial back, to be gone on with by anybody; False where ``owner`` did not have it any more."""
        return self._end(key, owner, TrialState.WAITING, {"owner": None, "reason": None})

    def finish(self, key: str, owner: str, state: TrialState, reason: str | None = None) -> bool:
        """Enter how a trial ended: COMPLETE, PRUNED or FAILED; False where ``owner`` did not have it any more."""
        assert state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)
        return self._end(key, owner, state, {"reason": reason, "settled_attempt": _trials.c.attempt})

    def states(self, keys: Iterable[str], sweep: str | None = None) -> dict[str, LedgerRow]:
        """What is known of those of ``keys`` that are registered.

        With ``sweep``, as that sweep sees it: what another one pruned is WAITING, what it pruned itself stays PRUNED.
        """
        found: dict[str, LedgerRow] = {}
        names = list(dict.fromkeys(keys))
        with self._engine.connect() as connection:
            for start in range(0, len(names), KEYS_A_STATEMENT):
                some = names[start : start + KEYS_A_STATEMENT]
                query = sa.select(_trials, _pruned_in(sweep).label("is_pruned_here")).where(_trials.c.key.in_(some))
                for row in connection.execute(query):
                    state = TrialState(row.state)
                    if sweep is not None:
                        state = _as_seen(state, is_pruned_here=bool(row.is_pruned_here))
                    found[row.key] = LedgerRow(
                        state, row.owner, row.attempt, row.lease_expires_s, row.sweep, row.reason, row.settled_attempt
                    )
        return found

    def members(self, sweep: str) -> dict[str, str]:
        """Keys of a sweep's trials, each with its configuration's id."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_members.c.key, _members.c.configuration).where(_members.c.sweep == sweep))
            return {row.key: row.configuration for row in rows}

    def sweeps(self) -> list[str]:
        """Names of the sweeps that have registered trials."""
        with self._engine.connect() as connection:
            names = connection.execute(sa.select(_members.c.sweep).distinct().order_by(_members.c.sweep)).scalars().all()
            return [str(name) for name in names]

    def memberships(self) -> dict[str, set[str]]:
        """Keys of all registered trials, each with the sweeps that it belongs to."""
        found: dict[str, set[str]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(sa.select(_members.c.key, _members.c.sweep)):
                found.setdefault(row.key, set()).add(row.sweep)
        return found

    def reclaim(self, is_dead: Callable[[str], bool]) -> list[str]:
        """Set back to WAITING what owners hold that are dead; returns the keys."""
        running = _trials.c.state == TrialState.RUNNING
        with self._engine.connect() as connection:
            owners = connection.execute(sa.select(_trials.c.owner).where(running).distinct()).scalars().all()
        dead = [owner for owner in owners if owner is not None and is_dead(owner)]
        if not dead:
            return []
        give_back = sa.update(_trials).where(running, _trials.c.owner.in_(dead))
        with self._engine.begin() as connection:
            freed = give_back.values(state=TrialState.WAITING, owner=None, lease_expires_s=None).returning(_trials.c.key)
            return sorted(connection.execute(freed).scalars())

    def reset_failed(self, keys: Iterable[str]) -> list[str]:
        """Let FAILED trials be tried again; returns those that were."""
        names = list(dict.fromkeys(keys))
        reset: list[str] = []
        with self._engine.begin() as connection:
            for start in range(0, len(names), KEYS_A_STATEMENT):
                failed = sa.and_(_trials.c.key.in_(names[start : start + KEYS_A_STATEMENT]), _trials.c.state == TrialState.FAILED)
                again = sa.update(_trials).where(failed).values(state=TrialState.WAITING, owner=None, reason=None)
                reset += connection.execute(again.returning(_trials.c.key)).scalars()
        return sorted(reset)

    def forget(self, key: str) -> bool:
        """Set a COMPLETE trial whose result is lost back to WAITING; False where it is not COMPLETE (any more)."""
        complete = sa.and_(_trials.c.key == key, _trials.c.state == TrialState.COMPLETE)
        with self._engine.begin() as connection:
            again = sa.update(_trials).where(complete).values(state=TrialState.WAITING, owner=None, reason=None)
            return connection.execute(again).rowcount == 1

    def _end(self, key: str, owner: str, state: TrialState, values: Mapping[str, Any]) -> bool:
        end = sa.update(_trials).where(_trials.c.key == key, *_is_held_by(owner))
        with self._engine.begin() as connection:
            is_ours = connection.execute(end.values(state=state, lease_expires_s=None, **values)).rowcount == 1
            if is_ours and state is TrialState.PRUNED:
                sweep = sa.select(_trials.c.sweep).where(_trials.c.key == key).scalar_subquery()
                member = sa.and_(_members.c.key == key, _members.c.sweep == sweep)
                connection.execute(sa.update(_members).where(member).values(pruned=True))
        return is_ours

    def _create_tables(self) -> None:
        with _only_creator(self._engine.url), self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6F726368)))
            _tables.create_all(connection)
            connection.execute(self._insert(_meta), [{"version": LEDGER_VERSION}])
            found = connection.execute(sa.select(sa.func.max(_meta.c.version))).scalar_one()
        if found != LEDGER_VERSION:
            raise TrackingError(
                f"{redact(str(self._engine.url))}: was written by ledger version {found}, expected {LEDGER_VERSION}. "
                "Use the orchestrate that wrote it, or move it away: finished trials are found again in their folders."
            )

    def _insert(self, table: sa.Table) -> sa.Insert:
        """Insert what is not there yet; each dialect has its own class for that."""
        if self._engine.dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()


def _is_held_by(owner: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (_trials.c.owner == owner, _trials.c.state == TrialState.RUNNING)


def _pruned_in(sweep: str | None) -> sa.ColumnElement[bool]:
    return sa.exists().where(_members.c.key == _trials.c.key, _members.c.sweep == sweep, _members.c.pruned)


def _as_seen(state: TrialState, *, is_pruned_here: bool) -> TrialState:
    """A trial's state from inside one sweep."""
    if is_pruned_here and state is not TrialState.COMPLETE:
        return TrialState.PRUNED
    return TrialState.WAITING if state is TrialState.PRUNED and not is_pruned_here else state


def _connect(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    kind = parsed.get_backend_name()
    if kind not in DATABASES:
        raise TrackingError(f"ledger: {kind!r} is no known database. Known: {', '.join(DATABASES)}. See ORCHESTRATE_STORAGE.")
    if kind != "sqlite":
        if "@" in f"{parsed.host}{parsed.database}":  # the driver would print the rest of the password as a host
            raise ValueError("there is a second @; within a password write @ as %40 and / as %2F")
        return sa.create_engine(parsed, pool_pre_ping=True)
    if not parsed.database:
        raise TrackingError(f"ledger: {url!r} names no file; a ledger in memory cannot be shared. Write sqlite:///FILE.")
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
    sa.event.listen(engine, "connect", _set_up_sqlite)
    return engine


@contextmanager
def _telling(url: str) -> Iterator[None]:
    """Turn what SQLAlchemy, the driver or the disk raise while the ledger is opened into an error for people."""
    try:
        yield
    except ImportError as error:
        found, hint = str(error), "Install the driver: pip install 'orchestrate[postgres]'."
        raise TrackingError(_say_unusable(url, found, hint)) from error
    except (ValueError, sa.exc.ArgumentError) as error:
        hint = "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
        raise TrackingError(_say_unusable(url, str(error), hint)) from error
    except (sa.exc.SQLAlchemyError, OSError) as error:
        found = str(getattr(error, "orig", None) or error)
        hint = "Is the server up, and is the address right?" if "postgres" in url else "Can the file be written?"
        raise TrackingError(_say_unusable(url, found, hint)) from error


def _say_unusable(url: str, found: str, hint: str) -> str:
    first_line = (found.strip().splitlines() or ["no reason given"])[0]
    return redact(f"{url}: the ledger cannot be opened: {first_line.rstrip('.')}. {hint} See ORCHESTRATE_STORAGE.")


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Readers never wait for a writer; a commit survives kill -9, and a power cut costs at most the last few claims."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _only_creator(url: sa.URL) -> AbstractContextManager[object]:
    """SQLite: of many processes that open a fresh file at once, let one create the tables and switch to WAL."""
    is_file = url.get_backend_name() == "sqlite"
    return FileLock(f"{url.database}.lock", thread_local=False) if is_file else nullcontext()
