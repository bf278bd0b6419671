"""A worker's heartbeat: a file in the trial folder that the worker touches and its dispatcher watches."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable
from pathlib import Path

BEAT_S = 2.0
"""Between two touches of the file; a call in between only reads the clock."""

LONGEST_STEP_S = 10.0
"""By how much a silence may grow from one check to the next."""


class Heartbeat:
    """The worker's side, a context manager; ``beat`` may be called at any rate.

    limit_s: silence after which the dispatcher kills the attempt. Shortly before, the stacks of all threads are written to
    descriptor 2, so that the log shows where it hung.
    """

    def __init__(self, file: Path, *, limit_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._limit_s = limit_s
        self._clock = clock
        self._due_s = clock()

    def __enter__(self) -> Heartbeat:
        self.beat()
        return self

    def __exit__(self, *_: object) -> None:
        if self._limit_s is not None:
            faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Report progress."""
        now_s = self._clock()
        if now_s < self._due_s:
            return
        self._due_s = now_s + BEAT_S
        self._file.touch()
        if self._limit_s is not None:
            faulthandler.dump_traceback_later(0.9 * self._limit_s, file=2)


class Silence:
    """The dispatcher's side: for how many seconds of watching a worker has been silent.

    Only changes of the file count, so that no two clocks are compared. After a machine slept, or a dispatcher was held up,
    workers have time to beat again, since a single check adds little.
    """

    def __init__(self, file: Path, now_s: float) -> None:
        self._file = file
        self._beat_ns = self._read()
        self._checked_s = now_s
        self._lasted_s = 0.0

    def check(self, now_s: float) -> float:
        """Look at the file; returns how long the silence has lasted."""
        step_s, self._checked_s = now_s - self._checked_s, now_s
        beat_ns = self._read()
        self._lasted_s = 0.0 if beat_ns != self._beat_ns else self._lasted_s + min(step_s, LONGEST_STEP_S)
        self._beat_ns = beat_ns
        return self._lasted_s

    def _read(self) -> int | None:
        try:
            return self._file.stat().st_mtime_ns
        except FileNotFoundError:
            return None
