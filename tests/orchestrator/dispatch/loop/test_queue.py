"""A dispatcher that waits for slots says so, once, and not for the moment between two trials."""

from __future__ import annotations

import pytest

from orchestrator.dispatch.loop.queue import PATIENCE_S, Idleness
from tests.orchestrator.clock import Clock


def test_it_is_told_once_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """After some seconds; again only if something ran meanwhile."""
    clock = Clock()
    idleness = Idleness(clock)
    told = []
    for is_idle in (True, True, True, False, True, True, True):
        idleness.look(is_idle=is_idle)
        told.append(len(caplog.records))
        clock.now_s += PATIENCE_S * 0.8
    assert told == [0, 0, 1, 1, 1, 1, 2]
    assert "No slot is free" in caplog.text
