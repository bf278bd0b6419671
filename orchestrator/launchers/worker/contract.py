"""What launchers and workers agree on: the slot that an attempt may use, and how its process reports its end."""

from dataclasses import dataclass
from enum import IntEnum

KILLED = -9
"""The exit code of a process that was killed, as in subprocess."""


class ExitCode(IntEnum):
    """The exit codes of a worker; a negative one is the signal that killed it, and 5 is process.DISPATCHER_GONE.

    Codes that count without a result are high, because a library that ends the process by itself uses small ones. STOPPED and
    LOCKED count only if the attempt's record says nothing else: otherwise the trial would be started again for ever.
    """

    COMPLETE = 0
    FAILED = 1
    STOPPED = 83
    LOCKED = 84
    DISK_FULL = 86
    DEVICE_LOST = 87
    """FAILED because its GPU was lost."""


@dataclass(frozen=True)
class Slot:
    """A share of a GPU, or of the CPU.

    visible_devices: the value of CUDA_VISIBLE_DEVICES; empty on the CPU.
    memory_mb: memory of the GPU, if known; in a held slot, the attempt's part of it.
    most_per_gpu: attempts that may share the GPU; None: as many as its memory holds.
    """

    name: str
    visible_devices: str
    num_threads: int
    memory_mb: int | None = None
    most_per_gpu: int | None = 1

    @property
    def device(self) -> str:
        """As torch calls it."""
        return "cuda" if self.visible_devices else "cpu"
