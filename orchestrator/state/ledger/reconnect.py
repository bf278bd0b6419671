"""A PostgreSQL server that goes away for a while, is restarted or moved: its users wait for it; trainings never notice."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry

from orchestrator.errors import TrackingError

WAIT_S = 1.0
"""Between two tries to connect."""

LONGEST_WAIT_S = 600.0

CONNECTION: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}
"""What libpq is told: a machine that vanished without a word is noticed within half a minute, not within hours."""

_log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class ConnectionLostError(TrackingError):
    """The server went away in the middle of a statement; whether that was carried out, nobody knows."""


class Reconnection:
    """How long a database that was there is waited for. Used by any number of threads; once it is lost, nobody waits any more."""

    def __init__(self, limit_s: float = LONGEST_WAIT_S) -> None:
        self._limit_s = limit_s
        self._lost = threading.Event()
        self._is_told = False

    def give_up(self) -> None:
        """Have everybody who waits, now or later, give up; also from a signal handler."""
        self._lost.set()

    def wait(self, since_s: float) -> bool:
        """Wait a little more; False where that makes no sense. since_s: when the waiting began, by the monotonic clock."""
        if not self._is_told:
            self._is_told = True  # once an outage, however many threads meet it
            _log.warning("the database is away; waiting for it for up to %.0f minutes, while trials go on", self._limit_s / 60)
        if time.monotonic() - since_s > self._limit_s:
            self.give_up()
        return not self._lost.wait(WAIT_S)

    def report_success(self) -> None:
        """The server is there."""
        self._is_told = False


def wait_for_server(engine: sa.Engine, reconnection: Reconnection) -> None:
    """Let everybody who needs a new connection from now on wait until the server is back.

    That is all a restart takes from those who are between two statements: the pool tries a connection before it lends it.
    """
    sa.event.listen(engine, "do_connect", partial(_connect, reconnection))


def _connect(
    reconnection: Reconnection, dialect: Dialect, _entry: ConnectionPoolEntry, arguments: list[Any], parameters: dict[str, Any]
) -> DBAPIConnection:
    since_s = time.monotonic()
    while True:
        try:
            connection = dialect.connect(*arguments, **parameters)
        except dialect.loaded_dbapi.OperationalError:
            if not reconnection.wait(since_s):
                raise
        else:
            reconnection.report_success()
            return connection


def retried(ask: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Ask once more where the connection was lost in the middle; for what may be asked twice.

    A claim that was carried out and never answered is held by nobody who knows of it: it is to be had again when it expires.
    """

    @wraps(ask)
    def call(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return ask(*arguments, **options)
        except ConnectionLostError:
            return ask(*arguments, **options)

    return call
