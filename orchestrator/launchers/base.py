"""The seam between the dispatcher and whatever runs an attempt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import LaunchError


@dataclass(frozen=True)
class JobExit:
    """How an attempt's process ended.

    code: the exit code; negative for a signal, as in subprocess. The meaning of codes is worker.ExitCode.
    """

    code: int


class Job(Protocol):
    """One running attempt. Used by one thread."""

    folder: Path

    def poll(self) -> JobExit | None:
        """None while it runs; afterwards always the same exit. Its slot is free from then on."""

    def stop(self, *, force: bool = False) -> None:
        """Ask the attempt to end after the running epoch with a checkpoint; with ``force``, kill it now."""


class Launcher(Protocol):
    """Owns this machine's slots; a slot belongs to one attempt or is free."""

    def free_slots(self) -> int:
        """How many attempts could be launched now."""

    def launch(self, folder: Path) -> Job:
        """Start an attempt at the trial in ``folder`` on a free slot.

        Raises:
            LaunchError: no slot is free, or no process can be started.
        """

    def close(self) -> None:
        """Kill what still runs and give every slot back."""


class NothingToLaunch:
    """Stands in where everything is done already: takes no slot from others and starts no process."""

    def free_slots(self) -> int:
        return 1

    def launch(self, folder: Path) -> Job:
        raise LaunchError(f"{folder}: everything was done when the plan was made, and now it is not. Run the sweep again.")

    def close(self) -> None:
        """Nothing runs."""
