"""Room for the next trial, on a real small disk."""

from __future__ import annotations

from pathlib import Path

from orchestrator.state.disk import DiskEstimate, DiskSpace


def test_the_floor_stays_free(small_disk: Path) -> None:
    """Nothing is known before the first trial: only the floor counts."""
    assert DiskSpace(small_disk / "not" / "yet", 0.001).find_shortage(0) is None
    shortage = DiskSpace(small_disk, 0.01).find_shortage(0)
    assert shortage is not None
    assert "0.00204 GB are free" in shortage or "0.0021 GB are free" in shortage
    assert "needs 0.01 GB" in shortage
    assert "Free some disk" in shortage


def test_a_trial_needs_as_much_as_the_largest_so_far(small_disk: Path, tmp_path: Path) -> None:
    """For each running trial and for the next one."""
    disk = DiskSpace(small_disk, 0)
    (tmp_path / "last.pt").write_bytes(bytes(900_000))
    disk.note(tmp_path)
    assert disk.find_shortage(0) is None
    assert disk.find_shortage(1) is None
    shortage = disk.find_shortage(2)
    assert shortage is not None
    assert "0.0009 GB for each of 3 trials, 2 of them running" in shortage


def need(*, free_gb: float, is_guess: bool = False) -> DiskEstimate:
    """Ten trials of 1 GB on two slots."""
    return DiskEstimate(Path("home"), free_gb, floor_gb=2, kept_gb=10, running_gb=4, first_gb=6, is_guess=is_guess)


def test_a_plan_says_whether_the_disk_has_room_for_all(tmp_path: Path) -> None:
    """What is kept, what running trials need in addition, and what stays free."""
    assert need(free_gb=16).is_enough
    assert not need(free_gb=15.9).is_enough
    assert "the sweep will stop before it is complete" in need(free_gb=15.9).describe()
    assert "stop" not in need(free_gb=16).describe()
    assert "disk: 14 GB of checkpoints and predictions, 1840 GB free in home" in need(free_gb=1840).describe()


def test_a_sweep_is_refused_where_its_first_trials_have_no_room() -> None:
    """But not on a guess: the dispatcher checks again before each launch."""
    assert need(free_gb=8).find_shortage() is None
    shortage = need(free_gb=7).find_shortage()
    assert shortage is not None
    assert "7 GB are free on its disk, and the first trials need 6 GB beside 2 GB that stay free" in shortage
    assert need(free_gb=7, is_guess=True).find_shortage() is None
