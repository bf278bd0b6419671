"""Two sweeps in separate processes that compete for one slot, with attempts that only sleep."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.launchers.base import MemoryEstimate, Requester
from tests.orchestrator.dispatch.loop.conftest import Bench, ScriptedLauncher, Ticks, complete, points

ROOT = Path(__file__).resolve().parents[4]

NUM_LOW, NUM_HIGH, HELD = 12, 5, 2
"""Number of trials of each sweep; and the low sweep's trial that runs until the test releases it."""

DISPATCH = """
import sys, time
from pathlib import Path
from orchestrator.errors import LaunchError
from orchestrator.state.home import Home
from orchestrator.launchers.base import UNKNOWN, Requester
from orchestrator.launchers.worker.contract import Slot
from orchestrator.launchers.slots.table import SlotTable
from orchestrator.state.ledger import Ledger, Role
from orchestrator.dispatch.shutdown import registered
from tests.orchestrator.dispatch.loop.conftest import Bench, ScriptedJob, complete, points

root, name, priority, num_trials, held = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])

def note(word):
    with open(root / "diary.txt", "a") as diary:
        diary.write(f"{word}\\n")

class Sleeping(ScriptedJob):
    def poll(self):
        if (exit := super().poll()) is not None:
            table.release(self.held, is_lost=False)
        return exit

class OneSlot:
    is_waiting = False

    def free_slots(self, need=UNKNOWN):
        return table.count_free(need)

    def fits(self, need):
        return False

    def line_up(self, needs):
        goes_first = table.line_up(needs)
        if needs and not self.is_waiting:
            self.is_waiting = True
            note(f"{name} waits")
        return goes_first

    def launch(self, folder, need=UNKNOWN):
        if (held := table.take(need)) is None:
            raise LaunchError("no slot is free")
        note(f"{name} {folder.name}")
        job = Sleeping(folder, script)
        job.held, job.end_s = held, time.monotonic() + 0.02
        return job

    def close(self):
        table.line_up(())

def script(job):
    if job.folder.name == f"{name}{held}" and not (root / "go").exists():
        return None
    return None if time.monotonic() < job.end_s else complete(job)

table = SlotTable([Slot("cpu-0", "", 1)], root / "slots", most=1, requester=Requester(name, priority))
home = Home(root / name)
ledger = Ledger(home.ledger_url)
with registered(home, ledger, name, Role.SWEEP) as me:
    bench = Bench(home, ledger, me.owner)
    bench.run(points(*(f"{name}{index}" for index in range(num_trials))), OneSlot(), sweep=name)
"""


class Machine:
    """One slot, a sweep that holds it, and another that waits for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._diary = root / "diary.txt"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, priority: int, num_trials: int, held: int = -1) -> None:
        """Start a sweep. held: its trial that runs until ``let_go``."""
        words = [self.root, name, priority, num_trials, held]
        self.processes[name] = subprocess.Popen([sys.executable, "-c", DISPATCH, *map(str, words)], cwd=ROOT)

    def read(self) -> list[str]:
        """Started trials and waiting sweeps, in order."""
        return self._diary.read_text().splitlines() if self._diary.exists() else []

    def wait_for(self, line: str) -> None:
        """Wait until the diary has this line."""
        while line not in self.read():
            assert not [process for process in self.processes.values() if process.poll() is not None]
            time.sleep(0.01)

    def let_go(self) -> None:
        """End the trial that is held."""
        (self.root / "go").touch()

    def wait_for_end(self, *names: str) -> list[str]:
        """Wait for sweeps; returns the owners of trials that started after the held one."""
        for name in names:
            assert self.processes[name].wait(timeout=60) == 0
        begun = [line.split()[0] for line in self.read() if "waits" not in line]
        return begun[HELD + 1 :]


@contextmanager
def waiting_behind(root: Path, priority: int) -> Iterator[Machine]:
    """A sweep ``low`` holds the slot and has more trials; ``high``, of this priority, waits."""
    machine = Machine(root)
    try:
        machine.start("low", 0, NUM_LOW, held=HELD)
        machine.wait_for(f"low low{HELD}")
        machine.start("high", priority, NUM_HIGH)
        machine.wait_for("high waits")
        yield machine
    finally:
        for process in machine.processes.values():
            process.kill()
            process.wait()


def test_trials_of_the_higher_priority_come_next(tmp_path: Path) -> None:
    """The running trial finishes; then come all of the higher sweep's, then the rest."""
    with waiting_behind(tmp_path, 5) as machine:
        machine.let_go()
        begun = machine.wait_for_end("high", "low")
    assert begun == ["high"] * NUM_HIGH + ["low"] * (NUM_LOW - HELD - 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_waiter_blocks_nobody(tmp_path: Path, how: signal.Signals) -> None:
    """If the higher sweep is killed or halted, the other runs to its end."""
    with waiting_behind(tmp_path, 5) as machine:
        machine.processes["high"].send_signal(how)
        machine.let_go()
        assert machine.wait_for_end("low") == ["low"] * (NUM_LOW - HELD - 1)


def test_equals_share(tmp_path: Path) -> None:
    """Each gets slots before the other has finished."""
    with waiting_behind(tmp_path, 0) as machine:
        machine.let_go()
        begun = machine.wait_for_end("high", "low")
    assert sorted(begun) == ["high"] * NUM_HIGH + ["low"] * (NUM_LOW - HELD - 1)
    assert "low" in begun[begun.index("high") : len(begun) - begun[::-1].index("high")]


class Elsewhere(ScriptedLauncher):
    """Other sweeps hold all slots; records how many trials were published as waiting."""

    def __init__(self, end: Callable[[], bool]) -> None:
        super().__init__(complete, num_slots=0)
        self.said: list[int] = []
        self._end = end

    def fits(self, need: MemoryEstimate) -> bool:
        return False

    def line_up(self, needs: Sequence[MemoryEstimate]) -> Requester | None:
        self.said.append(len(needs))
        self._num_slots = int(self._end())
        return Requester("urgent", 5) if needs else None


def test_a_sweep_that_waits_from_the_start_says_why(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Even before its first proposal: other sweeps hold all slots, and who gets the next one; nothing waits at the end."""
    launcher = Elsewhere(lambda: bool(caplog.records))
    with caplog.at_level(logging.WARNING):
        bench.run(points("a"), launcher, clock=Ticks(1.0))
    assert "No slot is free" in caplog.text
    assert "urgent (priority 5) gets the next" in caplog.text
    assert launcher.launched == ["a"]
    assert (launcher.said[0], launcher.said[-1]) == (1, 0)
