"""The kernel's count of out-of-memory kills."""

from __future__ import annotations

from pathlib import Path

from orchestrator.dispatch.loop.outcomes import COUNTERS, RECENT_S, OomKills
from tests.orchestrator.clock import Clock


def test_a_count_that_rises_is_remembered_for_a_while(tmp_path: Path) -> None:
    """Long enough for a large process to end."""
    file, clock = tmp_path / "vmstat", Clock()
    file.write_text("pgfault 7\noom_kill 3\n")
    kills = OomKills(clock, [tmp_path / "missing", file])
    assert kills.were_recent() is False
    file.write_text("pgfault 9\noom_kill 4\n")
    kills.update()
    clock.now_s = RECENT_S
    assert kills.were_recent() is True
    clock.now_s = RECENT_S + 1
    assert kills.were_recent() is False


def test_without_a_count_the_answer_is_unknown(tmp_path: Path) -> None:
    """No file, or none with such a line."""
    (tmp_path / "memory.events").write_text("low 0\n")
    assert OomKills(Clock(), [tmp_path / "missing", tmp_path / "memory.events"]).were_recent() is None


def test_this_system_can_be_read() -> None:
    """Its count is a number or missing."""
    assert OomKills(Clock(), COUNTERS).were_recent() in (None, False, True)
