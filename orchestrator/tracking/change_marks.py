"""The tag ``written``: when a run was last changed, in a form that MLflow's search can compare.

MLflow compares tags only by LIKE. So a period is searched for by the beginnings of its marks: tens of minutes, hours or days.
"""

from __future__ import annotations

import time

_FORMAT = "%Y-%m-%dT%H:%M"

_PRECISIONS = ((600, len("2026-11-22T18:0")), (3600, len("2026-11-22T18")), (86400, len("2026-11-22")))
"""Seconds that a mark's first characters stand for, and how many characters."""

_MAX_PREFIXES = 31


def format_mark(now_s: float) -> str:
    """The mark of a moment, such as ``2026-11-22T18:05`` (UTC)."""
    return time.strftime(_FORMAT, time.gmtime(now_s))


def list_prefixes(since_s: float, until_s: float) -> list[str] | None:
    """The few beginnings that all marks of a period have; None if there would be too many."""
    for step_s, length in _PRECISIONS:
        first, last = int(since_s // step_s), int(until_s // step_s)
        if last - first < _MAX_PREFIXES and (last - first < 12 or step_s == _PRECISIONS[-1][0]):
            return [format_mark(number * step_s)[:length] for number in range(first, last + 1)]
    return None
