"""Several dispatchers in separate processes on one sweep and one ledger, with attempts that only sleep."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import Bench

ROOT = Path(__file__).resolve().parents[4]

NUM_TRIALS = 60

DISPATCH = """
import os, random, sys, time
from pathlib import Path
from filelock import FileLock, Timeout
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger, Role
from orchestrator.state.trial.folder import TrialFile
from orchestrator.dispatch.shutdown import registered
from orchestrator.launchers.worker.main import ExitCode
from tests.orchestrator.dispatch.loop.conftest import SWEEP, Bench, ScriptedLauncher, complete, points

home = Home(Path(sys.argv[1]), storage=sys.argv[3] or None)
keys = [f"k{index}" for index in range(int(sys.argv[2]))]
random.Random(os.getpid()).shuffle(keys)
locks, ends_s = {}, {}

def note(word, job):
    with open(home.root / "diary.txt", "a") as diary:
        diary.write(f"{word} {job.folder.name} {os.getpid()}\\n")

def script(job):
    name = job.folder.name
    if name not in locks:
        locks[name] = FileLock(job.trial.path / TrialFile.LOCK)
        try:
            locks[name].acquire(blocking=False)
        except Timeout:
            return ExitCode.LOCKED
        ends_s[name] = time.monotonic() + random.uniform(0.01, 0.06)
        note("begins", job)
    if time.monotonic() < ends_s[name]:
        return None
    complete(job)
    note("ends", job)
    locks.pop(name).release()
    return ExitCode.COMPLETE

ledger = Ledger(home.ledger_url)
(home.root / f"ready-{os.getpid()}").touch()
while not (home.root / "go").exists():
    time.sleep(0.001)
with registered(home, ledger, SWEEP, Role.SWEEP) as me:
    Bench(home, ledger, me.owner).run(points(*keys), ScriptedLauncher(script))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_bench(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Bench]:
    """A home with a ledger of each kind."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create()
        bench = replace(bench, home=Home(bench.home.root, storage=url), ledger=Ledger(url))
    yield bench
    bench.ledger.close()


def test_no_trial_runs_twice_and_none_is_lost(shared_bench: Bench) -> None:
    """Two of three dispatchers are killed with -9; the third takes over their trials and finishes."""
    bench = shared_bench
    bench.home.root.mkdir(exist_ok=True)
    diary = bench.home.root / "diary.txt"
    command = [sys.executable, "-c", DISPATCH, str(bench.home.root), str(NUM_TRIALS), bench.home.storage or ""]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    while len(list(bench.home.root.glob("ready-*"))) < 3:
        assert not [process for process in processes if process.poll() is not None]
        time.sleep(0.02)
    (bench.home.root / "go").touch()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    try:
        for victim in processes[:2]:
            num_seen = _count(diary) + dice.randrange(10, 30)
            while _count(diary) < num_seen:
                assert processes[2].poll() is None
                time.sleep(0.005)
            os.kill(victim.pid, signal.SIGKILL)
        assert processes[2].wait(timeout=120) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()

    keys = [f"k{index}" for index in range(NUM_TRIALS)]
    rows = bench.ledger.states(keys)
    assert {row.state for row in rows.values()} == {TrialState.COMPLETE}
    assert sum(row.attempt - 1 for row in rows.values()) <= 4  # two killed, of two slots each
    lines = [line.split() for line in diary.read_text().splitlines()]
    assert len({pid for _, _, pid in lines}) == 3
    begun = Counter(key for word, key, _ in lines if word == "begins")
    assert all(1 <= begun[key] <= rows[key].attempt for key in keys)
    assert not [key for place, (word, key, _) in enumerate(lines) if word == "ends" and ["begins", key] in _after(lines, place)]
    assert bench.ledger.roster.list_alive(bench.home.is_alive) == []


def _count(diary: Path) -> int:
    return len(diary.read_text().splitlines()) if diary.exists() else 0


def _after(lines: list[list[str]], place: int) -> list[list[str]]:
    """Lines written later, without their owners."""
    return [line[:2] for line in lines[place + 1 :]]
