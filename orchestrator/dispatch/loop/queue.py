"""Trials that wait for a slot: which one starts next, and what happens while none can."""

import bisect
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice, takewhile
from operator import attrgetter

from orchestrator.dispatch.loop.memory import MemoryEstimates
from orchestrator.dispatch.loop.ports import PlannedTrial
from orchestrator.launchers.base import ANY, Launcher, MemoryEstimate, Requester

LOOK_AHEAD = 8
"""Maximum number of trials that wait for a larger slot while the search is asked for one that fits a free slot."""

WARN_AFTER_S = 10.0
"""A wait for a slot is reported after this time."""

_log = logging.getLogger(__name__)


class Step(Enum):
    """What to do with a free slot if no trial starts."""

    PROPOSE = "propose"


class Queue:
    """Waiting trials, ordered by round. Within a round, a trial that fits no free slot lets others pass."""

    def __init__(self, launcher: Launcher, memory: MemoryEstimates) -> None:
        self._launcher = launcher
        self._memory = memory
        self._trials: deque[PlannedTrial] = deque()

    def __len__(self) -> int:
        return len(self._trials)

    def put_first(self, trial: PlannedTrial) -> None:
        """Insert before the other trials of its round."""
        bisect.insort_left(self._trials, trial, key=attrgetter("round"))

    def put_last(self, trial: PlannedTrial) -> None:
        """Insert after the other trials of its round."""
        bisect.insort_right(self._trials, trial, key=attrgetter("round"))

    def remove(self, trial: PlannedTrial) -> None:
        self._trials.remove(trial)

    def choose(self, *, may_propose: bool) -> PlannedTrial | Step | None:
        """What to do with a free slot: start this trial, or ask the search; None: nothing now.

        Raises:
            LaunchError: no slot is left, and none will come back.
        """
        if not (self._trials or may_propose) or self._launcher.free_slots(ANY) == 0:
            return None
        if may_propose and (not self._trials or self._trials[0].round > 0):
            return Step.PROPOSE  # a configuration not proposed yet may have trials of a lower round
        count_free = functools.cache(self._launcher.free_slots)  # one look at the slots per distinct need
        fitting = next((trial for trial in self._first_round() if count_free(self._memory.of(trial.spec)) > 0), None)
        if fitting is None and may_propose and len(self._trials) < LOOK_AHEAD:
            return Step.PROPOSE
        return fitting

    def list_needs(self, *, may_propose: bool) -> list[MemoryEstimate]:
        """Memory needs of the trials that ``choose`` would take next."""
        is_asking = may_propose and (len(self._trials) < LOOK_AHEAD or self._trials[0].round > 0)
        first = islice(self._first_round(), LOOK_AHEAD)
        return [*([ANY] if is_asking else []), *(self._memory.of(trial.spec) for trial in first)]

    def _first_round(self) -> Iterator[PlannedTrial]:
        lowest = self._trials[0].round if self._trials else None
        return takewhile(lambda trial: trial.round == lowest, self._trials)


class SlotShortage:
    """Warns once per shortage that other sweeps hold all slots. Used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s: float | None = None
        self._has_warned = False

    def update(self, *, is_starved: bool, goes_first: Requester | None = None) -> None:
        """is_starved: trials wait, none runs and none could start. goes_first: who gets the next slot."""
        if not is_starved:
            self._since_s, self._has_warned = None, False
        elif self._since_s is None:
            self._since_s = self._clock()
        elif not self._has_warned and self._clock() - self._since_s > WARN_AFTER_S:
            self._has_warned = True
            next_one = f", and {goes_first} gets the next ones" if goes_first else ""
            _log.warning(
                "No slot is free: other sweeps hold them all%s (`orchestrate status` shows those of this machine). "
                "Trials here start as soon as one is.",
                next_one,
            )


class IdleTimeout:
    """Expires when only other dispatchers have had work for ``after_s``; None: never. Used by one thread."""

    def __init__(self, after_s: float | None, clock: Callable[[], float]) -> None:
        self._after_s = after_s
        self._clock = clock
        self._since_s: float | None = None

    def has_expired(self, *, is_idle: bool) -> bool:
        """is_idle: nothing runs here, and nothing could start."""
        if not is_idle or self._after_s is None:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = self._clock()
        if self._clock() - self._since_s < self._after_s:
            return False
        _log.warning("Leaving: for %.0f s only other dispatchers have had trials to run.", self._after_s)
        return True
