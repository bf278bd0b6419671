"""Real workers on the CPU and on a real GPU: they keep to their slot, and free its memory when they are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from orchestrator.launchers.base import JobExit
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.slots.driver import Gpu, GpuListing, ask_driver
from orchestrator.launchers.slots.gpus import GpuWatch
from orchestrator.launchers.slots.table import find_slots
from orchestrator.launchers.worker.contract import ExitCode, Slot
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFolder
from tests.orchestrator.launchers.test_local import wait_for_event, wait_until

ON_GPU = pytest.param(
    "gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)


@pytest.fixture(params=["cpu", ON_GPU])
def slot(request: pytest.FixtureRequest, cpu_slots: tuple[Slot, ...]) -> Slot:
    """A slot on the CPU, and one on the first GPU."""
    return cpu_slots[0] if request.param == "cpu" else find_slots()[0]


@pytest.fixture
def launcher(slot: Slot, tmp_path: Path) -> Iterator[LocalLauncher]:
    """Has that slot alone, wherever else it is used."""
    launcher = LocalLauncher([slot], locks=tmp_path / "slots")
    yield launcher
    launcher.close()


def used_mb(slot: Slot) -> float:
    """Memory of the whole GPU that is in use; on the CPU, that of the processes that we have started."""
    if slot.visible_devices:
        return next(gpu.used_mb for gpu in ask_driver().by_index.values() if gpu.uuid == slot.visible_devices)
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            used += process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
    return used


def test_a_worker_computes_on_its_slot_and_sees_no_other_device(
    slot: Slot, launcher: LocalLauncher, make_trial: Callable[..., TrialFolder], user_code: Path, tmp_path: Path
) -> None:
    """CUDA itself says so, and the result names the device."""
    file = tmp_path / "seen.json"
    trial = make_trial(tmp_path / "trial", loss={"name": "provoking:Witness", "options": {"file": str(file)}})
    job = launcher.launch(trial.path)
    assert wait_until(lambda: job.poll() is not None, 120)
    assert job.poll() == JobExit(ExitCode.COMPLETE), trial.log_tail()
    gpus = [slot.visible_devices] if slot.visible_devices else []
    assert json.loads(file.read_text()) == {"visible": slot.visible_devices, "device": slot.device, "gpus": gpus}
    result = trial.result()
    assert result is not None
    assert result.facts["device"].startswith("cpu") != bool(gpus)


def test_a_worker_is_confined_before_cuda_starts(slot: Slot, make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """A worker of a GPU that does not exist finds none, also where there is another one."""
    missing = Slot("missing-0", "GPU-00000000-0000-0000-0000-000000000001", slot.num_threads, 24000)
    watch = GpuWatch(lambda: GpuListing({"0": Gpu(missing.visible_devices, missing.memory_mb)}))
    launcher = LocalLauncher([missing], locks=tmp_path / "slots", watch=watch)
    try:
        trial = make_trial(tmp_path / "trial")
        job = launcher.launch(trial.path)
        assert wait_until(lambda: job.poll() is not None, 120)
    finally:
        launcher.close()
    result = trial.result()
    assert result is not None
    assert result.failure is FailureKind.DEVICE_LOST, result.reason


def test_a_killed_worker_frees_its_memory(
    slot: Slot, launcher: LocalLauncher, make_trial: Callable[..., TrialFolder], tmp_path: Path
) -> None:
    """Within seconds, so that the next attempt finds it."""
    before_mb = used_mb(slot)
    trial = make_trial(tmp_path / "trial", epochs=10_000)
    job = launcher.launch(trial.path)
    wait_for_event(trial, "epoch")
    held_mb = used_mb(slot)
    os.kill(wait_for_event(trial, "attempt_started").facts["pid"], signal.SIGKILL)
    assert wait_until(lambda: job.poll() is not None, 5)
    assert wait_until(lambda: held_mb - used_mb(slot) > 100, 15), f"{held_mb} MB with the worker"
    if slot.visible_devices:
        assert wait_until(lambda: used_mb(slot) < before_mb + 64, 15), f"{before_mb} MB before the worker"
