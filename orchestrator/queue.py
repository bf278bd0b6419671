"""The trials that wait for a slot, and which of them is to get the one that is free."""

from __future__ import annotations

import bisect
import functools
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import islice, takewhile

from orchestrator.launchers.base import ANY, Launcher, Need
from orchestrator.needs import Needs
from orchestrator.trial import TrialSpec

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

    def list_needs(self, *, may_propose: bool) -> list[Need]:
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
