"""A dispatcher that has trials and runs none: whoever looks at it is told why."""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator.launchers.base import Standing

_log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""What a slot may take to be freed before anybody need know."""


class Idleness:
    """Says once, each time that it comes to that, that all slots are others'. Used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s: float | None = None
        self._is_told = False

    def look(self, *, is_idle: bool, goes_first: Standing | None = None) -> None:
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
