"""What the NVIDIA driver reports of this machine's GPUs: through NVML, else through nvidia-smi. Neither touches CUDA."""

import logging
import queue
import re
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import LaunchError

ANSWER_S = 30.0
"""How long to wait for the driver's answer."""

_log = logging.getLogger(__name__)
_nvml_is_free = threading.Lock()


@dataclass(frozen=True)
class Gpu:
    """A GPU by its UUID, which stays the same however devices are numbered; or a part of one (MIG).

    memory_mb: in MiB, None if unknown. used_mb: what all programs used of it when the driver was asked. name: as torch calls it.
    """

    uuid: str
    memory_mb: int | None
    used_mb: int = 0
    name: str = field(default="", compare=False)


@dataclass(frozen=True)
class GpuListing:
    """The driver's answer.

    by_index: GPUs by the driver's numbers. parts: of GPUs that are partitioned (MIG), by their UUIDs.
    complaints: about GPUs that are lost or broken, one line each.
    """

    by_index: Mapping[str, Gpu]
    parts: Mapping[str, tuple[Gpu, ...]] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()


def ask_driver(*, answer_s: float = ANSWER_S) -> GpuListing:
    """Ask NVML; where the library is missing or finds no usable GPU, ask nvidia-smi. Used by any number of threads.

    Raises:
        LaunchError: the driver is broken, or does not answer.
    """
    answers: queue.SimpleQueue[GpuListing | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(ask_nvml())
        except Exception as error:  # such as a container without libnvidia-ml
            _log.debug("NVML: %s", error)
            answers.put(None)
        finally:
            _nvml_is_free.release()

    try:
        if not _nvml_is_free.acquire(timeout=answer_s):
            raise queue.Empty
        try:
            threading.Thread(target=ask, name="ask-nvml", daemon=True).start()  # a call into a hung driver never returns
        except RuntimeError:  # no more threads
            _nvml_is_free.release()
            raise
        listing = answers.get(timeout=answer_s)
    except queue.Empty:
        raise LaunchError(
            f"the NVIDIA driver has not answered for {answer_s:g} s. Repair it, or set CUDA_VISIBLE_DEVICES= to use the CPU."
        ) from None
    return listing if listing and listing.by_index else ask_nvidia_smi()


def ask_nvml(nvml: Any = None) -> GpuListing:
    """Ask the library.

    nvml: the module pynvml, or what stands in for it.

    Raises:
        pynvml.NVMLError: there is no library, no driver or no GPU.
    """
    if nvml is None:
        import pynvml

        nvml = pynvml
    nvml.nvmlInit()
    try:
        by_index: dict[str, Gpu] = {}
        parts: dict[str, tuple[Gpu, ...]] = {}
        complaints: list[str] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                memory_mb, used_mb = _read_memory(nvml, handle)
                gpu = Gpu(nvml.nvmlDeviceGetUUID(handle), memory_mb, used_mb, nvml.nvmlDeviceGetName(handle))
                if found := _read_parts(nvml, handle):
                    parts[gpu.uuid] = found
                by_index[str(index)] = gpu
            except nvml.NVMLError as error:
                complaints.append(f"GPU {index}: {error}")
        return GpuListing(by_index, parts, tuple(complaints))
    finally:
        nvml.nvmlShutdown()


def _read_memory(nvml: Any, handle: Any) -> tuple[int | None, int]:
    """MiB of a GPU, and of these the ones in use."""
    try:
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)  # the first version counts reserved as used
        except nvml.NVMLError_FunctionNotFound:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):  # shared with the host, or partitioned (MIG)
        return None, 0
    return memory.total // 2**20, memory.used // 2**20


def _read_parts(nvml: Any, handle: Any) -> tuple[Gpu, ...]:
    """The parts of a GPU that is partitioned (MIG), whose memory is not read."""
    try:
        is_partitioned, _ = nvml.nvmlDeviceGetMigMode(handle)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        return ()
    parts = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_partitioned else 0):
        with suppress(nvml.NVMLError_NotFound):  # places of larger parts stay empty
            parts.append(Gpu(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)), None))
    return tuple(parts)


def ask_nvidia_smi(*, devices: Path = Path("/dev")) -> GpuListing:
    """Ask the command; without a driver there are no GPUs.

    Where the command fails but lists GPUs, those can be used, and others are lost or broken. devices: the folder of device files.

    Raises:
        LaunchError: the driver is broken, or does not answer.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.used,name", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=ANSWER_S, check=True).stdout
    except (FileNotFoundError, PermissionError):
        if found := next(devices.glob("nvidia[0-9]*"), None):
            raise LaunchError(
                f"there is a GPU here ({found}), but neither NVML nor nvidia-smi to identify it. Put nvidia-smi on the PATH (a "
                "container needs the driver's `utility` capability), or set CUDA_VISIBLE_DEVICES= to train on the CPU."
            ) from None
        return GpuListing({})
    except subprocess.CalledProcessError as error:
        if not re.search(r"^(\d+, *)?GPU-", error.stdout, re.MULTILINE):
            raise _say_broken(error) from error
        _log.debug("nvidia-smi: %s; it said %r", error, error.stdout)
        listing = str(error.stdout)
    except subprocess.TimeoutExpired as error:
        raise _say_broken(error) from error
    try:
        parts = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=ANSWER_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("nvidia-smi -L: %s", error)
        parts = ""
    return read_nvidia_smi(listing, parts)


def read_nvidia_smi(listing: str, parts: str = "") -> GpuListing:
    """Read what the command prints.

    listing: lines of ``index, uuid, MiB``, and perhaps MiB in use and the name; all other lines are complaints. One about a lost
    GPU may stand in place of its UUID: ``[GPU is lost]``. parts: the output of ``nvidia-smi -L``.
    """
    by_index: dict[str, Gpu] = {}
    complaints = []
    for line in filter(str.strip, listing.splitlines()):
        index, *fields = (part.strip() for part in line.split(",", 4))
        if len(fields) >= 2 and index.isdigit() and fields[0].startswith("GPU-"):
            memory_mb, used_mb = (int(text) if text.isdigit() else None for text in (fields[1], *fields[2:3], "")[:2])
            by_index[index] = Gpu(fields[0], memory_mb, used_mb or 0, "".join(fields[3:]))
        else:
            complaints.append(line)
    found: dict[str, tuple[Gpu, ...]] = {}
    whole = ""
    for uuid in re.findall(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)", parts):
        if uuid.startswith("GPU"):
            whole = uuid
        else:
            found[whole] = (*found.get(whole, ()), Gpu(uuid, None))
    return GpuListing(by_index, found, tuple(complaints))


def _say_broken(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> LaunchError:
    return LaunchError(
        f"nvidia-smi found no GPU: {error}; it said {error.stdout!r}. Repair the driver, or set CUDA_VISIBLE_DEVICES= ."
    )
