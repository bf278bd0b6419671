"""Room for the next trial, on a real small disk."""

from __future__ import annotations

from pathlib import Path

from orchestrator.disk import DiskSpace


def test_the_floor_stays_free(small_disk: Path) -> None:
    """Nothing is known of a first trial: only the floor counts."""
    assert DiskSpace(small_disk / "not" / "yet", 0.001).find_lack(0) is None
    lack = DiskSpace(small_disk, 0.01).find_lack(0)
    assert lack is not None
    assert "0.00204 GB are free" in lack or "0.0021 GB are free" in lack
    assert "needs 0.01 GB" in lack
    assert "Free some disk" in lack


def test_a_trial_needs_what_another_took(small_disk: Path, tmp_path: Path) -> None:
    """As much as the largest so far, for each that runs and for the next."""
    disk = DiskSpace(small_disk, 0)
    (tmp_path / "last.pt").write_bytes(bytes(900_000))
    disk.note(tmp_path)
    assert disk.find_lack(0) is None
    assert disk.find_lack(1) is None
    lack = disk.find_lack(2)
    assert lack is not None
    assert "0.0009 GB for each of 3 trials, 2 of them running" in lack
