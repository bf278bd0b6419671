"""Slots: the shares of this machine's GPUs, or of its CPU, that attempts own one at a time, across all its users."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import psutil

from orchestrator.errors import LaunchError

WORKER_MEMORY_GB = 1.5
"""Host memory that a worker on the CPU is counted with; so that many cores and little memory do not swap."""

SLOTS_FOLDER = "ORCHESTRATE_SLOTS"
"""Environment variable: the folder of lock files, the same for all who share this machine's GPUs; default: below /tmp."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use, as ``<microseconds or max> <period in microseconds>``."""


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
        return tuple(Slot(name, "", num_threads) for name in _name_cpu_slots(num_slots))
    dealt = [(gpus[index % len(gpus)], index // len(gpus)) for index in range(num_slots)]
    return tuple(Slot(f"{gpu.uuid}-{share}", gpu.uuid, num_threads, gpu.memory_mb) for gpu, share in dealt)


def count_cores(quota: Path = CPU_QUOTA) -> int:
    """Physical cores that this process may use: by the machine, its affinity, and a container's quota, rounded down."""
    allowed = len(_allowed_cpus())
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed, _read_quota(quota) or allowed))


def _allowed_cpus() -> list[int]:
    """Numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _read_quota(file: Path) -> int | None:
    """CPUs that a container may use, at least 1; None where nothing limits it."""
    try:
        allowed_us, period_us = file.read_text().split()
    except OSError:  # no container, or the first version of cgroups
        return None
    return None if allowed_us == "max" else max(1, int(allowed_us) // int(period_us))


def _name_cpu_slots(num_slots: int) -> list[str]:
    """Names by the CPUs that a process may use, so that jobs that a scheduler has put on different CPUs do not meet."""
    cpus = _allowed_cpus()
    shares = [f"-{index // len(cpus)}" if index >= len(cpus) else "" for index in range(num_slots)]
    return [f"cpu-{cpus[index % len(cpus)]}{share}" for index, share in enumerate(shares)]


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


def _ask_nvidia_smi(fields: str = "index,uuid,memory.total") -> str:
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except FileNotFoundError:
        return ""  # no driver, no GPU
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise LaunchError(
            f"nvidia-smi found no GPU: {error}; it said {error.stdout!r}. Mend the driver, or set CUDA_VISIBLE_DEVICES= ."
        ) from error


def name_gpus() -> dict[str, str]:
    """UUID -> what torch calls the GPU too, such as ``NVIDIA H100 80GB HBM3``.

    Raises:
        LaunchError: the driver is broken.
    """
    lines = _ask_nvidia_smi("uuid,name").splitlines()
    return dict((uuid.strip(), name.strip()) for uuid, name in (line.split(",", 1) for line in lines if line))


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


def slots_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where lock files lie. TMPDIR, which a scheduler may set for each job, has no say in it."""
    if chosen := environment.get(SLOTS_FOLDER):
        return Path(chosen).expanduser()
    return (Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())) / "orchestrate-slots"


class SlotTable:
    """Which of some slots are free, told by lock files that all dispatchers on this machine share, whoever runs them.

    Raises:
        LaunchError: the lock files cannot be made or opened.
    """

    def __init__(self, slots: Sequence[Slot], folder: Path | None = None) -> None:
        self.slots = tuple(slots)
        self._folder = folder or slots_folder()
        with _telling(self._folder):
            _make_shared(self._folder)

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
        with _telling(self._folder):
            descriptor = _open_shared(self._folder / f"{slot.name.replace('/', '_')}.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return HeldSlot(slot, descriptor)


def _make_shared(folder: Path) -> None:
    """Make a folder in which everybody may create files; one that exists keeps its mode."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another dispatcher was quicker
            folder.mkdir()
            folder.chmod(0o1777)  # past the umask


def _open_shared(path: Path) -> int:
    """Open a lock file, which may be another user's, or create it for everybody; returns its descriptor."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW  # in a folder of everybody, a link may lead anywhere
    while True:
        # O_CREAT comes last: the kernel may refuse it for another user's file in a sticky folder
        for access in (os.O_RDWR, os.O_RDONLY):
            try:
                return os.open(path, access | flags)
            except PermissionError:
                if access == os.O_RDONLY:
                    raise
            except FileNotFoundError:
                break
        with contextlib.suppress(FileExistsError):  # created by another dispatcher meanwhile
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
            os.fchmod(descriptor, 0o666)  # past the umask
            return descriptor


@contextlib.contextmanager
def _telling(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LaunchError(
            f"{folder}: the lock files of this machine's slots cannot be used: {error}. Make the folder writable for everybody "
            f"(chmod 1777), or set {SLOTS_FOLDER} to another, the same for all who share this machine."
        ) from error
