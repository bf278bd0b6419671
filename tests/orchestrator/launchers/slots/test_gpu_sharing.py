"""A GPU that several attempts share: every reservation holds, whoever else comes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.launchers.base import ANY, UNKNOWN, MemoryEstimate
from orchestrator.launchers.slots.driver import read_nvidia_smi
from orchestrator.launchers.slots.gpu_sharing import adjust_reservation
from orchestrator.launchers.slots.gpus import GpuWatch
from orchestrator.launchers.slots.locks import HeldSlot
from orchestrator.launchers.slots.table import SlotTable, find_slots
from orchestrator.launchers.worker.contract import Slot

LISTING = "0, GPU-small, 24000\n1, GPU-large, 80000\n"
MEMORY_MB = {"GPU-small": 24000, "GPU-large": 80000}


def make_table(folder: Path, trials_per_gpu: object, listing: str = LISTING, used: str | None = None) -> SlotTable:
    """A dispatcher's table with its own setting. used: what the driver reports later."""
    slots = find_slots(None, 1, trials_per_gpu=trials_per_gpu, environment={}, list_gpus=lambda: read_nvidia_smi(listing))
    watch = GpuWatch(lambda: read_nvidia_smi(used or listing))
    table = SlotTable(slots, folder, watch=watch)
    watch.look()
    return table


@pytest.fixture
def auto(tmp_path: Path) -> SlotTable:
    """A table of the two GPUs, shared by memory; as on a machine with many cores."""
    shares = [Slot(f"{gpu}-{share}", gpu, 1, mb, None) for share in range(8) for gpu, mb in MEMORY_MB.items()]
    return SlotTable(shares, tmp_path)


def take(table: SlotTable, need: MemoryEstimate = UNKNOWN) -> HeldSlot:
    """A free slot."""
    held = table.take(need)
    assert held is not None
    return held


@dataclass(frozen=True)
class Promise:
    """An attempt's settings, which hold while it runs."""

    gpu: str
    most: int | None
    memory_mb: int

    @classmethod
    def of(cls, slot: Slot) -> Promise:
        assert slot.memory_mb is not None
        return cls(slot.visible_devices, slot.most_per_gpu, slot.memory_mb)


def assert_kept(promises: list[Promise]) -> None:
    """No GPU has more attempts than any of them allows, or attempts with more memory together than it has."""
    for gpu, memory_mb in MEMORY_MB.items():
        here = [promise for promise in promises if promise.gpu == gpu]
        assert all(promise.most is None or len(here) <= promise.most for promise in here)
        assert sum(promise.memory_mb for promise in here) <= memory_mb


SETTINGS = st.sampled_from([1, 2, 3, "auto"])
NEEDS = st.sampled_from(
    [UNKNOWN, MemoryEstimate(20000), MemoryEstimate(500, is_measured=True), MemoryEstimate(9000, is_measured=True)]
)
STEPS = st.lists(st.tuples(st.integers(0, 3), NEEDS, st.booleans()), max_size=40)


@settings(max_examples=60, deadline=None)
@given(each=st.lists(SETTINGS, min_size=4, max_size=4), steps=STEPS)
def test_dispatchers_with_different_settings_respect_each_others_reservations(
    each: list[object], steps: list[tuple[int, MemoryEstimate, bool]]
) -> None:
    """In any order of taking and releasing; and slots that are counted as free can be taken."""
    with tempfile.TemporaryDirectory() as folder:
        tables = [make_table(Path(folder), setting) for setting in each]
        held: list[HeldSlot] = []
        for number, need, is_taken in steps:
            if not is_taken and held:
                held.pop(number % len(held)).release()
                continue
            num_free = tables[number].count_free(need)
            one = tables[number].take(need)
            assert (one is not None) == (num_free > 0)
            if one is not None:
                assert tables[number].count_free(need) == num_free - 1
                held.append(one)
            assert len({one.slot.name for one in held}) == len(held)
            assert_kept([Promise.of(one.slot) for one in held])
        for one in held:
            one.release()


RACER = """
import json, sys, time
from pathlib import Path
from orchestrator.launchers.base import MemoryEstimate, UNKNOWN
from orchestrator.launchers.slots.driver import read_nvidia_smi
from orchestrator.launchers.slots.table import SlotTable, find_slots

folder, setting, listing = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
slots = find_slots(None, 1, trials_per_gpu=setting, environment={}, list_gpus=lambda: read_nvidia_smi(listing))
table, needs = SlotTable(slots, folder), [UNKNOWN, MemoryEstimate(9000, is_measured=True)]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(60):
    held = table.take(needs[turn % 2])
    if held is None:
        time.sleep(0.0005)
        continue
    from_ns, slot = time.monotonic_ns(), held.slot
    time.sleep(0.001)
    print(json.dumps([from_ns, time.monotonic_ns(), slot.name, slot.visible_devices, slot.most_per_gpu, slot.memory_mb]))
    held.release()
"""


