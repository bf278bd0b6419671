"""Registers a running command in the ledger, and turns signals and `orchestrate stop` into graceful or immediate stops."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.errors import TrackingError
from orchestrator.state.home import Home, Owner
from orchestrator.state.ledger import Ledger, Role, Roster

LOOK_S = 2.0
"""Interval between two reads of the ledger."""

NUDGE_S = 0.1
"""Interval between two checks whether a process of this machine asks for an immediate read."""

ECHO_S = 1.0
"""SIGTERM and SIGINT within this time are one request: systemd signals each process of a unit, and the scheduler its sweeps."""

_log = logging.getLogger(__name__)


class StopListener:
    """Reads stop requests from the ledger in a separate thread, from the command's start. A context manager.

    Each read also renews its owner's sign of life. look_s: regular interval of reads. num_looks: number of reads so far.
    owner: the command's name in the ledger.
    """

    def __init__(self, roster: Roster, owner: Owner, *, look_s: float = LOOK_S) -> None:
        self.owner = owner.name
        self.num_looks = 0
        self._roster, self._owner, self._look_s = roster, owner, look_s
        self._num_requests = 0
        self._handler: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="stop-listener", daemon=True)

    def __enter__(self) -> StopListener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def set_handler(self, handler: Callable[[], None] | None, *, skips_earlier: bool = False) -> None:
        """Call ``handler`` for each request, in the listener's thread; for earlier ones immediately, unless ``skips_earlier``."""
        with self._lock:
            self._handler = handler
            if handler is not None and not skips_earlier:
                for _ in range(self._num_requests):
                    handler()

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
            num_stops = self._roster.check_in(self.owner)
        except TrackingError as error:  # unreachable for a moment: the dispatcher reports it, this read can wait
            _log.debug("%s", error)
            return
        with self._lock:
            for _ in range(num_stops - self._num_requests):
                if self._handler is not None:
                    self._handler()
            self._num_requests = max(num_stops, self._num_requests)


@contextmanager
def registered(home: Home, ledger: Ledger, sweep: str, role: Role) -> Iterator[StopListener]:
    """Register this command as working on ``sweep``, and listen for stop requests."""
    ledger.roster.remove_dead(home.is_dead)
    with (
        home.new_owner() as owner,
        ledger.roster.registered(owner.name, sweep, role),
        StopListener(ledger.roster, owner) as listener,
    ):
        yield listener


@contextmanager
def stop_on_request(request_stop: Callable[[], None], listener: StopListener, say: Callable[[str], None]) -> Iterator[None]:
    """Call ``request_stop`` on each Ctrl-C, SIGTERM and `orchestrate stop`, from any thread or a signal handler.

    SIGTERM right after SIGINT, or the reverse, counts as the same request.
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
        request_stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    listener.set_handler(stop)
    try:
        yield
    finally:
        listener.set_handler(None)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_on_request(listener: StopListener) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and `orchestrate stop`, once no epoch runs that could end gracefully."""
    main = threading.main_thread().ident
    assert main is not None
    # a shell has its background processes ignore SIGINT
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    listener.set_handler(lambda: signal.pthread_kill(main, signal.SIGINT), skips_earlier=True)
    try:
        yield
    finally:
        listener.set_handler(None)
        for number, handler in before.items():
            signal.signal(number, handler)
