"""Losses of a user's own in which something goes wrong for real."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

MEMORY_LEFT = 2**28


class Loss(nn.Module):
    """Cross entropy, which may be overridden."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, target.long().clamp(max=logits.shape[1] - 1))


class Raising(Loss):
    """A bug."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise ValueError("there is a bug in it")


class AskingForGpu(Loss):
    """What ``.cuda()`` raises where there is none."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("No CUDA GPUs are available")


class Nan(Loss):
    """A division by zero."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().forward(logits, target) * torch.nan


class Exiting(Loss):
    """A library that ends the process."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        os._exit(3)


class Quitting(Loss):
    """A script that calls sys.exit."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        raise SystemExit(3)


class Crashing(Loss):
    """C code that reads where nothing is."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().forward(logits, target)


class Killed(Loss):
    """Somebody's kill -9."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(logits, target)


class Hungry(Loss):
    """Takes more memory than its limit allows."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LEFT, resource.RLIM_INFINITY))
        return super().forward(torch.ones(4 * MEMORY_LEFT), target)


class Starving(Loss):
    """Takes more memory than its control group has."""

    def __init__(self, group: str) -> None:
        super().__init__()
        self._group = Path(group)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        (self._group / "cgroup.procs").write_text(str(os.getpid()))
        return super().forward(torch.ones(MEMORY_LEFT), target)


class Hanging(Loss):
    """A deadlock."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        while True:
            time.sleep(3600)


class Stuck(Loss):
    """C code that never comes back and lets no other Python run: no signal handler, no thread."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        re.match(r"(a+)+$", "a" * 100 + "b")
        return super().forward(logits, target)


class Large(Loss):
    """Does not fit into the GPU's memory with more than so many pictures, as torch says it."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if len(logits) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(logits, target)


class Once(Loss):
    """Fails as long as there is no such file, and makes it."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = Path(file)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if not self._file.exists():
            self._file.touch()
            os._exit(9)
        return super().forward(logits, target)


class Filling(Loss):
    """Writes until its disk is full, which it then leaves so."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = Path(file)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if not self._file.exists():
            with open(self._file, "wb", buffering=0) as file:
                try:
                    while file.write(bytes(2**16)):
                        pass
                except OSError:
                    print("the disk is full now")
        return super().forward(logits, target)


class WithLoaders(Loss):
    """Keeps two loader processes and writes their ids into a file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._batches = iter(DataLoader(range(10**9), num_workers=2, multiprocessing_context="fork"))  # type: ignore[arg-type]
        next(self._batches)
        Path(file).write_text(" ".join(str(worker.pid) for worker in self._batches._workers))


class Witness(Loss):
    """Writes down where it computes, and which GPUs its process has."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = Path(file)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        gpus = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count())]
        seen = {"visible": os.environ["CUDA_VISIBLE_DEVICES"], "device": logits.device.type, "gpus": gpus}
        self._file.write_text(json.dumps(seen))
        return super().forward(logits, target)


class Growing(Large):
    """Asks for twice the GPU's memory in the fourth batch of more than ``most`` pictures; on the CPU it only raises."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._num_large = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self._num_large += len(logits) > self._most
        if self._num_large < 4:
            return Loss.forward(self, logits, target)
        if logits.is_cuda:
            torch.empty(2 * torch.cuda.get_device_properties(logits.device).total_memory, dtype=torch.uint8, device="cuda")
        return super().forward(logits, target)