def test_racing_processes_respect_each_others_reservations(tmp_path: Path) -> None:
    """By their own records of what they held, and when."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), json.dumps(setting), LISTING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for setting in (1, 2, 3, "auto")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    had = [json.loads(line) for racer in racers for line in racer.communicate(timeout=60)[0].splitlines()]
    assert [racer.returncode for racer in racers] == [0] * len(racers)
    num_together = 0
    for begun_ns, *_ in had:
        now = [entry for entry in had if entry[0] <= begun_ns < entry[1]]
        assert len({entry[2] for entry in now}) == len(now)
        assert_kept([Promise(*entry[3:]) for entry in now])
        num_together = max(num_together, len(now))
    assert num_together > 1


@pytest.mark.parametrize(
    ("num_slots", "trials_per_gpu", "names"),
    [
        (None, None, ["GPU-a-0", "GPU-b-0"]),
        (None, 2, ["GPU-a-0", "GPU-b-0", "GPU-a-1", "GPU-b-1"]),
        (3, 2, ["GPU-a-0", "GPU-b-0", "GPU-a-1"]),
        (9, 2, ["GPU-a-0", "GPU-b-0", "GPU-a-1", "GPU-b-1"]),
        (3, None, ["GPU-a-0", "GPU-b-0", "GPU-a-1"]),
        (3, "auto", ["GPU-a-0", "GPU-b-0", "GPU-a-1"]),
    ],
)
def test_both_numbers_hold(num_slots: int | None, trials_per_gpu: object, names: list[str]) -> None:
    """No more slots in total, and no more per GPU, than the sweep file says."""
    listing = read_nvidia_smi("0, GPU-a, 24000\n1, GPU-b, 24000\n")
    slots = find_slots(num_slots, 1, trials_per_gpu=trials_per_gpu, environment={}, list_gpus=lambda: listing)
    assert [slot.name for slot in slots] == names[: len(slots)]
    assert len(slots) == len(names) or trials_per_gpu == "auto"


def test_an_unmeasured_attempt_runs_alone(auto: SlotTable) -> None:
    """Once it is measured, others run beside it, as many as the memory holds."""
    first, second = take(auto), take(auto)
    assert {first.slot.memory_mb, second.slot.memory_mb} == {24000, 80000}
    need = MemoryEstimate.of_peak(5000)
    assert auto.count_free(ANY) == auto.count_free(need) == 0
    small = first if first.slot.memory_mb == 24000 else second
    assert adjust_reservation(small, 5000) == need.mb
    assert auto.count_free(need) == 24000 // need.mb - 1
    assert auto.count_free(UNKNOWN) == 0
    assert take(auto, need).slot.memory_mb == need.mb


def test_a_growing_peak_keeps_others_out(auto: SlotTable) -> None:
    """An attempt that needs more than was measured before raises its reservation."""
    held = [take(auto, MemoryEstimate(1000, is_measured=True)) for _ in range(2)]
    before = auto.count_free(MemoryEstimate(8000, is_measured=True))
    for one in held:
        adjust_reservation(one, 20000)
    assert auto.count_free(MemoryEstimate(8000, is_measured=True)) < before


def test_an_attempt_whose_part_was_too_small_runs_alone(auto: SlotTable) -> None:
    """On a GPU with more, for as long as it runs."""
    held = take(auto, MemoryEstimate(24001))
    assert (held.slot.visible_devices, held.slot.memory_mb) == ("GPU-large", 80000)
    assert adjust_reservation(held, 100) == 80000
    assert {take(auto, MemoryEstimate(100, is_measured=True)).slot.visible_devices for _ in range(3)} == {"GPU-small"}
    assert auto.count_free(MemoryEstimate(24001)) == 0


@pytest.mark.parametrize("setting", [1, "auto"])
def test_a_trial_is_only_placed_where_it_fits(tmp_path: Path, setting: object) -> None:
    """It waits for the larger GPU though the smaller one is free; what is too large for all gets the largest."""
    table = make_table(tmp_path, setting)
    large = MemoryEstimate(30000, is_measured=True)
    assert (table.fits(large), table.fits(MemoryEstimate(80001))) == (True, False)
    alone = take(table, MemoryEstimate(90000, is_measured=True))
    assert alone.slot.visible_devices == "GPU-large"
    assert (table.count_free(large), table.take(large)) == (0, None)
    assert table.count_free(UNKNOWN) == 1
    alone.release()
    assert take(table, large).slot.visible_devices == "GPU-large"


def test_a_fixed_share_is_a_part_of_the_memory(tmp_path: Path) -> None:
    """Two on a GPU have half of it each: where halves are too small, it is the other GPU's."""
    table = make_table(tmp_path, 2)
    assert not table.fits(MemoryEstimate(40001))
    assert {take(table, MemoryEstimate(13000, is_measured=True)).slot.visible_devices for _ in range(2)} == {"GPU-large"}
    assert take(table).slot.memory_mb == 12000


def test_memory_of_other_programs_is_not_reserved(tmp_path: Path) -> None:
    """A notebook on the GPU leaves room for one measured trial less; a GPU without trials still takes one."""
    table = make_table(tmp_path, "auto", "0, GPU-small, 24000\n", used="0, GPU-small, 24000, 15000\n")
    need = MemoryEstimate(8000, is_measured=True)
    take(table, need)
    assert table.take(need) is None


def test_an_unreadable_reservation_takes_the_whole_gpu(tmp_path: Path, auto: SlotTable) -> None:
    """Such as one of a later version, or an empty one: nobody runs beside it."""
    held = [take(auto), take(auto)]
    for file in tmp_path.glob("*-?.lock"):
        file.write_text('{"schema_version": 2}')
    assert auto.count_free(ANY) == 0
    for one in held:
        one.release()
    assert auto.count_free(UNKNOWN) == 2


def test_a_gpu_whose_memory_is_not_known_is_not_shared_by_memory(tmp_path: Path) -> None:
    """By number it is shared."""
    listing = "0, GPU-x, [N/A]\n"
    assert make_table(tmp_path / "auto", "auto", listing).count_free(MemoryEstimate(1, is_measured=True)) == 1
    assert make_table(tmp_path / "two", 2, listing).count_free(UNKNOWN) == 2
