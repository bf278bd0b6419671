"""How fast a sweep goes, and how long the rest will take if it goes on like that; pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """How far a running trial has come. epochs: all of them; None where nothing is known, as of a trial on another machine.

    epoch_s: seconds an epoch of this attempt; None before its first. since_s: seconds since its last epoch ended.
    """

    epoch: int = 0
    epochs: int | None = None
    epoch_s: float | None = None
    since_s: float = 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until its last epoch ends; None where nothing tells."""
        if self.epoch_s is None or self.epochs is None:
            return None
        return max(0.0, self.epoch_s * (self.epochs - self.epoch) - self.since_s)

    @property
    def total_s(self) -> float | None:
        """Seconds that it takes from its first epoch to its last."""
        return None if self.epoch_s is None or self.epochs is None else self.epoch_s * self.epochs


@dataclass(frozen=True)
class TimeLeft:
    """seconds: None where there is nothing to tell it by. basis: by what, for people. is_guess: by other than finished trials."""

    seconds: float | None
    basis: str
    is_guess: bool = False


def trials_per_hour(ends_s: Sequence[float], *, since_s: float, now_s: float) -> float | None:
    """Trials that ended since ``since_s``, an hour; None where none did. All in Unix time."""
    ended = sum(end_s >= since_s for end_s in ends_s)
    return 3600 * ended / (now_s - since_s) if ended and now_s > since_s else None


def estimate_left(running: Sequence[Course], num_waiting: int, durations_s: Sequence[float]) -> TimeLeft:
    """When all will have ended, if as many trials run at a time as do now and each waiting one takes what others took.

    durations_s: of the sweep's finished trials.
    """
    if not running:
        return TimeLeft(None, "nothing runs")
    totals = [course.total_s for course in running if course.total_s is not None]
    known = list(durations_s) or totals
    if not known:
        return TimeLeft(None, "no epoch has ended yet")
    typical_s = sum(known) / len(known)
    ends = [typical_s if course.left_s is None else course.left_s for course in running]
    heapq.heapify(ends)
    for _ in range(num_waiting):
        heapq.heapreplace(ends, ends[0] + typical_s)
    if durations_s:
        return TimeLeft(max(ends), f"by the mean of {len(durations_s)} finished trials")
    return TimeLeft(max(ends), "guess: by the epochs of running trials, none has finished", is_guess=True)
