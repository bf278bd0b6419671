"""When a run was changed last: how it is written into a tag of the run, and asked for."""

from __future__ import annotations

import time

_FORMAT = "%Y-%m-%dT%H:%M"

_PRECISIONS = ((600, len("2026-11-22T18:0")), (3600, len("2026-11-22T18")), (86400, len("2026-11-22")))
"""Seconds that the first so many characters of a mark stand for."""

_MOST_BEGINNINGS = 31


def write_mark(now_s: float) -> str:
    """The mark of a moment."""
    return time.strftime(_FORMAT, time.gmtime(now_s))


def list_beginnings(since_s: float, until_s: float) -> list[str] | None:
    """What the marks of a time begin with, in a few words; None where they would be too many.

    MLflow compares tags by LIKE and by nothing else, so that a time is asked for by its tens of minutes, hours or days.
    """
    for step_s, length in _PRECISIONS:
        first, last = int(since_s // step_s), int(until_s // step_s)
        if last - first < _MOST_BEGINNINGS and (last - first < 12 or step_s == _PRECISIONS[-1][0]):
            return [write_mark(number * step_s)[:length] for number in range(first, last + 1)]
    return None
