"""A sweep and a worker with separate homes, as on two machines, share a ledger and a tracking store."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.operations.data.make import make_data

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

SWEEP = """
name: tiny
data: {source: set.npz, val_fraction: 0.25, ignore_classes: [0]}
base: {arch: FPN, encoder: resnet18, epochs: 40, batch_size: 8, precision: float32}
search:
  method: grid
  space:
    loss: [{name: focal}, {name: dice}]
seeds: [0, 1]
resources: {slots: 1, threads_per_slot: 1}
"""


class Machine:
    """A folder with its own home, in which commands run."""

    def __init__(self, folder: Path, shared: Path, **variables: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._processes: list[subprocess.Popen[str]] = []
        clean = {k: v for k, v in os.environ.items() if k not in ("ORCHESTRATE_HOME", "ORCHESTRATE_DATA")}
        self._environment = clean | {
            "ORCHESTRATE_SLOTS": str(folder / "slots"),
            "ORCHESTRATE_STORAGE": f"sqlite:///{shared}/ledger.db",
            "MLFLOW_TRACKING_URI": f"sqlite:///{shared}/mlflow.db",
            **variables,
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command with --json in its own process group."""
        command = [sys.executable, "-m", "orchestrator.cli", *arguments, "--json"]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._processes.append(process)
        return process

    def kill(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def run(self, *arguments: str, code: int = 0) -> Any:
        """Run a command; returns its document."""
        process = self.start(*arguments)
        stdout, _ = process.communicate(timeout=300)
        assert process.returncode == code
        return json.loads(stdout)

    def has_trained(self, num_epochs: int = 1) -> bool:
        """Whether epochs have ended on this machine."""
        progress = self.folder.glob("mlruns/trials/*/progress.jsonl")
        return sum(path.read_bytes().count(b'"kind":"epoch"') for path in progress) >= num_epochs


def _wait_until(is_so: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Wait while these processes run."""
    deadline_s = time.monotonic() + 240
    while not is_so():
        assert [process.poll() for process in processes] == [None] * len(processes)
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """The machine that plans, and the one that joins, which has the data elsewhere."""
    shared = tmp_path / "shared"
    shared.mkdir()
    planner = Machine(tmp_path / "planner", shared)
    joiner = Machine(tmp_path / "joiner", shared, ORCHESTRATE_DATA=str(tmp_path / "joiner/data"))
    (planner.folder / "tiny.yaml").write_text(SWEEP)
    make_data(planner.folder / "set.npz", {"num_images": 32, "height": 32, "width": 64})
    (joiner.folder / "data").mkdir()
    yield planner, joiner
    for machine in (planner, joiner):
        machine.kill()


def test_a_worker_finishes_the_sweep_of_a_killed_planner(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """After kill -9 of the planner, each trial is complete and has one run; status and sync agree."""
    planner, joiner = machines
    sweep = planner.start("sweep", "tiny.yaml")
    _wait_until(planner.has_trained, sweep)
    (planner.folder / "set.npz").rename(joiner.folder / "data/set.npz")
    worker = joiner.start("worker", "tiny")
    _wait_until(joiner.has_trained, sweep, worker)

    [status] = joiner.run("status")["sweeps"]
    assert sorted(row["role"] for row in status["dispatchers"]) == ["sweep", "worker"]
    assert sum(status["trials"].values()) == 4

    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    stdout, _ = worker.communicate(timeout=400)
    assert worker.returncode == 0
    trials = json.loads(stdout)["trials"]
    assert len(trials) == 4
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "CACHED"}

    with sqlite3.connect(tmp_path / "shared/mlflow.db") as database:
        runs = database.execute("select status from runs").fetchall()
    assert Counter(runs) == {("FINISHED",): 4}
    for machine in machines:
        assert [(one["sent"], one["closed"]) for one in machine.run("sync")["sweeps"]] == [({}, [])]
    [status] = planner.run("status", "tiny")["sweeps"]
    assert (status["trials"]["COMPLETE"], status["dispatchers"], status["interrupted"]) == (4, [], [])
    assert planner.run("stop", "tiny")["dispatchers"] == []


def test_one_stop_ends_both(machines: tuple[Machine, Machine]) -> None:
    """Gracefully, from either machine: exit code 130, nothing is RUNNING, and stopped trials wait."""
    planner, joiner = machines
    sweep = planner.start("sweep", "tiny.yaml", "--set", "base.epochs=500")
    _wait_until(planner.has_trained, sweep)
    (planner.folder / "set.npz").rename(joiner.folder / "data/set.npz")
    worker = joiner.start("worker", "tiny")
    _wait_until(joiner.has_trained, sweep, worker)
    document = joiner.run("stop", "tiny")
    assert [row["has_ended"] for row in document["dispatchers"]] == [True, True]
    for process in (sweep, worker):
        process.communicate(timeout=60)
        assert process.returncode == 130
    [status] = joiner.run("status", "tiny")["sweeps"]
    assert (status["trials"]["WAITING"], status["trials"]["RUNNING"], status["interrupted"]) == (4, 0, [])
