"""Heartbeats: cheap for the worker, and watched by the dispatcher."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.state.trial.heartbeat import BEAT_S, LONGEST_STEP_S, Heartbeat, Silence
from tests.orchestrator.clock import Clock


def test_the_file_is_touched_at_intervals(tmp_path: Path) -> None:
    """At once, then not before ``BEAT_S`` have passed."""
    file, clock = tmp_path / "heartbeat", Clock()
    with Heartbeat(file, clock=clock) as heartbeat:
        os.utime(file, ns=(1, 1))
        clock.now_s = BEAT_S / 2
        heartbeat.beat()
        assert file.stat().st_mtime_ns == 1
        clock.now_s = BEAT_S
        heartbeat.beat()
        assert file.stat().st_mtime_ns != 1


def test_a_change_ends_the_silence(tmp_path: Path) -> None:
    """Whatever the file's time is, so that no two clocks need to agree."""
    file = tmp_path / "heartbeat"
    silence = Silence(file, 0.0)
    assert silence.check(5.0) == 5.0
    file.touch()
    assert silence.check(9.0) == 0.0
    assert silence.check(12.0) == 3.0
    os.utime(file, ns=(7, 7))
    assert silence.check(13.0) == 0.0


@given(steps=st.lists(st.floats(0, 1e6), max_size=20))
def test_silence_counts_only_while_it_is_checked(steps: list[float]) -> None:
    """It is never longer than the time that passed, or than the number of checks allows."""
    now_s, silence = 0.0, Silence(Path("/nonexistent/heartbeat"), 0.0)
    for count, step in enumerate(steps, start=1):
        now_s += step
        lasted_s = silence.check(now_s)
        assert lasted_s <= min(now_s, count * LONGEST_STEP_S) + 1e-6
