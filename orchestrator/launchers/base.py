"""The seam between the dispatcher and whatever runs an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from orchestrator.errors import LaunchError

STARTED_BY = "ORCHESTRATE_STARTED_BY"
"""Environment variable: the process that starts a forkserver."""

CUDA_MB = 700
"""GPU memory that a process takes beside torch's allocator: its CUDA context and the libraries' kernels."""

SAFETY = 1.1
"""What is kept for an attempt, relative to the peak that one like it has had."""


@dataclass(frozen=True)
class MemoryEstimate:
    """GPU memory that an attempt is expected to take; on the CPU it means nothing.

    mb: at least so much. is_measured: and no more, so that others may run beside it.
    """

    mb: int = 0
    is_measured: bool = False

    @classmethod
    def of_peak(cls, peak_mb: float) -> MemoryEstimate:
        """Of an attempt whose like has had this peak in torch's allocator."""
        return cls(round(SAFETY * peak_mb) + CUDA_MB, is_measured=True)


UNKNOWN = MemoryEstimate()
"""Nothing has been measured yet."""

ANY = MemoryEstimate(1, is_measured=True)
"""Fits wherever there is room at all."""


@dataclass(frozen=True)
class Requester:
    """For whom slots are looked for: of those who wait for the same ones, the highest priority gets the next free one."""

    sweep: str
    priority: int = 0

    def __str__(self) -> str:
        return f"{self.sweep} (priority {self.priority})"


DEFAULT_REQUESTER = Requester("a sweep")
"""Nothing is known of it."""


@dataclass(frozen=True)
class JobExit:
    """How an attempt's process ended.

    code: the exit code; negative for a signal, as in subprocess. The meaning of codes is worker.ExitCode.
    reason: what else the launcher knows of an end that nobody asked for. lacked_memory: the host's, by what the launcher knows.
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
    """Owns this machine's slots; a slot belongs to one attempt or is free. Where no slot is as large as an attempt's need, it
    gets one of the largest.
    """

    def free_slots(self, need: MemoryEstimate = UNKNOWN) -> int:
        """How many attempts with such a need could be launched now.

        Raises:
            LaunchError: all slots are gone for good, such as those of a broken GPU.
        """

    def launch(self, folder: Path, need: MemoryEstimate = UNKNOWN) -> Job:
        """Start an attempt at the trial in ``folder`` on a free slot.

        Raises:
            LaunchError: no slot is free for it, or no process can be started.
        """

    def close(self) -> None:
        """Kill what still runs and give every slot back."""


@runtime_checkable
class SlotOwner(Protocol):
    """A launcher that knows how large its slots are and shares them with the other sweeps on this machine by priority."""

    def fits(self, need: MemoryEstimate) -> bool:
        """Whether a slot, free or taken, is known to be large enough."""

    def line_up(self, needs: Sequence[MemoryEstimate]) -> Requester | None:
        """Publish what waits for a slot, after each search for a free one; an empty list: nothing waits.

        Dispatchers with a lower priority leave those slots free. Returns whom this dispatcher leaves slots free for.
        """


class NothingToLaunch:
    """Stands in where everything is done already: takes no slot from others and starts no process."""

    def free_slots(self, need: MemoryEstimate = UNKNOWN) -> int:
        return 1

    def launch(self, folder: Path, need: MemoryEstimate = UNKNOWN) -> Job:
        raise LaunchError(f"{folder}: everything was done when the plan was made, and now it is not. Run the sweep again.")

    def close(self) -> None:
        """Nothing runs."""
