"""Slots: which ones there are, and that each has one owner on the whole machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.driver import read_nvidia_smi
from orchestrator.launchers.slots.gpus import find_gpus
from orchestrator.launchers.slots.locks import slots_folder
from orchestrator.launchers.slots.table import SlotTable, find_slots
from orchestrator.launchers.worker.contract import Slot
from orchestrator.state.machine import count_cores
from tests.orchestrator.launchers.users import run_as

LISTING = read_nvidia_smi("0, GPU-aaaa, 81559\n1, GPU-bbbb, 24564\n2, GPU-cccc, [N/A]\n")


@given(num_slots=st.integers(1, 12), num_gpus=st.integers(1, 4))
def test_gpus_are_dealt_out_evenly(num_slots: int, num_gpus: int) -> None:
    """As many slots as asked for, each with its own name, and no GPU with two more than another."""
    gpus = find_gpus({}, list_gpus=lambda: read_nvidia_smi("".join(f"{index}, GPU-{index}, 100\n" for index in range(num_gpus))))
    assert len(gpus) == num_gpus
    listing = {"CUDA_VISIBLE_DEVICES": ",".join(f"MIG-{index}" for index in range(num_gpus))}
    slots = [slot for slot in _slots_of(listing, num_slots)]
    shares = [sum(slot.visible_devices == f"MIG-{index}" for slot in slots) for index in range(num_gpus)]
    assert len({slot.name for slot in slots}) == num_slots
    assert max(shares) - min(shares) <= 1


def _slots_of(environment: dict[str, str], num_slots: int) -> tuple[Slot, ...]:
    return find_slots(num_slots, environment=environment, list_gpus=lambda: LISTING)


def test_one_slot_is_on_whichever_gpu_is_free(tmp_path: Path) -> None:
    """Two sweeps with one slot each get one GPU each, and neither takes a second."""
    listing = read_nvidia_smi("0, GPU-a, 100\n1, GPU-b, 100\n")
    slots = find_slots(1, None, environment={}, list_gpus=lambda: listing, with_spares=True)
    tables = [SlotTable(slots, tmp_path, most=1) for _ in range(2)]
    held = [table.take() for table in tables]
    assert {one.slot.visible_devices for one in held if one is not None} == {"GPU-a", "GPU-b"}
    assert [(table.count_free(), table.take()) for table in tables] == [(0, None)] * 2
    for table, one in zip(tables, held, strict=True):
        assert one is not None
        table.release(one, is_lost=False)
        table.release(one, is_lost=False)
        assert table.count_free() == 1
    shares = find_slots(3, None, trials_per_gpu=2, environment={}, list_gpus=lambda: listing, with_spares=True)
    assert [slot.name for slot in shares] == ["GPU-a-0", "GPU-b-0", "GPU-a-1", "GPU-b-1"]
    assert len(find_slots(3, None, environment={}, list_gpus=lambda: listing, with_spares=True)) == 3


def test_the_cpu_is_divided() -> None:
    """Without a GPU, the slots together have no more threads than there are cores, and each has one."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    slots = find_slots(environment=hidden)
    assert 1 <= len(slots) <= count_cores()
    assert sum(slot.num_threads for slot in slots) <= count_cores()
    assert find_slots(100 * count_cores(), environment=hidden)[0].num_threads == 1


def test_the_number_of_threads_divides_the_cpu() -> None:
    """Slots with several threads are fewer; what one sweep leaves of the cores, another may take."""
    hidden, cores = {"CUDA_VISIBLE_DEVICES": ""}, count_cores()
    assert len(find_slots(None, cores, environment=hidden)) == 1
    assert find_slots(1, 1, environment=hidden, with_spares=True) == find_slots(None, 1, environment=hidden)
    assert find_slots(1, None, environment=hidden, with_spares=True) == find_slots(1, None, environment=hidden)
    assert len(find_slots(2 * cores, 1, environment=hidden, with_spares=True)) == 2 * cores


