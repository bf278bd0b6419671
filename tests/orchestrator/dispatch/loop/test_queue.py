"""A dispatcher that waits for slots warns once, and not for the moment between two trials."""

from __future__ import annotations

import pytest

from orchestrator.dispatch.loop.queue import WARN_AFTER_S, SlotShortage
from tests.orchestrator.clock import Clock


def test_each_shortage_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """After some seconds; again only after a trial has run."""
    clock = Clock()
    shortage = SlotShortage(clock)
    counts = []
    for is_starved in (True, True, True, False, True, True, True):
        shortage.update(is_starved=is_starved)
        counts.append(len(caplog.records))
        clock.now_s += WARN_AFTER_S * 0.8
    assert counts == [0, 0, 1, 1, 1, 1, 2]
    assert "No slot is free" in caplog.text
