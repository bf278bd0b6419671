"""What the dispatcher needs of a launcher, and what it passes to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from orchestrator.errors import LaunchError

TrialsPerGpu = int | Literal["auto"] | None
"""Attempts that may share a GPU; auto: as many as its memory holds."""

STARTED_BY = "ORCHESTRATE_STARTED_BY"
"""Environment variable: the process that starts a forkserver."""

CUDA_MB = 700
"""GPU memory of a process beside torch's allocator: its CUDA context and the libraries' kernels."""

SAFETY = 1.1
"""Memory reserved for an attempt, relative to the measured peak of a similar one."""


@dataclass(frozen=True)
class MemoryEstimate:
    """GPU memory that an attempt needs; meaningless on the CPU.

    mb: at least this much. is_measured: also at most, so that other attempts may run beside it.
    """

    mb: int = 0
    is_measured: bool = False

    @classmethod
    def of_peak(cls, peak_mb: float) -> MemoryEstimate:
        """Of an attempt if a similar one had this peak in torch's allocator."""
        return cls(round(SAFETY * peak_mb) + CUDA_MB, is_measured=True)


UNKNOWN = MemoryEstimate()
"""Nothing has been measured yet."""

ANY = MemoryEstimate(1, is_measured=True)
"""Fits wherever there is any room."""


@dataclass(frozen=True)
class Requester:
    """A sweep that asks for slots: the next free one goes to the waiting requester with the highest priority."""

    sweep: str
    priority: int = 0

    def __str__(self) -> str:
        return f"{self.sweep} (priority {self.priority})"


DEFAULT_REQUESTER = Requester("a sweep")


@dataclass(frozen=True)
class SlotRequest:
    """What a sweep asks of a launcher. None leaves the number of slots, and of threads per slot, to the machine."""

    num_slots: int | None = None
    num_threads: int | None = None
    trials_per_gpu: TrialsPerGpu = None
    requester: Requester = DEFAULT_REQUESTER


@dataclass(frozen=True)
class JobExit:
    """How an attempt's process ended.

    code: a worker's ExitCode, or negative for a signal, as in subprocess. reason: what the launcher knows of an unexpected end.
    lacked_memory: whether it knows that the host ran out of memory.
    """

    code: int
    reason: str | None = None
    lacked_memory: bool = False


class Job(Protocol):
    """One running attempt. Used by one thread."""

    folder: Path

    def poll(self) -> JobExit | None:
        """None while it runs; afterwards always the same exit. Its slot is free from then on."""

    def stop(self, *, force: bool = False) -> None:
        """Ask the attempt to end after the running epoch with a checkpoint; with ``force``, kill it now."""


class Launcher(Protocol):
    """Runs attempts on slots, each of which belongs to one attempt or is free.

    If no slot is as large as an attempt's memory estimate, the attempt gets one of the largest.
    """

    def free_slots(self, memory: MemoryEstimate = UNKNOWN) -> int:
        """How many such attempts could be launched now.

        Raises:
            LaunchError: all slots are gone for good, such as those of a broken GPU.
        """

    def launch(self, folder: Path, memory: MemoryEstimate = UNKNOWN) -> Job:
        """Start an attempt at the trial in ``folder`` on a free slot.

        Raises:
            LaunchError: no slot is free for it, or no process can be started.
        """

    def close(self) -> None:
        """Kill all running attempts and release every slot."""


@runtime_checkable
class SlotOwner(Protocol):
    """A launcher that knows how large its slots are and shares them with the other sweeps on this machine by priority."""

    def fits(self, memory: MemoryEstimate) -> bool:
        """Whether a slot, free or taken, is known to be large enough."""

    def line_up(self, estimates: Sequence[MemoryEstimate]) -> Requester | None:
        """Publish what waits for a slot, after each search for a free one; an empty list: nothing waits.

        Dispatchers with a lower priority leave those slots free. Returns whom this dispatcher leaves slots free for.
        """


class NothingToLaunch:
    """Launcher of a sweep in which everything is done: takes no slot from others and starts no process."""

    def free_slots(self, memory: MemoryEstimate = UNKNOWN) -> int:
        return 1

    def launch(self, folder: Path, memory: MemoryEstimate = UNKNOWN) -> Job:
        raise LaunchError(f"{folder}: was done when the plan was made, and is not any more. Run the sweep again.")

    def close(self) -> None:
        """Nothing runs."""
