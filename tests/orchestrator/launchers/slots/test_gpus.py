"""GPUs that CUDA_VISIBLE_DEVICES leaves, and GPUs that disappear while a sweep runs."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import UNKNOWN, MemoryEstimate
from orchestrator.launchers.slots.driver import Gpu, GpuListing, read_nvidia_smi
from orchestrator.launchers.slots.gpus import GpuWatch, find_gpus
from orchestrator.launchers.slots.table import SlotTable, find_slots

LISTING = read_nvidia_smi("0, GPU-aaaa, 81559\n1, GPU-bbbb, 24564\n2, GPU-cccc, [N/A]\n")
A, B, C = Gpu("GPU-aaaa", 81559), Gpu("GPU-bbbb", 24564), Gpu("GPU-cccc", None)
BOTH = "0, GPU-a, 24000, 7\n1, GPU-b, 24000, 7\n"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("-1", ()),
        ("2,0", (C, A)),
        ("GPU-bb", (B,)),
        ("MIG-1234", (Gpu("MIG-1234", None),)),
        ("1,", (B,)),
        ("2,-1,0", (C,)),
        ("0,0", (A,)),
        ("NoDevFiles", ()),
    ],
)
def test_cuda_visible_devices_decides(visible: str | None, expected: tuple[Gpu, ...]) -> None:
    """By index, by the beginning of a UUID, as parts of a GPU; an empty value hides all. As for CUDA, an empty or negative entry
    ends the list, so that nobody else's GPU is taken; an entry that is named twice counts once.
    """
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert find_gpus(environment, list_gpus=lambda: LISTING) == expected


def test_a_gpu_that_is_not_there_is_named() -> None:
    """The message says which GPUs there are."""
    with pytest.raises(LaunchError, match=r"names '7'\. Found here: 0, 1, 2"):
        find_gpus({"CUDA_VISIBLE_DEVICES": "7"}, list_gpus=lambda: LISTING)


def test_an_ambiguous_uuid_is_refused() -> None:
    """As in CUDA: the first match may be somebody else's GPU."""
    with pytest.raises(LaunchError, match=r"'GPU-', with which 3 GPUs begin"):
        find_gpus({"CUDA_VISIBLE_DEVICES": "GPU-"}, list_gpus=lambda: LISTING)


def test_a_lost_gpu_that_is_asked_for_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """A scheduler decides which GPUs a job has; those that are left are used, and no others."""
    listing = read_nvidia_smi("0, [GPU is lost], [GPU is lost]\n1, GPU-bbbb, 24564\n2, GPU-cccc, 24564\n")
    assert find_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, list_gpus=lambda: listing) == (B,)
    assert "names '0'" in caplog.text
    with pytest.raises(LaunchError, match="names '0'"):
        find_gpus({"CUDA_VISIBLE_DEVICES": "0"}, list_gpus=lambda: listing)


class Driver:
    """Answers what a test sets."""

    def __init__(self) -> None:
        self.listing: str | None = BOTH

    def __call__(self) -> GpuListing:
        if self.listing is None:
            raise LaunchError("nvidia-smi found no GPU")
        return read_nvidia_smi(self.listing)


@pytest.fixture
def driver() -> Driver:
    """Of a machine with two GPUs."""
    return Driver()


@pytest.fixture
def watch(driver: Driver) -> GpuWatch:
    """Looks when a test calls it."""
    return GpuWatch(driver)


@pytest.fixture
def table(driver: Driver, watch: GpuWatch, tmp_path: Path) -> SlotTable:
    """A slot on each GPU."""
    return SlotTable(find_slots(environment={}, list_gpus=driver), tmp_path, watch=watch)


def end_on(table: SlotTable, gpu: str, *, is_lost: bool) -> None:
    """Take slots until one is on the GPU, and release that one."""
    held = [one for _ in range(2) if (one := table.take()) is not None]
    for one in held:
        if one.slot.visible_devices == gpu:
            table.release(one, is_lost=is_lost)
            table.release(one, is_lost=is_lost)  # a job may be polled again
        one.release()


