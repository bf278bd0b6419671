"""Slots: the shares of this machine's GPUs, or of its CPU, that attempts own one at a time, across all processes of a user."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import LaunchError

WORKER_MEMORY_GB = 1.5
"""Host memory that a worker on the CPU is counted with; so that many cores and little memory do not swap."""


@dataclass(frozen=True)
class Slot:
    """What one attempt may use.

    visible_devices: the value of CUDA_VISIBLE_DEVICES; empty on the CPU.
    memory_mb: memory of the GPU, where it is known.
    """

    name: str
    visible_devices: str
    num_threads: int
    memory_mb: int | None = None

    @property
    def device(self) -> str:
        """As torch calls it."""
        return "cuda" if self.visible_devices else "cpu"


@dataclass(frozen=True)
class Gpu:
    """A GPU by its UUID, which stays the same however devices are numbered."""

    uuid: str
    memory_mb: int | None


def find_slots(
    num_slots: int | None = None,
    num_threads: int | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    list_gpus: Callable[[], str] | None = None,
) -> tuple[Slot, ...]:
    """The slots of this machine: one a GPU, else one a core, which beats one worker with all cores.

    num_slots: a number of one's own; GPUs are then dealt out in turn. num_threads: CPU threads a slot; None divides the cores.

    Raises:
        LaunchError: as find_gpus.
    """
    gpus = find_gpus(environment, list_gpus=list_gpus)
    num_cores = count_cores()
    num_slots = num_slots or len(gpus) or min(num_cores, _fitting_in_memory())
    num_threads = num_threads or max(1, num_cores // num_slots)
    if not gpus:
        return tuple(Slot(f"cpu-{index}", "", num_threads) for index in range(num_slots))
    dealt = [(gpus[index % len(gpus)], index // len(gpus)) for index in range(num_slots)]
    return tuple(Slot(f"{gpu.uuid}-{share}", gpu.uuid, num_threads, gpu.memory_mb) for gpu, share in dealt)


def count_cores() -> int:
    """Physical cores that this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def find_gpus(environment: Mapping[str, str] = os.environ, *, list_gpus: Callable[[], str] | None = None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, found without touching CUDA in this process.

    list_gpus: gives lines of ``index, uuid, megabytes``; default: the driver's nvidia-smi.

    Raises:
        LaunchError: the driver is broken, or the variable names a GPU that is not there.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ()
    listed = [[field.strip() for field in line.split(",")] for line in (list_gpus or _ask_nvidia_smi)().splitlines() if line]
    by_index = {index: Gpu(uuid, int(memory) if memory.isdigit() else None) for index, uuid, memory in listed}
    if visible is None or not by_index:
        return tuple(by_index.values())
    return tuple(_find_gpu(name.strip(), by_index) for name in visible.split(","))


def _find_gpu(name: str, by_index: Mapping[str, Gpu]) -> Gpu:
    """One entry of CUDA_VISIBLE_DEVICES: an index, the beginning of a UUID, or a part of a GPU (MIG)."""
    if name.startswith("MIG"):
        return Gpu(name, None)
    for index, gpu in by_index.items():
        if name == index or (not name.isdigit() and gpu.uuid.startswith(name)):
            return gpu
    raise LaunchError(f"CUDA_VISIBLE_DEVICES names {name!r}. Found here: {', '.join(by_index)}. Correct or unset it.")


def _ask_nvidia_smi() -> str:
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except FileNotFoundError:
        return ""  # no driver, no GPU
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LaunchError(
            f"nvidia-smi found no GPU: {error}; it said {error.stdout!r}. Mend the driver, or set CUDA_VISIBLE_DEVICES= ."
        ) from error


def _fitting_in_memory() -> int:
    return max(1, int(psutil.virtual_memory().total / 2**30 / WORKER_MEMORY_GB))


class HeldSlot:
    """A slot, owned. The lock goes with its file descriptor: handed to a worker, it is held until the last holder is gone.

    So a slot stays taken while a worker lives whose dispatcher was killed, and is free at once when both are dead.
    """

    def __init__(self, slot: Slot, descriptor: int) -> None:
        self.slot = slot
        self._descriptor: int | None = descriptor

    def __reduce__(self) -> tuple[object, ...]:
        assert self._descriptor is not None, "a slot given back cannot be handed on"
        return _receive, (self.slot, reduction.DupFd(self._descriptor))

    def give_back(self) -> None:
        """Let go; the slot is free when no worker holds it either."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _receive(slot: Slot, sent: Any) -> HeldSlot:  # what a descriptor is sent as depends on how the process was started
    return HeldSlot(slot, sent.detach())


class SlotTable:
    """Which of some slots are free, told by lock files that all dispatchers of a user on this machine share."""

    def __init__(self, slots: Sequence[Slot], folder: Path | None = None) -> None:
        self.slots = tuple(slots)
        self._folder = folder or Path(tempfile.gettempdir()) / f"orchestrate-slots-{os.getuid()}"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def count_free(self) -> int:
        """How many could be taken now."""
        held = [self._try(slot) for slot in self.slots]
        for one in held:
            if one is not None:
                one.give_back()
        return sum(one is not None for one in held)

    def take(self) -> HeldSlot | None:
        """The first free slot; None where all are taken."""
        return next((held for slot in self.slots if (held := self._try(slot)) is not None), None)

    def _try(self, slot: Slot) -> HeldSlot | None:
        # filelock unlocks for everybody when one holder lets go; here the worker must keep what the dispatcher drops
        descriptor = os.open(self._folder / f"{slot.name.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return HeldSlot(slot, descriptor)
