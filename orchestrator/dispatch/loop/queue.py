"""The trials that wait for a slot, and which of them is to get the one that is free."""

from __future__ import annotations

import bisect
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice, takewhile

from orchestrator.dispatch.loop.memory import Needs
from orchestrator.launchers.base import ANY, Launcher, MemoryEstimate, Requester
from orchestrator.state.trial.records import TrialSpec

_log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""What a slot may take to be freed before anybody need know."""


class Idleness:
    """Says once, each time that it comes to that, that all slots are others'. Used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s: float | None = None
        self._is_told = False

    def look(self, *, is_idle: bool, goes_first: Requester | None = None) -> None:
        """is_idle: trials are to be started, none runs, and none could be just now. goes_first: who gets the next slot."""
        if not is_idle:
            self._since_s, self._is_told = None, False
        elif self._since_s is None:
            self._since_s = self._clock()
        elif not self._is_told and self._clock() - self._since_s > PATIENCE_S:
            self._is_told = True
            next_one = f", and {goes_first} gets the next ones" if goes_first else ""
            _log.warning(
                "No slot is free: other sweeps hold them all%s (`orchestrate status` shows those of this machine). "
                "Trials here start as soon as one is.",
                next_one,
            )


class Leaving:
    """Tells when a dispatcher has waited for nothing but others' trials for long enough to leave. Used by one thread.

    after_s: how long that is; None: it stays, to take over what they may leave.
    """

    def __init__(self, after_s: float | None, clock: Callable[[], float]) -> None:
        self._after_s = after_s
        self._clock = clock
        self._since_s: float | None = None

    def is_due(self, *, waits: bool) -> bool:
        """waits: nothing runs here, and nothing could be started."""
        if not waits or self._after_s is None:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = self._clock()
        if self._clock() - self._since_s < self._after_s:
            return False
        _log.warning("Leaving: for %.0f s all that is left has been running elsewhere.", self._after_s)
        return True


LOOK_AHEAD = 8
"""Trials that may wait for a larger slot while the search is asked for one that fits into a free one."""


class Step(Enum):
    """What there is to do beside starting a trial."""

    PROPOSE = "propose"


class Queue:
    """Trials by rounds, those of a lower one first. Within a round, one that fits into no free slot lets others pass.

    round_of: a trial's round.
    """

    def __init__(self, launcher: Launcher, needs: Needs, round_of: Callable[[TrialSpec], int]) -> None:
        self._launcher = launcher
        self._needs = needs
        self._round_of = round_of
        self._trials: deque[TrialSpec] = deque()

    def __len__(self) -> int:
        return len(self._trials)

    def put_first(self, spec: TrialSpec) -> None:
        """Before the others of its round."""
        bisect.insort_left(self._trials, spec, key=self._round_of)

    def put_last(self, spec: TrialSpec) -> None:
        """Behind the others of its round."""
        bisect.insort_right(self._trials, spec, key=self._round_of)

    def remove(self, spec: TrialSpec) -> None:
        self._trials.remove(spec)

    def choose(self, *, may_propose: bool) -> TrialSpec | Step | None:
        """What to do with a free slot: start this trial, or see first what else is to run; None: nothing now.

        Raises:
            LaunchError: no slot is left, and none will come.
        """
        if not (self._trials or may_propose) or self._launcher.free_slots(ANY) == 0:
            return None
        if may_propose and (not self._trials or self._round_of(self._trials[0]) > 0):
            return Step.PROPOSE  # what is not known yet may have to go before the first
        fitting = self._find_fitting()
        if fitting is None and may_propose and len(self._trials) < LOOK_AHEAD:
            return Step.PROPOSE
        return fitting

    def list_needs(self, *, may_propose: bool) -> list[MemoryEstimate]:
        """Of what waits for a slot, as far as ``choose`` would take it next."""
        is_asking = may_propose and (len(self._trials) < LOOK_AHEAD or self._round_of(self._trials[0]) > 0)
        return [*([ANY] if is_asking else []), *(self._needs.of(spec) for spec in islice(self._in_round(), LOOK_AHEAD))]

    def _in_round(self) -> Iterator[TrialSpec]:
        """The trials of the first's round."""
        first_round = self._round_of(self._trials[0]) if self._trials else None
        return takewhile(lambda spec: self._round_of(spec) == first_round, self._trials)

    def _find_fitting(self) -> TrialSpec | None:
        """The first trial of the first's round for which there is a free slot."""
        count_free = functools.cache(self._launcher.free_slots)  # slots are looked at once for all that need as much
        return next((spec for spec in self._in_round() if count_free(self._needs.of(spec)) > 0), None)