def test_two_tables_never_share_a_slot(tmp_path: Path, cpu_slots: tuple[Slot, ...]) -> None:
    """Two dispatchers on one machine see each other's slots as taken."""
    one, two = SlotTable(cpu_slots, tmp_path), SlotTable(cpu_slots, tmp_path)
    first, second = one.take(), two.take()
    assert first is not None
    assert second is not None
    assert {first.slot, second.slot} == set(cpu_slots)
    assert (one.take(), two.take(), one.count_free()) == (None, None, 0)
    first.release()
    first.release()
    assert two.count_free() == 1


def test_a_slot_is_held_until_its_last_holder_releases_it(tmp_path: Path, cpu_slots: tuple[Slot, ...]) -> None:
    """A worker's copy of the lock keeps the slot after the dispatcher has gone."""
    table = SlotTable(cpu_slots[:1], tmp_path)
    held = table.take()
    assert held is not None
    copy_of_worker = os.dup(held.descriptor)
    held.release()
    assert table.count_free() == 0
    os.close(copy_of_worker)
    assert table.count_free() == 1


def test_the_folder_of_locks_does_not_depend_on_the_user_or_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A scheduler's TMPDIR changes nothing; ORCHESTRATE_SLOTS decides if it is set."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert slots_folder({"TMPDIR": str(tmp_path)}) == Path("/tmp/orchestrate-slots")
    assert slots_folder({"ORCHESTRATE_SLOTS": str(tmp_path)}) == tmp_path


def test_locks_are_usable_by_everybody(tmp_path: Path, cpu_slots: tuple[Slot, ...]) -> None:
    """Whatever the umask: the folder has the mode of /tmp, and its files are open to all."""
    before = os.umask(0o077)
    try:
        table = SlotTable(cpu_slots, tmp_path / "a" / "slots")
        held = table.take()
    finally:
        os.umask(before)
    assert held is not None
    held.release()
    assert (tmp_path / "a" / "slots").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "a" / "slots" / "cpu-0.lock").stat().st_mode & 0o777 == 0o666


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_two_users_never_share_a_slot(cpu_slots: tuple[Slot, ...], mode: int) -> None:
    """Another user sees our slot as taken, even if our file is read-only, and takes free ones."""
    with tempfile.TemporaryDirectory() as parent:  # below tmp_path nobody else may look
        os.chmod(parent, 0o755)
        folder = Path(parent) / "slots"
        table = SlotTable(cpu_slots, folder)
        held = table.take()
        assert held is not None
        (folder / "cpu-0.lock").chmod(mode)

        def theirs() -> int:
            return SlotTable(cpu_slots, folder).count_free()

        assert run_as(65534, theirs) == 1
        held.release()
        assert run_as(65534, theirs) == 2
        assert table.count_free() == 2


def test_an_unusable_folder_is_reported(tmp_path: Path, cpu_slots: tuple[Slot, ...]) -> None:
    """The message says which, and how to choose another."""
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match=r"file/slots: .*ORCHESTRATE_SLOTS"):
        SlotTable(cpu_slots, tmp_path / "file" / "slots")


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), (None, None)])
def test_a_container_quota_counts(tmp_path: Path, quota: str | None, cores: int | None) -> None:
    """As many cores as it allows; without a quota, as many as there are."""
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    assert count_cores(file) == (cores or count_cores(tmp_path / "nothing"))


def test_slots_are_named_by_the_cpus() -> None:
    """Two jobs on different CPUs of one machine do not wait for each other; with more slots than CPUs, names still differ."""
    cpus = sorted(os.sched_getaffinity(0))
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    os.sched_setaffinity(0, cpus[-1:])
    try:
        names = [slot.name for slot in find_slots(2, environment=hidden)]
    finally:
        os.sched_setaffinity(0, cpus)
    assert names == [f"cpu-{cpus[-1]}", f"cpu-{cpus[-1]}-1"]
