"""The part `packing` of gpu.py: several trials at once on one GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gpu_settings import ENDLESS, Results, Settings

from orchestrator.launchers.base import UNKNOWN, MemoryEstimate
from orchestrator.launchers.local import LocalJob, LocalLauncher
from orchestrator.launchers.slots.table import find_slots
from orchestrator.launchers.worker.contract import Slot
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Attempt, Event, TrialSpec
from trainers.config import DataConfig, TrainConfig
from trainers.data import prepare_dataset

LONGEST_START_S = 45.0
"""Until every trial has trained its first epoch."""


def run_packing(settings: Settings, results: Results) -> None:
    """Several trials at once on the first GPU, and as many as ``trials_per_gpu: auto`` chooses once it knows their peak.

    Each trial is a real worker, so validation, checkpoints and loaders count.
    """
    data = DataConfig(source=settings.source, ignore_classes=(0,))
    home = Home(Path(settings.scratch) / "packing")
    data_folder = prepare_dataset(data, home.data)
    train = TrainConfig.model_validate({"epochs": ENDLESS, "batch_size": settings.batch_size, "augmentation": "flip"})
    spec = TrialSpec(key="", configuration="", name="packed", train=train, data=data, seed=0, source_fingerprint="")
    peak_mb = 0.0

    def measure(name: str, slots: tuple[Slot, ...], memory: MemoryEstimate) -> dict[str, Any]:
        nonlocal peak_mb
        launcher = LocalLauncher(slots, locks=home.root / "slots" / name)
        try:
            trials = [TrialFolder(home.trial_folder(f"{name}-{index}")) for index in range(launcher.free_slots(memory))]
            for trial in trials:
                trial.create(spec.model_copy(update={"key": trial.path.name}))
                trial.write_attempt(Attempt(number=1, data_folder=str(data_folder)))
            started_s = time.time()
            jobs = [launcher.launch(trial.path, memory) for trial in trials]
            epochs = _watch(jobs, settings)
        finally:
            launcher.close()
        peak_mb = max([peak_mb, *(event.facts.get("peak_memory_mb", 0.0) for events in epochs for event in events)])
        return {
            "trials": len(trials),
            "threads": slots[0].num_threads,
            "images_per_s": sum(_speed(events) for events in epochs),
            "first_epochs_after_s": min(events[0].time_s for events in epochs) - started_s,
            "peak_memory_mb": peak_mb,
        }

    def add(name: str, slots: tuple[Slot, ...], memory: MemoryEstimate) -> None:
        results.measure(name, lambda: measure(name.split()[0], slots, memory), settings, at_least_s=settings.pack_s + 10)

    for count in settings.packed:
        add(f"{count} at once", find_slots(count, trials_per_gpu=count), UNKNOWN)
    add("auto", find_slots(trials_per_gpu="auto"), MemoryEstimate.of_peak(peak_mb))


def _watch(jobs: list[LocalJob], settings: Settings) -> list[list[Event]]:
    """Wait until all trials have trained an epoch, and then for ``pack_s``; each one's epochs from then on, at least two."""
    deadline_s = time.time() + min(settings.left_s - 5, LONGEST_START_S + settings.pack_s)
    trials = [TrialFolder(job.folder) for job in jobs]
    while True:
        epochs = [[event for event in trial.events()[0] if event.kind == "epoch"] for trial in trials]
        if all(epochs):
            first_s = max(events[0].time_s for events in epochs)
            steady = [[event for event in events if event.time_s >= first_s] for events in epochs]
            if time.time() >= first_s + settings.pack_s and all(len(events) >= 2 for events in steady):
                return steady
        for job, trial in zip(jobs, trials, strict=True):
            if (exit := job.poll()) is not None:
                raise RuntimeError(f"{trial.path.name} ended with {exit.code}: {trial.log_tail()}")
        if time.time() > deadline_s:
            raise TimeoutError(f"epochs so far: {[len(events) for events in epochs]}")
        time.sleep(0.1)


def _speed(events: list[Event]) -> float:
    """Images per second from the first to the last of these epochs."""
    num_images = events[-1].metrics["images_per_s"] * events[-1].metrics["epoch_s"]
    return num_images * (len(events) - 1) / (events[-1].time_s - events[0].time_s)
