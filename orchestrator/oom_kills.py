"""Whether the kernel has killed for lack of memory of late, as far as a process without privileges can know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files with a line ``oom_kill <count>``; the first counts for the whole machine."""

RECENT_S = 10.0
"""A large process takes this long to be gone after it was killed."""


class OomKills:
    """Keeps an eye on the kernel's count. It says that a process was killed, not which: a coincidence stays possible."""

    def __init__(self, clock: Callable[[], float], counters: Sequence[Path] = COUNTERS) -> None:
        self._clock = clock
        self._counters = counters
        self._count = self._read()
        self._risen_s: float | None = None

    def look(self) -> None:
        """To be called from time to time, so that it is known when the count rose."""
        count = self._read()
        if count is not None and self._count is not None and count > self._count:
            self._risen_s = self._clock()
        self._count = count

    def were_recent(self) -> bool | None:
        """Whether there was one in the last ``RECENT_S``; None where the kernel does not tell."""
        self.look()
        if self._count is None:
            return None
        return self._risen_s is not None and self._clock() - self._risen_s <= RECENT_S

    def _read(self) -> int | None:
        for file in self._counters:
            try:
                lines = file.read_text(encoding="ascii").splitlines()
            except OSError:  # not Linux, an old kernel, or hidden from a container
                continue
            for line in lines:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return None
