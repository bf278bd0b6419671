"""Opens the ledger's database, SQLite or a shared PostgreSQL, and creates its tables."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlalchemy.orm  # whole before a statement is made: another thread imports it, as a part of MLflow, and core looks into it
from filelock import FileLock
from sqlalchemy.dialects import postgresql, sqlite

from orchestrator.errors import TrackingError, redact
from orchestrator.state.files import check_local
from orchestrator.state.ledger.reconnect import CONNECTION, ConnectionLostError, Reconnection, retried, wait_for_server

LEDGER_VERSION = 1
"""Of the tables. A new table does not raise it: it is created where it is missing, and older versions ignore it."""

DATABASES = ("sqlite", "postgresql")

BUSY_TIMEOUT_S = 60.0
"""How long a statement waits for another process's."""

tables = sa.MetaData()
"""Each module of the ledger declares its own."""

_meta = sa.Table("ledger_meta", tables, sa.Column("version", sa.Integer, primary_key=True))


class Database:
    """The open database with the ledger's tables. Any number of processes may use it.

    A server that is unreachable at first is an error; one that becomes unreachable later is waited for.

    Raises:
        TrackingError: it cannot be opened, or another version wrote it.
    """

    def __init__(self, url: str) -> None:
        self.reconnection = Reconnection()
        with _translated_errors(url):
            self.engine = _connect(url)
            self._create_tables()
            self.clock = self._find_clock()
        if self.is_server:
            wait_for_server(self.engine, self.reconnection)

    @property
    def is_server(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def close(self) -> None:
        self.engine.dispose()

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that supports ``on_conflict_...``, which each dialect has in its own class."""
        return postgresql.insert(table) if self.is_server else sqlite.insert(table)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One transaction.

        Raises:
            ConnectionLostError: the connection was lost during it.
            TrackingError: any other error of the database.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            found = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            is_lost = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
            kind = ConnectionLostError if is_lost else TrackingError
            raise kind(redact(f"{self.engine.url}: the ledger cannot be used now: {found}")) from error

    @retried
    def execute(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> list[sa.Row[Any]]:
        """Run one statement in its own transaction; returns its rows. Raises as ``begin``."""
        with self.begin() as connection:
            result = connection.execute(statement, parameters)
            return list(result) if result.returns_rows else []

    def _create_tables(self) -> None:
        # SQLite: one process at a time creates the tables and switches to WAL
        lock = nullcontext() if self.is_server else FileLock(f"{self.engine.url.database}.lock", thread_local=False)
        with lock, self.engine.begin() as connection:
            if self.is_server:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6F726368)))
            tables.create_all(connection)
            connection.execute(self.insert(_meta).on_conflict_do_nothing(), [{"version": LEDGER_VERSION}])
            found = connection.execute(sa.select(sa.func.max(_meta.c.version))).scalar_one()
        if found != LEDGER_VERSION:
            raise TrackingError(
                f"{redact(str(self.engine.url))}: was written by ledger version {found}, expected {LEDGER_VERSION}. "
                "Use the orchestrate that wrote it, or move it away: finished trials are found again in their folders."
            )

    def _find_clock(self) -> Callable[[], float]:
        """The server's clock if there is a server, so that leases do not depend on the machines' clocks."""
        if not self.is_server:
            return time.time
        asked = sa.select(sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double))
        with self.engine.connect() as connection:
            before_s = time.time()
            server_s = connection.execute(asked).scalar_one()
            ahead_s = server_s - (before_s + time.time()) / 2
        return lambda: time.time() + ahead_s


def _connect(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    kind = parsed.get_backend_name()
    if kind not in DATABASES:
        raise TrackingError(f"ledger: {kind!r} is no known database. Known: {', '.join(DATABASES)}. See ORCHESTRATE_STORAGE.")
    if kind != "sqlite":
        if "@" in f"{parsed.host}{parsed.database}":  # the driver would print a part of the password as the host
            raise ValueError("there is a second @; within a password write @ as %40 and / as %2F")
        return sa.create_engine(parsed, pool_pre_ping=True, connect_args=CONNECTION)
    if not parsed.database:
        raise TrackingError(f"ledger: {url!r} names no file; a ledger in memory cannot be shared. Write sqlite:///FILE.")
    check_local(Path(parsed.database), "the ledger")
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_S})
    sa.event.listen(engine, "connect", _set_up_sqlite)
    return engine


@contextmanager
def _translated_errors(url: str) -> Iterator[None]:
    """Raise a TrackingError for any error of SQLAlchemy, the driver or the disk while the ledger is opened."""
    try:
        yield
    except (ImportError, ValueError, sa.exc.SQLAlchemyError, OSError) as error:
        if isinstance(error, ImportError):
            hint = "Install the driver: pip install 'orchestrate[postgres]'."
        elif isinstance(error, ValueError | sa.exc.ArgumentError):
            hint = "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
        else:
            hint = "Is the server up, and is the address right?" if "postgres" in url else "Can the file be written?"
        found = str(getattr(error, "orig", None) or error).strip()
        first_line = (found.splitlines() or ["no reason given"])[0].rstrip(".")
        message = f"{url}: the ledger cannot be opened: {first_line}. {hint} See ORCHESTRATE_STORAGE."
        raise TrackingError(redact(message)) from error


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """Readers never wait for a writer. A commit survives kill -9; a power cut costs at most the last few claims."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
