"""Who waits for a slot with which priority: what is left to them, and that nothing else stays idle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.launchers.base import ANY, UNKNOWN, MemoryEstimate, Requester
from orchestrator.launchers.slots.driver import read_nvidia_smi
from orchestrator.launchers.slots.locks import HeldSlot, LockFolder
from orchestrator.launchers.slots.priority_queue import FRESH_S, REPEAT_S, PriorityQueue
from orchestrator.launchers.slots.table import SlotTable, find_slots
from orchestrator.launchers.worker.contract import Slot
from tests.orchestrator.clock import Clock
from tests.orchestrator.launchers.users import run_as

URGENT = Requester("urgent", 5)
LISTING = "0, GPU-small, 24000\n1, GPU-large, 80000\n"

WAITER = """
import sys, time
from pathlib import Path
from orchestrator.launchers.base import ANY, Requester
from orchestrator.launchers.worker.contract import Slot
from orchestrator.launchers.slots.table import SlotTable

table = SlotTable([Slot("cpu-0", "", 1)], Path(sys.argv[1]), requester=Requester("urgent", 5))
while True:
    table.line_up([ANY])
    time.sleep(0.02)
"""


def wait_until(is_so: Callable[[], bool], timeout_s: float = 30) -> None:
    """Look again and again."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def make_table(folder: Path, trials_per_gpu: object, requester: Requester) -> SlotTable:
    """A dispatcher's table of two GPUs."""
    found = find_slots(None, 1, trials_per_gpu=trials_per_gpu, environment={}, list_gpus=lambda: read_nvidia_smi(LISTING))
    return SlotTable(found, folder, requester=requester)


def take_all(table: SlotTable, need: MemoryEstimate = UNKNOWN) -> list[HeldSlot]:
    """All free slots."""
    return list(iter(lambda: table.take(need), None))


def gpus_of(held: Iterable[HeldSlot]) -> set[str]:
    """The GPUs of held slots."""
    return {one.slot.visible_devices for one in held}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_free_slot_is_left_to_a_higher_priority_as_long_as_it_lives(tmp_path: Path, how: signal.Signals) -> None:
    """A killed dispatcher stops counting at once, a suspended one after some seconds."""
    table = SlotTable([Slot("cpu-0", "", 1)], tmp_path)
    waiter = subprocess.Popen([sys.executable, "-c", WAITER, str(tmp_path)])
    try:
        wait_until(lambda: table.count_free() == 0)
        assert table.take() is None
        assert table.line_up([ANY]) == URGENT
        waiter.send_signal(how)
        if how is signal.SIGKILL:
            waiter.wait()
            assert table.count_free() == 1
        wait_until(lambda: table.count_free() == 1)
        assert table.take() is not None
        assert table.line_up([ANY]) is None
    finally:
        waiter.kill()
        waiter.wait()


def test_an_entry_that_is_not_repeated_expires(tmp_path: Path, clock: Clock) -> None:
    """An unchanged entry is repeated in time, a new one is written at once."""
    requesters = (URGENT, Requester("ordinary"))
    high, low = (PriorityQueue(LockFolder(tmp_path), requester, ["cpu-0"], clock=clock) for requester in requesters)
    for _ in range(20):
        high.enter("same", is_full=False, find=lambda: (["cpu-0"], {}))
        assert [entry.slots for entry in low.look_ahead()] == [("cpu-0",)]
        clock.now_s += REPEAT_S
    clock.now_s += FRESH_S
    assert low.look_ahead() == []
    high.enter("other", is_full=True, find=lambda: (["cpu-0"], {}))
    assert low.look_ahead() == []
    assert low.goes_first == URGENT
    high.leave()
    low.look_ahead()
    assert low.goes_first is None


def test_equal_priorities_do_not_wait(tmp_path: Path) -> None:
    """And a higher priority does not wait for a lower one."""
    slots = [Slot("cpu-0", "", 1)]
    tables = [SlotTable(slots, tmp_path, requester=requester) for requester in (URGENT, URGENT, Requester("ordinary"))]
    for table in tables:
        table.line_up([ANY])
    assert [table.count_free() for table in tables] == [1, 1, 0]


def test_a_full_dispatcher_reserves_no_further_slots(tmp_path: Path, cpu_slots: tuple[Slot, ...]) -> None:
    """Other slots go to others; a slot that it releases is its own again while it has something to start."""
    high, low = SlotTable(cpu_slots, tmp_path, most=1, requester=URGENT), SlotTable(cpu_slots, tmp_path)
    first = high.take()
    assert first is not None
    high.line_up([ANY])
    assert low.count_free() == 1
    beside = low.take()
    assert beside is not None
    assert low.line_up([ANY]) == URGENT
    high.release(first, is_lost=False)
    assert (low.count_free(), low.take()) == (0, None)
    last = high.take()
    assert last is not None
    high.line_up(())
    high.release(last, is_lost=False)
    assert low.count_free() == 1


def test_requests_for_other_slots_are_ignored(tmp_path: Path, cpu_slots: tuple[Slot, ...]) -> None:
    """Nobody waits for a dispatcher that waits for other slots."""
    high, low = SlotTable(cpu_slots[:1], tmp_path, requester=URGENT), SlotTable(cpu_slots[1:], tmp_path)
    high.line_up([ANY])
    assert (low.count_free(), low.line_up([ANY])) == (1, None)


