"""What the dispatcher requires of every launcher, tested on each with a real training."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import Job, JobExit, Launcher
from orchestrator.launchers.inline import InlineLauncher
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.ray_cluster import RayCluster, start_cluster

# an inline attempt is killed by an exception in its thread, which may hit it between opening a file and the `with` that closes it
MAY_LEAVE_A_FILE = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

FOR_EVER = 10_000
"""Epochs of a trial that is to be running when something happens to it."""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    """One node of two CPUs."""
    cluster = start_cluster(2)
    yield cluster
    cluster.close()


def build(name: str, request: pytest.FixtureRequest) -> Launcher:
    """A launcher by its name, with its arguments here."""
    if name == "local":
        local: LocalLauncher = request.getfixturevalue("local_launcher")
        return local
    if name == "inline":
        return InlineLauncher(request.getfixturevalue("cpu_slots")[0], locks=request.getfixturevalue("tmp_path") / "slots")
    assert name == "ray", f"build {name} here, so that the contract is tested"
    cluster: RayCluster = request.getfixturevalue("ray_cluster")
    from orchestrator.launchers.ray import RayLauncher

    return RayLauncher(address=cluster.address)


@pytest.fixture(params=["local", pytest.param("inline", marks=MAY_LEAVE_A_FILE), pytest.param("ray", marks=pytest.mark.long)])
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    """Each launcher in turn, idle before and after the test."""
    launcher = build(request.param, request)
    yield launcher
    launcher.close()
    gc.collect()  # so that such a file is closed here, not in another module's test


@pytest.fixture
def num_slots(launcher: Launcher) -> int:
    """How many free slots the launcher has."""
    return launcher.free_slots()


def wait_for_exit(job: Job, timeout_s: float = 120) -> JobExit:
    """Poll until the job has ended."""
    deadline_s = time.monotonic() + timeout_s
    while (exit := job.poll()) is None:
        assert time.monotonic() < deadline_s, "the job did not end"
        time.sleep(0.005)
    return exit


def wait_for_epoch(trial: TrialFolder, job: Job, timeout_s: float = 120) -> None:
    """Wait until the trial has reported an epoch."""
    deadline_s = time.monotonic() + timeout_s
    while not any(event.kind == "epoch" for event in trial.events()[0]):
        assert job.poll() is None, trial.log_tail()
        assert time.monotonic() < deadline_s, "the job did not come to its first epoch"
        time.sleep(0.005)


def test_a_trial_is_trained(launcher: Launcher, make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """Its result lies in the folder, whatever the folder's name, and the exit stays what it was."""
    trial = make_trial(tmp_path / "mit leerzeichen, 'ü' und жук %20")
    job = launcher.launch(trial.path)
    assert wait_for_exit(job) == JobExit(ExitCode.COMPLETE) == job.poll()
    result = trial.result()
    assert result is not None
    assert (result.state, result.epochs_run) == (TrialState.COMPLETE, 1)
    job.stop()
    job.stop(force=True)
    assert job.poll() == JobExit(ExitCode.COMPLETE)


def test_a_slot_belongs_to_one_attempt(
    launcher: Launcher, num_slots: int, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """It is taken from launch to exit; without a free one nothing is launched."""
    jobs = [launcher.launch(make_trial(tmp_path / str(index), epochs=FOR_EVER).path) for index in range(num_slots)]
    assert launcher.free_slots() == 0
    with pytest.raises(LaunchError, match="no slot is free"):
        launcher.launch(make_trial(tmp_path / "one too many").path)
    for job in jobs:
        job.stop(force=True)
        assert wait_for_exit(job) == JobExit(-9)
    assert launcher.free_slots() == num_slots


def test_a_stopped_attempt_can_be_resumed(launcher: Launcher, make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """It ends after the running epoch with a checkpoint, and the next attempt starts with the following epoch."""
    trial = make_trial(tmp_path / "trial", epochs=FOR_EVER)
    for _ in range(2):
        job = launcher.launch(trial.path)
        seen = len(trial.events()[0])
        while len(trial.events()[0]) < seen + 2:
            assert job.poll() is None, trial.log_tail()
            time.sleep(0.005)
        job.stop()
        assert wait_for_exit(job) == JobExit(ExitCode.STOPPED)
        assert trial.result() is None
        assert (trial.path / "last.pt").exists()
    epochs = [event.epoch for event in trial.events()[0] if event.kind == "epoch"]
    assert epochs == list(range(1, len(epochs) + 1))


def test_a_failure_is_a_result(launcher: Launcher, make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """One line names what cannot be built, the traceback is in the log, and the slot is free."""
    trial = make_trial(tmp_path / "trial", arch_options={"decoder_merge_policy": "none"})
    assert wait_for_exit(launcher.launch(trial.path)) == JobExit(ExitCode.FAILED)
    result = trial.result()
    assert result is not None
    assert result.state is TrialState.FAILED
    assert result.reason is not None
    assert result.reason.startswith("ConfigError: ")
    assert "\n" not in result.reason
    assert "Traceback" in (trial.path / TrialFile.LOG).read_text()
    assert result.log_tail is not None
    assert "ConfigError" in result.log_tail


def test_a_folder_in_use_is_left_alone(launcher: Launcher, make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """A second attempt at the same folder ends at once and changes nothing."""
    from filelock import FileLock

    trial = make_trial(tmp_path / "trial")
    with FileLock(trial.path / TrialFile.LOCK):
        assert wait_for_exit(launcher.launch(trial.path)) == JobExit(ExitCode.LOCKED)
    assert trial.events()[0] == []


def test_close_kills_what_runs(
    launcher: Launcher, num_slots: int, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """Afterwards the job has ended, without a result, and every slot is free."""
    trial = make_trial(tmp_path / "trial", epochs=FOR_EVER)
    job = launcher.launch(trial.path)
    wait_for_epoch(trial, job)
    launcher.close()
    assert job.poll() == JobExit(-9)
    assert trial.result() is None
    assert launcher.free_slots() == num_slots
