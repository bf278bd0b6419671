"""The end of a trial's log, for results and messages: what a process printed last, or where it stood when it died."""

from __future__ import annotations

import re
from collections.abc import Sequence

_THREAD = re.compile(r"(Current thread|Thread) 0x.*\(most recent call first\):")
"""The first line of what faulthandler writes of a thread, before its frames."""

_PART = re.compile(rf"\s*|  .*|Extension modules: .*|Current thread's C stack.*|{_THREAD.pattern}")
"""Any line that faulthandler writes, except its first one, which says why."""


def find_end(lines: Sequence[str], num_lines: int) -> list[str]:
    """The last lines; of a log that ends with where every thread of a process stood, the innermost frames of the one that
    counts, which come first there, and a few lines from before.
    """
    start = next((index + 1 for index in reversed(range(len(lines))) if not _PART.fullmatch(lines[index])), 0)
    threads = [index for index in range(start, len(lines)) if _THREAD.fullmatch(lines[index])]
    if not threads:
        return list(lines[-num_lines:])
    at = next((index for index in threads if lines[index].startswith("Current")), threads[-1])  # the main thread is the last
    before = [*lines[max(0, start - num_lines // 5) : start]]
    return before + list(lines[at : at + num_lines - len(before)])
