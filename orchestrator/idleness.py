"""A dispatcher that runs nothing: whoever looks at it is told why, and it leaves where its slots cost somebody else."""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator.launchers.base import Claimant

_log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""What a slot may take to be freed before anybody need know."""


class Idleness:
    """Says once, each time that it comes to that, that all slots are others'. Used by one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s: float | None = None
        self._is_told = False

    def look(self, *, is_idle: bool, goes_first: Claimant | None = None) -> None:
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
