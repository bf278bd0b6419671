"""Trials on GPUs that do not exist: real slots with scripted attempts, and real attempts that find no GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from orchestrator.dispatch.loop.memory import MemoryEstimates
from orchestrator.errors import LaunchError
from orchestrator.launchers.base import UNKNOWN, JobExit, MemoryEstimate, Requester
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.slots.driver import read_nvidia_smi
from orchestrator.launchers.slots.gpu_sharing import adjust_reservation
from orchestrator.launchers.slots.gpus import GpuWatch
from orchestrator.launchers.slots.locks import HeldSlot
from orchestrator.launchers.slots.table import SlotTable, find_slots
from orchestrator.launchers.worker.contract import Slot
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.records import Event, TrialSpec, TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    Bench,
    Point,
    Script,
    ScriptedJob,
    Ticks,
    complete,
    points,
    raise_error,
    spec,
    states_of,
)
from trainers.config import TrainConfig

SMALL, LARGE = ("GPU-small", 24000), ("GPU-large", 80000)


class OnGpu(ScriptedJob):
    """A scripted attempt that holds a real slot."""

    held: HeldSlot

    def poll(self) -> JobExit | None:
        if (exit := super().poll()) is not None:
            self.held.release()
        return exit


class GpuLauncher:
    """Scripted attempts on GPUs that do not exist."""

    def __init__(self, script: Script, slots: Sequence[Slot], locks: Path) -> None:
        self._script = script
        self._table = SlotTable(slots, locks)
        self.jobs: list[OnGpu] = []
        self.most_at_once = 0

    @property
    def launched(self) -> list[tuple[str, str]]:
        """Trials and their GPUs."""
        return [(job.folder.name, job.held.slot.visible_devices.removeprefix("GPU-")) for job in self.jobs]

    def free_slots(self, need: MemoryEstimate = UNKNOWN) -> int:
        return self._table.count_free(need)

    def fits(self, need: MemoryEstimate) -> bool:
        return self._table.fits(need)

    def line_up(self, needs: Sequence[MemoryEstimate]) -> Requester | None:
        return self._table.line_up(needs)

    def launch(self, folder: Path, need: MemoryEstimate = UNKNOWN) -> OnGpu:
        held = self._table.take(need)
        if held is None:
            raise LaunchError("no slot is free")
        job = OnGpu(folder, self._script)
        job.held = held
        slot = held.slot
        attempt = job.trial.attempt().number
        facts = {"gpu": slot.visible_devices, "memory_mb": slot.memory_mb}
        job.trial.append(Event(kind="attempt_started", time_s=1.0, attempt=attempt, facts=facts))
        self.jobs.append(job)
        self.most_at_once = max(self.most_at_once, sum(one.exit is None for one in self.jobs))
        return job

    def close(self) -> None:
        """Nothing runs."""


def slots_of(*gpus: tuple[str, int], most: int | None = 1, num_shares: int = 1) -> list[Slot]:
    """``num_shares`` slots on each GPU."""
    return [Slot(f"{name}-{share}", name, 1, mb, most) for share in range(num_shares) for name, mb in gpus]


def of_arch(key: str, arch: str) -> TrialSpec:
    """A trial of an architecture."""
    return spec(key).model_copy(update={"train": TrainConfig(arch=arch), "configuration": key})


def needs_of(**peaks_mb: float) -> MemoryEstimates:
    """Estimates from peaks of architectures."""
    needs = MemoryEstimates()
    for arch, peak_mb in peaks_mb.items():
        needs.record_epoch(of_arch(arch, arch), Event(kind="epoch", time_s=0, attempt=1, facts={"peak_memory_mb": peak_mb}))
    return needs


def test_a_trial_that_fits_nowhere_now_lets_others_pass(bench: Bench, tmp_path: Path) -> None:
    """Large trials wait for the large GPU while the small one stays busy, also with trials that are not proposed yet."""
    launcher = GpuLauncher(lambda job: complete(job) if job.num_polls > 5 else None, slots_of(SMALL, LARGE), tmp_path)
    archs = {"a": "MAnet", "b": "MAnet", "c": "FPN", "d": "FPN"}
    proposals = [Point(key, (of_arch(key, arch),)) for key, arch in archs.items()]
    outcome = bench.run(proposals, launcher, memory=needs_of(MAnet=40000, FPN=1000))
    assert set(states_of(outcome).values()) == {TrialState.COMPLETE}
    assert launcher.launched[:2] == [("a", "large"), ("c", "small")]
    assert ("b", "large") in launcher.launched


def test_rounds_stay_in_order(bench: Bench, tmp_path: Path) -> None:
    """A trial of a later round does not pass one that waits for a slot."""
    launcher = GpuLauncher(lambda job: complete(job) if job.num_polls > 5 else None, slots_of(SMALL, LARGE), tmp_path)
    trials = tuple(of_arch(key, arch) for key, arch in {"a0": "MAnet", "b0": "MAnet", "c1": "FPN"}.items())
    bench.run([Point("one", trials)], launcher, memory=needs_of(MAnet=40000, FPN=1000), round_of=lambda t: int(t.key[-1]))
    assert launcher.launched[:2] == [("a0", "large"), ("b0", "large")]


def test_after_a_first_epoch_similar_trials_share_its_gpu(bench: Bench, tmp_path: Path) -> None:
    """Until then it runs alone, because its peak is unknown."""

    def script(job: ScriptedJob) -> int | None:
        if job is launcher.jobs[0] and job.num_polls == 3:
            assert len(launcher.jobs) == 1
            job.trial.append(Event(kind="epoch", time_s=1.0, attempt=1, epoch=1, facts={"peak_memory_mb": 1000}))
            adjust_reservation(launcher.jobs[0].held, 1000)  # as the worker does
        return complete(job) if launcher.most_at_once == 4 else None

    launcher = GpuLauncher(script, slots_of(LARGE, most=None, num_shares=4), tmp_path)
    bench.run(points(*"abcdef"), launcher, clock=Ticks(0.2))
    assert launcher.most_at_once == 4


def test_after_too_little_memory_a_larger_gpu_is_tried(bench: Bench, tmp_path: Path) -> None:
    """If there is one, with the whole batch, so that nothing deviates from the file."""

    def script(job: ScriptedJob) -> int:
        is_small = isinstance(job, OnGpu) and job.held.slot.visible_devices == "GPU-small"
        return raise_error(job, FailureKind.CUDA_OUT_OF_MEMORY) if is_small else complete(job)

    launcher = GpuLauncher(script, slots_of(SMALL, LARGE), tmp_path)
    [trial] = bench.run(points("a"), launcher).trials
    assert (trial.state, launcher.launched) == (TrialState.COMPLETE, [("a", "small"), ("a", "large")])
    assert bench.folder("a").attempt().accumulate == 1
    assert bench.monitor.reasons[0] is not None
    assert "retrying with more than 24000 MB of a GPU" in bench.monitor.reasons[0]


def test_a_sweep_whose_gpus_are_lost_halts(
    bench: Bench, make_spec: Callable[..., TrialSpec], tiny_data: Path, tmp_path: Path, local_launcher: LocalLauncher
) -> None:
    """Real workers on GPUs that do not exist: each GPU is excluded in turn, and trials wait for the next run."""
    text = "0, GPU-00000000-0000-0000-0000-000000000001, 24000\n1, GPU-00000000-0000-0000-0000-000000000002, 24000\n"
    listing = read_nvidia_smi(text)
    watch = GpuWatch(lambda: listing)
    launcher = LocalLauncher(find_slots(environment={}, list_gpus=lambda: listing), locks=tmp_path / "slots", watch=watch)
    proposals = [Point(str(trial.seed), (trial,)) for trial in (make_spec(seed=seed) for seed in range(4))]
    try:
        outcome = bench.run(proposals, launcher, data_folder=tiny_data)
    finally:
        launcher.close()
    assert "no GPU is left on this machine" in (outcome.halted or "")
    assert set(states_of(outcome).values()) == {TrialState.WAITING}
    assert {failure for failure in bench.monitor.failed if failure} == {FailureKind.DEVICE_LOST}
    again = bench.run(proposals, local_launcher, data_folder=tiny_data)
    assert set(states_of(again).values()) == {TrialState.COMPLETE}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_is_shared_by_memory(
    bench: Bench, make_spec: Callable[..., TrialSpec], tiny_data: Path, tmp_path: Path
) -> None:
    """Its peak is in every epoch and in the result, and the attempt's share of the GPU is no larger than needed."""
    launcher = LocalLauncher(find_slots(trials_per_gpu="auto"), locks=tmp_path / "slots")
    try:
        trial = make_spec(epochs=2)
        [outcome] = bench.run([Point("one", (trial,))], launcher, data_folder=tiny_data).trials
    finally:
        launcher.close()
    assert outcome.result is not None
    started, first, *_ = bench.folder(trial.key).events()[0]
    assert 0 < first.facts["peak_memory_mb"] <= outcome.result.facts["peak_memory_mb"] + 1
    assert first.facts["memory_mb"] == MemoryEstimate.of_peak(first.facts["peak_memory_mb"]).mb < started.facts["memory_mb"]
