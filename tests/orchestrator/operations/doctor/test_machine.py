"""What `orchestrate doctor` reports about a machine, with invented GPUs and real folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.driver import GpuListing, read_nvidia_smi
from orchestrator.operations.doctor.datasets import check_data
from orchestrator.operations.doctor.findings import Diagnosis, Level, error, ok, warning
from orchestrator.operations.doctor.machine import check_disk, check_gpus
from orchestrator.state.home import Home


def test_a_gpu_that_torch_does_not_see_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver lists four, of which one is full; the real torch sees others."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listing = "".join(f"{index}, GPU-{index}, 81559, {60000 if index == 2 else 4}\n" for index in range(4))
    found = {finding.subject: finding for finding in check_gpus(lambda: read_nvidia_smi(listing))}
    assert found["GPUs"].level is Level.ERROR
    assert "the driver lists 4" in found["GPUs"].found
    assert "GPU-2: 60000 of 81559 MB" in found["GPU memory"].found


def test_a_broken_driver_is_an_error_and_no_driver_is_not() -> None:
    """Without a driver, trials run on the CPU."""

    def broken() -> GpuListing:
        raise LaunchError("nvidia-smi found no GPU")

    assert [finding.level for finding in check_gpus(broken)] == [Level.ERROR]
    assert [finding.level for finding in check_gpus(lambda: GpuListing({}))] == [Level.OK]


def test_an_unwritable_home_is_an_error(tmp_path: Path) -> None:
    """Reported by its path; its disk is not checked."""
    (tmp_path / "file").touch()
    (found,) = check_disk(Home(tmp_path / "file" / "mlruns"))
    assert found.level is Level.ERROR
    assert "file/mlruns" in found.found


def test_the_slots_folder_is_made_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a sweep creates it: the first user of the doctor locks nobody out."""
    monkeypatch.setenv("ORCHESTRATE_SLOTS", str(tmp_path / "slots"))
    list(check_disk(Home(tmp_path / "home")))
    assert (tmp_path / "slots").stat().st_mode & 0o7777 == 0o1777


def test_little_disk_space_is_reported(small_disk: Path) -> None:
    """No trial starts with two megabytes."""
    (found,) = check_disk(Home(small_disk / "mlruns"))
    assert (found.subject, found.level) == ("disk", Level.ERROR)


def test_data_sets_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders that may be data sets; an empty folder is a warning, a missing one an error."""
    data = tmp_path / "data"
    monkeypatch.setenv("ORCHESTRATE_DATA", str(data))
    home = Home(tmp_path / "home")
    assert [finding.level for finding in check_data(home)] == [Level.ERROR]
    data.mkdir()
    assert [finding.level for finding in check_data(home)] == [Level.WARNING]
    (data / "tiles.npz").write_bytes(b"x" * 1000)
    for name in ("images", "masks"):
        (data / "roads" / name).mkdir(parents=True)
    (found,) = check_data(home)
    assert found.found == f"{data}: roads, tiles.npz (1e-06 GB)"


def test_only_errors_make_the_exit_code() -> None:
    """And no password is shown, whatever a server answered."""
    mild = Diagnosis([ok("a", "all"), warning("b", "hm", "do")])
    assert mild.exit_code == 0
    grave = Diagnosis([error("c", "postgresql://me:hunter2@h/db is away", "start it")])
    assert grave.exit_code == 1
    assert "hunter2" not in str(grave.to_json())
