"""A command at work on a sweep, as others see it: known in the ledger, and all ears for wishes that it stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from orchestrator.errors import TrackingError
from orchestrator.state.home import Home, Owner
from orchestrator.state.ledger import Ledger, Role, Roster

LOOK_S = 2.0
"""Between two looks into the ledger."""

NUDGE_S = 0.1
"""Between two looks at whether somebody on this machine wants it to look at once."""

ECHO_S = 1.0
"""SIGTERM and SIGINT closer together are one wish: systemd tells every process of a unit, `orchestrate schedule` its sweeps."""

_log = logging.getLogger(__name__)


class StopListener:
    """Hears of wishes to stop from the moment a command has begun, in a thread of its own. A context manager.

    It also says in the ledger, from time to time, that its owner is alive. look_s: between two looks that nobody asks for.
    num_looks: how often it has looked.
    """

    def __init__(self, roster: Roster, owner: Owner, *, look_s: float = LOOK_S) -> None:
        self.num_looks = 0
        self._roster, self._owner, self._look_s = roster, owner, look_s
        self._num_heard = 0
        self._obey: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="stop-listener", daemon=True)

    def __enter__(self) -> StopListener:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join()

    def obey_with(self, obey: Callable[[], None] | None, *, from_now_on: bool = False) -> None:
        """Call ``obey`` for each wish, also for those that came before unless ``from_now_on``; from its thread or at once."""
        with self._lock:
            self._obey = obey
            if obey is not None and not from_now_on:
                for _ in range(self._num_heard):
                    obey()

    def _listen(self) -> None:
        due_s, nudged_ns = 0.0, self._owner.nudged_ns
        while not self._closed.wait(NUDGE_S):
            before_ns, nudged_ns = nudged_ns, self._owner.nudged_ns
            if time.monotonic() >= due_s or nudged_ns != before_ns:
                self._look()
                due_s = time.monotonic() + self._look_s
                self.num_looks += 1

    def _look(self) -> None:
        try:
            num_stops = self._roster.check_in(self._owner.name)
        except TrackingError as error:  # away for a moment: whoever claims and finishes trials tells, this can wait
            _log.debug("%s", error)
            return
        with self._lock:
            for _ in range(num_stops - self._num_heard):
                if self._obey is not None:
                    self._obey()
            self._num_heard = max(num_stops, self._num_heard)


class Stoppable(Protocol):
    """What can be stopped, as a Dispatcher can."""

    def request_stop(self) -> None:
        """First call: end gracefully. Second call: at once. From any thread, or from a signal handler."""


@dataclass(frozen=True)
class Presence:
    """A command that works on a sweep, as others see it."""

    owner: str
    listener: StopListener


@contextmanager
def present(home: Home, ledger: Ledger, sweep: str, role: Role) -> Iterator[Presence]:
    """Be seen as working on ``sweep``, under a name of one's own, and hear of wishes to stop."""
    ledger.roster.remove_dead(home.is_dead)
    with (
        home.new_owner() as owner,
        ledger.roster.registered(owner.name, sweep, role),
        StopListener(ledger.roster, owner) as listener,
    ):
        yield Presence(owner.name, listener)


@contextmanager
def heeding_stops(target: Stoppable, listener: StopListener, say: Callable[[str], None]) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and what the listener hears into stops: the first is graceful, the second at once.

    The other one of the two signals, right behind the first, is no second.
    """
    num_stops = 0
    last: tuple[int, float] | None = None

    def stop(number: int | None = None, _frame: object = None) -> None:
        nonlocal num_stops, last
        if number is not None:
            now_s = time.monotonic()
            if last is not None and last[0] != number and now_s - last[1] < ECHO_S:
                return
            last = number, now_s
        num_stops += 1
        if num_stops == 1:
            say("stopping: running epochs end and are kept; once more to stop at once")
        target.request_stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    listener.obey_with(stop)
    try:
        yield
    finally:
        listener.obey_with(None)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_stops(listener: StopListener) -> Iterator[None]:
    """Turn SIGTERM and what the listener hears into Ctrl-C, once there are no epochs any more that could be let end."""
    main = threading.main_thread().ident
    assert main is not None
    # a shell has its background processes ignore SIGINT
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    listener.obey_with(lambda: signal.pthread_kill(main, signal.SIGINT), from_now_on=True)
    try:
        yield
    finally:
        listener.obey_with(None)
        for number, handler in before.items():
            signal.signal(number, handler)
