"""Chooses device, precision and threads of a training, and names the device."""

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import torch

from trainers.errors import ConfigError


@dataclass(frozen=True)
class Compute:
    """What a training may use.

    device, num_threads: as in ``choose_device`` and ``limited_threads``; accumulate: parts that a batch is cut into if it does
    not fit into the device's memory; feed: where batches are made, as in ``choose_feed``.
    """

    device: str | None = None
    num_threads: int | None = None
    accumulate: int = 1
    feed: Literal["auto", "loaders", "device"] = "loaders"
    """``auto`` becomes the default once benchmarks/gpu.py has measured it on a GPU."""


@dataclass(frozen=True)
class Device:
    """A device and the precision that training uses on it.

    float32 is torch's default: a GPU's convolutions may use TF32 (products of 10-bit fractions, sums in float32), matrix products
    may not. A plain script computes the same.
    """

    torch: torch.device
    precision: Literal["float32", "bf16"]

    @property
    def is_cuda(self) -> bool:
        return self.torch.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.torch) if self.is_cuda else f"cpu ({platform.machine()})"

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.torch.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def peak_memory_mb(self) -> float:
        """Peak memory so far: reserved by torch's allocator on a GPU, resident in the process otherwise."""
        if self.is_cuda:
            return torch.cuda.max_memory_reserved(self.torch) / 2**20
        unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def choose_device(name: str | None, precision: Literal["auto", "float32", "bf16"]) -> Device:
    """Return the device ``name`` (None: the first GPU, else the CPU); ``auto`` means bf16 if the hardware has it.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used: {error}. Known here: cpu, {torch.cuda.device_count()} GPUs"
        ) from error
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "float32"
    return Device(device, precision)


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16; emulated, a step takes ten times as long as in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def num_loaders(device: Device, num_threads: int | None) -> int:
    """Number of loader processes: none on the CPU, where they would take cores from the training."""
    cores = num_threads or len(os.sched_getaffinity(0))
    return max(1, min(4, cores - 1)) if device.is_cuda else 0


@contextmanager
def tuned_convolutions(device: Device) -> Iterator[None]:
    """Let cuDNN time its algorithms for each shape and keep the fastest in the block; a training has three or four shapes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.is_cuda
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def limited_threads(num_threads: int | None) -> Iterator[None]:
    """Let torch and OpenCV use ``num_threads`` threads in the block; None: no change."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
        cv2.setNumThreads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