def test_a_retired_gpu_is_not_left_to_its_dispatcher(tmp_path: Path) -> None:
    """It would never take it."""
    high, low = (make_table(tmp_path, 1, requester) for requester in (URGENT, Requester("ordinary")))
    held = take_all(high)
    high.release(held[0], is_lost=True)
    high.release(held[1], is_lost=False)
    high.line_up([UNKNOWN])
    assert [one.slot.name for one in take_all(low)] == [held[0].slot.name]


def test_a_gpu_is_drained_for_a_request_for_all_of_it(tmp_path: Path) -> None:
    """The one with the fewest attempts; the other is filled as usual, and so are both when nobody waits."""
    high, low = make_table(tmp_path, 1, URGENT), make_table(tmp_path, 3, Requester("ordinary"))
    every = take_all(low)
    running = {gpu: [one for one in every if one.slot.visible_devices == gpu] for gpu in ("GPU-small", "GPU-large")}
    assert [len(some) for some in running.values()] == [3, 3]
    low.release(running["GPU-large"].pop(), is_lost=False)
    high.line_up([UNKNOWN])
    assert low.take() is None
    low.release(running["GPU-small"].pop(), is_lost=False)
    assert gpus_of(take_all(low)) == {"GPU-small"}
    while running["GPU-large"]:
        assert high.take() is None
        low.release(running["GPU-large"].pop(), is_lost=False)
        assert low.take() is None
    assert gpus_of(take_all(high)) == {"GPU-large"}


def test_memory_without_a_slot_is_not_left_free(tmp_path: Path) -> None:
    """Though there is memory for it: with one slot per GPU, somebody else may hold its name."""
    slots = [Slot(f"{gpu}-{share}", gpu, 1, 24000, None) for share in range(3) for gpu in ("GPU-a", "GPU-b")]
    high, low = SlotTable(slots[:2], tmp_path, requester=URGENT), SlotTable(slots, tmp_path)
    small = MemoryEstimate(500, is_measured=True)
    every = take_all(low, small)
    for one in every:
        if one.slot.name in ("GPU-a-1", "GPU-a-2", "GPU-b-2"):
            low.release(one, is_lost=False)
    high.line_up([small])
    assert high.count_free(small) == 0
    assert [one.slot.name for one in take_all(low, small)] == ["GPU-b-2"]


SETTINGS = st.sampled_from([1, 2, 3, "auto"])
NEEDS = st.sampled_from(
    [UNKNOWN, MemoryEstimate(20000), MemoryEstimate(500, is_measured=True), MemoryEstimate(9000, is_measured=True)]
)
STEPS = st.lists(st.tuples(st.integers(0, 1), NEEDS, st.booleans()), max_size=20)


@settings(max_examples=100, deadline=None)
@given(each=st.tuples(SETTINGS, SETTINGS), steps=STEPS, high_need=NEEDS, low_need=NEEDS)
def test_no_gpu_is_idle_without_a_reason(
    each: tuple[object, object],
    steps: list[tuple[int, MemoryEstimate, bool]],
    high_need: MemoryEstimate,
    low_need: MemoryEstimate,
) -> None:
    """Whatever runs: what a lower one takes, the higher one could not have had; and what it leaves can be had by the higher one,
    but for one GPU at most, on which others run still.
    """
    with tempfile.TemporaryDirectory() as folder:
        tables = [make_table(Path(folder), setting, Requester("x", 1 - i)) for i, setting in enumerate(each)]
        high, low = tables
        held: list[tuple[SlotTable, HeldSlot]] = []
        for number, need, is_taken in steps:
            if is_taken and (one := tables[number].take(need)) is not None:
                held.append((tables[number], one))
            elif held:
                table, one = held.pop(number % len(held))
                table.release(one, is_lost=False)
        takable = take_all(high, high_need)
        for one in takable:
            high.release(one, is_lost=False)
        high.line_up([high_need])
        beside = take_all(low, low_need)
        again = take_all(high, high_need)
        assert len(again) == len(takable)
        for one in again:
            high.release(one, is_lost=False)
        high.line_up(())
        left = take_all(low, low_need)
        idle = gpus_of(left) - gpus_of(takable)
        assert len(idle) <= 1
        assert idle <= gpus_of(one for _, one in held)
        for one in (*beside, *left, *(one for _, one in held)):
            one.release()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_priorities_hold_between_users(cpu_slots: tuple[Slot, ...]) -> None:
    """Another user sees who waits, and reuses a free place of ours."""
    with tempfile.TemporaryDirectory() as parent:  # below tmp_path nobody else may look
        os.chmod(parent, 0o755)
        folder = Path(parent) / "slots"
        ours = SlotTable(cpu_slots, folder, requester=URGENT)
        ours.line_up([ANY])
        assert run_as(65534, lambda: SlotTable(cpu_slots, folder).count_free()) == 0
        ours.line_up(())

        def stand_and_look() -> int:
            SlotTable(cpu_slots, folder, requester=Requester("theirs", 9)).line_up([ANY])
            return SlotTable(cpu_slots, folder, requester=URGENT).count_free()

        assert run_as(65534, stand_and_look) == 0
        assert [file.name for file in (folder / "line").iterdir()] == ["0.lock"]
        assert ours.count_free() == 2
