"""Reconnecting to a PostgreSQL server that is unreachable for a while; running trials do not notice."""

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
"""Between two attempts to connect."""

LONGEST_WAIT_S = 600.0

CONNECTION: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}
"""Options of libpq, by which a server that vanishes silently is noticed within half a minute instead of hours."""

_log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class ConnectionLostError(TrackingError):
    """The connection was lost during a statement, which the server may have executed or not."""


class Reconnection:
    """How long to wait for a database that becomes unreachable. Used by any number of threads; after giving up, none waits."""

    def __init__(self, limit_s: float = LONGEST_WAIT_S) -> None:
        self._limit_s = limit_s
        self._has_given_up = threading.Event()
        self._is_logged = False

    def give_up(self) -> None:
        """Make all threads stop waiting, now and later. May be called from a signal handler."""
        self._has_given_up.set()

    def wait(self, since_s: float) -> bool:
        """Wait a little; False after giving up. since_s: when waiting began, by the monotonic clock."""
        if not self._is_logged:
            self._is_logged = True  # once per outage, not per thread
            minutes = self._limit_s / 60
            _log.warning("the database is unreachable; waiting up to %.0f minutes for it, while trials continue", minutes)
        if time.monotonic() - since_s > self._limit_s:
            self.give_up()
        return not self._has_given_up.wait(WAIT_S)

    def report_success(self) -> None:
        """The server is reachable."""
        self._is_logged = False


def wait_for_server(engine: sa.Engine, reconnection: Reconnection) -> None:
    """From now on, wait for the server whenever a new connection is needed, as after a restart between two statements."""
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


def retried(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorator: repeat a call once if the connection was lost during it; for what may be done twice.

    A claim whose answer was lost is held by nobody, and is free again when its lease expires.
    """

    @wraps(function)
    def call(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **options)
        except ConnectionLostError:
            return function(*arguments, **options)

    return call
