"""How fast a sweep runs, and how long the rest will take at that pace; pure."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.state.units import format_count


@dataclass(frozen=True)
class TrialProgress:
    """Progress of a running trial. epochs: how many it has in all; None if unknown, as for a trial on another machine.

    epoch_s: seconds per epoch of this attempt; None before its first. since_s: seconds since its last epoch ended.
    """

    epoch: int = 0
    epochs: int | None = None
    epoch_s: float | None = None
    since_s: float = 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until its last epoch ends; None if unknown."""
        if self.epoch_s is None or self.epochs is None:
            return None
        return max(0.0, self.epoch_s * (self.epochs - self.epoch) - self.since_s)

    @property
    def total_s(self) -> float | None:
        """Seconds for all its epochs; None if unknown."""
        return None if self.epoch_s is None or self.epochs is None else self.epoch_s * self.epochs


@dataclass(frozen=True)
class TimeLeft:
    """seconds: None if unknown. basis: of the estimate, for people. is_guess: not based on finished trials."""

    seconds: float | None
    basis: str
    is_guess: bool = False


def trials_per_hour(ends_s: Sequence[float], *, since_s: float, now_s: float) -> float | None:
    """Trials per hour that ended since ``since_s``; None if none did. All in Unix time."""
    ended = sum(end_s >= since_s for end_s in ends_s)
    return 3600 * ended / (now_s - since_s) if ended and now_s > since_s else None


def estimate_left(running: Sequence[TrialProgress], num_waiting: int, durations_s: Sequence[float]) -> TimeLeft:
    """Time until all trials end, if as many run in parallel as now and each waiting one takes as long as others took.

    durations_s: of the sweep's finished trials.
    """
    if not running:
        return TimeLeft(None, "nothing is running")
    totals = [trial.total_s for trial in running if trial.total_s is not None]
    known = list(durations_s) or totals
    if not known:
        return TimeLeft(None, "no epoch has ended yet")
    typical_s = sum(known) / len(known)
    ends = [typical_s if trial.left_s is None else trial.left_s for trial in running]
    heapq.heapify(ends)
    for _ in range(num_waiting):
        heapq.heapreplace(ends, ends[0] + typical_s)
    if durations_s:
        return TimeLeft(max(ends), f"from the mean of {format_count(len(durations_s), 'finished trial')}")
    return TimeLeft(max(ends), "a guess from running epochs, as no trial has finished", is_guess=True)
