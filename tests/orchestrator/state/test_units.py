"""Numbers written for people."""

from __future__ import annotations

from orchestrator.state.units import format_bytes, format_duration, format_gb


def test_durations_have_the_unit_that_suits_them() -> None:
    """Two units at most."""
    seconds = (0.4, 40, 89, 720, 3725, 12_240, 200_000)
    assert [format_duration(s) for s in seconds] == ["0 s", "40 s", "89 s", "12 min", "1 h 2 min", "3 h 24 min", "2 d 7 h"]


def test_sizes_are_in_steps_of_1000() -> None:
    """As disks are sold."""
    assert [format_gb(gb) for gb in (0.0009, 12.5, 1840)] == ["0.0009 GB", "12.5 GB", "1840 GB"]
    assert [format_bytes(n) for n in (820, 3_400_000, 12_500_000_000)] == ["820 bytes", "3.4 MB", "12.5 GB"]
