"""The Ray launcher: nodes that are lost or do not see the folder, a dispatcher that dies, a sweep on two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import JobExit, SlotRequest
from orchestrator.launchers.choose import LAUNCHERS
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Attempt
from tests.orchestrator.ray_cluster import RayCluster, start_cluster

SWEEP = """
name: nodes
data:
  source: synthetic
  synthetic: {num_images: 32, height: 32, width: 64}
  val_fraction: 0.25
  ignore_classes: [0]
base: {arch: FPN, encoder: resnet18, epochs: 40, batch_size: 8, precision: float32}
search: {method: grid, space: {loss: [{name: dice}]}}
limits: {checkpoint_s: 1}
seeds: [0, 1]
"""

DISPATCHER = """
import sys, time
from pathlib import Path
from orchestrator.launchers.ray import RayLauncher

launcher = RayLauncher(address=sys.argv[1])
job = launcher.launch(Path(sys.argv[2]))
while True:
    time.sleep(60)
"""


def wait_until(is_so: Callable[[], object], what: str, timeout_s: float = 120) -> None:
    """Return when it is true."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[RayCluster]:
    """A head and one more, of one CPU each."""
    cluster = start_cluster(1, 1)
    yield cluster
    cluster.close()


def test_a_missing_cluster_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the address that was tried, and what to do."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'orchestrate[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    with pytest.raises(LaunchError, match=r"ray://127.0.0.1:1, which is Ray Client's"):
        LAUNCHERS["ray"](SlotRequest())


@pytest.mark.long
def test_a_folder_that_a_node_does_not_see_is_named(two_nodes: RayCluster, tmp_path: Path) -> None:
    """Nothing is launched there, the slot stays free, and the message says what to do."""
    from orchestrator.launchers.ray import RayLauncher

    launcher = RayLauncher(address=two_nodes.address)
    try:
        with pytest.raises(LaunchError, match=r"does not see .*elsewhere.*ORCHESTRATE_HOME.*orchestrate worker"):
            launcher.launch(tmp_path / "elsewhere")
        assert launcher.free_slots() == 2
    finally:
        launcher.close()


@pytest.mark.long
@pytest.mark.parametrize("loss", ["Hanging", "Stuck"])
def test_an_attempt_that_does_not_stop_is_killed(
    two_nodes: RayCluster,
    make_trial: Callable[..., TrialFolder],
    tiny_data: Path,
    tmp_path: Path,
    user_code: Path,
    loss: str,
) -> None:
    """By the second request, if the first had no effect; custom code is found on the node by this process's path."""
    from orchestrator.launchers.ray import RayLauncher

    trial = make_trial(tmp_path / "trial", loss={"name": f"provoking:{loss}"})
    trial.write_attempt(Attempt(number=1, data_folder=str(tiny_data), silence_s=10))  # it logs where it hangs
    launcher = RayLauncher(address=two_nodes.address)
    try:
        job = launcher.launch(trial.path)
        log = trial.path / TrialFile.LOG
        wait_until(lambda: log.exists() and "in forward" in log.read_text(), "it did not come to its loss")
        job.stop()
        for _ in range(20):
            assert job.poll() is None
            time.sleep(0.05)
        job.stop(force=True)
        wait_until(lambda: job.poll() is not None, "it was not killed", timeout_s=30)
        assert job.poll() == JobExit(-9)
    finally:
        launcher.close()


@pytest.mark.long
def test_an_attempt_dies_with_its_dispatcher(
    two_nodes: RayCluster, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """However it dies: the attempt's process is gone, and with it the folder's lock."""
    trial = make_trial(tmp_path / "trial", epochs=10_000)
    dispatcher = subprocess.Popen([sys.executable, "-c", DISPATCHER, two_nodes.address, str(trial.path)])
    try:
        wait_until(lambda: any(event.kind == "epoch" for event in trial.events()[0]), "no epoch")
    finally:
        dispatcher.send_signal(signal.SIGKILL)
        dispatcher.wait()
    pid = trial.events()[0][0].facts["pid"]
    wait_until(lambda: not psutil.pid_exists(pid), "the attempt outlived its dispatcher", timeout_s=60)
    assert trial.result() is None


@pytest.mark.long
def test_a_sweep_outlives_a_node(tmp_path: Path) -> None:
    """Of two nodes one is killed in mid-sweep: its trial is tried again on the other from its checkpoint, and all complete."""
    cluster = start_cluster(1)
    try:
        lost = cluster.start_node()
        file = tmp_path / "nodes.yaml"
        file.write_text(SWEEP)
        environment = {**os.environ, "ORCHESTRATE_HOME": str(tmp_path / "home"), "RAY_ADDRESS": cluster.address}
        command = [sys.executable, "-m", "orchestrator.cli", "sweep", str(file), "--launcher", "ray", "--json"]
        log = (tmp_path / "log").open("wb")
        sweep = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log)
        try:
            trials = tmp_path / "home" / "trials"

            def num_checkpoints() -> int:
                return len(list(trials.glob("*/last.pt")))

            wait_until(lambda: num_checkpoints() == 2 or sweep.poll() is not None, (tmp_path / "log").read_text(), timeout_s=120)
            assert sweep.poll() is None, (tmp_path / "log").read_text()
            cluster.kill_node(lost)
            output, _ = sweep.communicate(timeout=240)
        finally:
            if sweep.poll() is None:
                sweep.kill()
                sweep.wait()
            log.close()
        assert sweep.returncode == 0, (tmp_path / "log").read_text()
        rows = json.loads(output)["trials"]
        assert [row["state"] for row in rows] == ["COMPLETE", "COMPLETE"]
        assert sorted(row["attempts"] for row in rows) == [1, 2]
        again = next(row for row in rows if row["attempts"] == 2)
        events, _ = TrialFolder(trials / again["key"]).events()
        [ended] = [event for event in events if event.kind == "attempt_ended" and event.attempt == 1]
        assert "Ray has lost its process" in str(ended)
        epochs = [event.epoch for event in events if event.attempt == 2 and event.epoch is not None]
        assert epochs[0] > 1
        assert epochs[-1] == 40
    finally:
        cluster.close()
