"""A worker's sign of life: a file in the trial folder that it touches and that its dispatcher looks at."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

BEAT_S = 2.0
"""Between two touches of the file; a call in between costs a look at the clock."""

LONGEST_STEP_S = 10.0
"""What a silence may grow by from one look to the next."""


class Heartbeat:
    """The worker's side; ``beat`` may be called as often as one likes. A context manager.

    limit_s: how long a silence the dispatcher bears. Shortly before that, where every thread stands is written to descriptor 2,
    so that the log of an attempt that is killed for it says where it hung.
    """

    def __init__(self, file: Path, *, limit_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._limit_s = limit_s
        self._clock = clock
        self._due_s = clock()

    def __enter__(self) -> Heartbeat:
        self.beat()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._limit_s is not None:
            faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Say that there was progress."""
        now_s = self._clock()
        if now_s < self._due_s:
            return
        self._due_s = now_s + BEAT_S
        self._file.touch()
        if self._limit_s is not None:
            faulthandler.dump_traceback_later(0.9 * self._limit_s, file=2)


class Silence:
    """The dispatcher's side: how long a worker has given no sign of life, in seconds in which somebody listened.

    Only changes of the file count, so that no two clocks are compared. A machine that slept, or a dispatcher that was held up,
    hears its workers again before it judges them, since no single step counts for much.
    """

    def __init__(self, file: Path, now_s: float) -> None:
        self._file = file
        self._heard_ns = self._look()
        self._listened_s = now_s
        self._lasted_s = 0.0

    def listen(self, now_s: float) -> float:
        """Look once more; returns how long the silence has lasted."""
        step_s, self._listened_s = now_s - self._listened_s, now_s
        heard_ns = self._look()
        self._lasted_s = 0.0 if heard_ns != self._heard_ns else self._lasted_s + min(step_s, LONGEST_STEP_S)
        self._heard_ns = heard_ns
        return self._lasted_s

    def _look(self) -> int | None:
        try:
            return self._file.stat().st_mtime_ns
        except FileNotFoundError:
            return None