def test_a_gpu_that_is_no_longer_listed_gets_no_trial(
    driver: Driver, watch: GpuWatch, table: SlotTable, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, even if the GPU comes back; the others are used."""
    driver.listing = BOTH.splitlines()[1]
    watch.look()
    with caplog.at_level(logging.WARNING):
        assert [table.count_free() for _ in range(3)] == [1, 1, 1]
        driver.listing = BOTH
        watch.look()
        held = table.take()
        assert held is not None
        assert held.slot.visible_devices == "GPU-b"
        assert not table.take()
    assert [record.getMessage().partition(". ")[0] for record in caplog.records] == ["GPU-a: the driver no longer lists it"]


def test_a_driver_that_does_not_answer_takes_no_gpu_away(driver: Driver, watch: GpuWatch, table: SlotTable) -> None:
    """And delays nobody; a line with a complaint is skipped."""
    watch.look()
    driver.listing = None
    watch.look()
    assert table.count_free() == 2
    driver.listing = f"Unable to determine the device handle for GPU 0000:3B:00.0\n{BOTH.splitlines()[1]}"
    watch.look()
    assert table.count_free() == 1


def test_attempts_that_lose_a_gpu_retire_it(table: SlotTable) -> None:
    """The first, as long as there is another GPU; the last GPU gets a second try."""
    end_on(table, "GPU-a", is_lost=True)
    assert table.count_free() == 1
    end_on(table, "GPU-b", is_lost=True)
    assert table.count_free() == 1
    end_on(table, "GPU-b", is_lost=False)
    end_on(table, "GPU-b", is_lost=True)
    assert table.count_free() == 1
    end_on(table, "GPU-b", is_lost=True)
    with pytest.raises(LaunchError, match=r"no GPU is left .*GPU-a: an attempt .*GPU-b: attempts on it keep .*nvidia-smi"):
        table.count_free()
    with pytest.raises(LaunchError, match="no GPU is left"):
        table.take(UNKNOWN)


def test_a_lost_gpu_is_not_waited_for(driver: Driver, watch: GpuWatch, tmp_path: Path) -> None:
    """An attempt that waited for it goes to the largest GPU that is left."""
    driver.listing = "0, GPU-a, 24000\n1, GPU-b, 80000\n"
    table = SlotTable(find_slots(environment={}, list_gpus=driver), tmp_path, watch=watch)
    assert table.fits(MemoryEstimate(30000))
    driver.listing = "0, GPU-a, 24000\n"
    watch.look()
    assert not table.fits(MemoryEstimate(30000))
    held = table.take(MemoryEstimate(30000))
    assert held is not None
    assert held.slot.visible_devices == "GPU-a"


def test_a_gpu_in_use_by_other_programs_comes_last(driver: Driver, watch: GpuWatch, table: SlotTable) -> None:
    """A batch that has no room beside somebody else's training would be cut, while another GPU is idle."""
    driver.listing = "0, GPU-a, 24000, 20000\n1, GPU-b, 24000, 7\n"
    watch.look()
    held = [table.take() for _ in range(2)]
    assert [one.slot.visible_devices for one in held if one is not None] == ["GPU-b", "GPU-a"]


def test_the_driver_is_asked_in_the_background(driver: Driver) -> None:
    """Again and again, until it is closed."""
    watch = GpuWatch(driver, interval_s=0.001)
    watch.start()
    try:
        driver.listing = "0, GPU-a, 24000, 123\n"
        deadline_s = time.monotonic() + 10
        while watch.is_listed("GPU-b"):
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        assert (watch.used_mb("GPU-a"), watch.used_mb("GPU-b"), watch.is_listed("MIG-1")) == (123, 0, True)
    finally:
        watch.close()
