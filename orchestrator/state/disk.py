"""Whether the disk has room: for a whole plan, and before each launch for the next trial."""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.state.units import format_gb

GB = 1e9


class DiskSpace:
    """Free space below a folder, compared with what a trial may need: as much as the sweep's largest one so far.

    floor_gb: stays free in any case; before anything is known, the first trial needs no more.
    """

    def __init__(self, folder: Path, floor_gb: float) -> None:
        self._folder = folder
        self._floor_gb = floor_gb
        self._largest_gb = 0.0

    def note(self, trial: Path) -> None:
        """Learn how large a trial's folder is; while it runs, its checkpoints count too."""
        self._largest_gb = max(self._largest_gb, measure(trial) / GB)

    def find_shortage(self, num_running: int) -> str | None:
        """What is missing for one more trial beside ``num_running``, and what to do; None if there is room."""
        found_gb = free_gb(self._folder)
        needed_gb = self._floor_gb + (num_running + 1) * self._largest_gb
        if found_gb >= needed_gb:
            return None
        beside = f", {num_running} of them running" if num_running else ""
        trials = f" and {format_gb(self._largest_gb)} for each of {num_running + 1} trials{beside}" if self._largest_gb else ""
        return (
            f"{self._folder}: {format_gb(found_gb)} are free on its disk, and the next trial needs {format_gb(needed_gb)}: "
            f"{format_gb(self._floor_gb)} that stay free (limits.free_disk_gb){trials}. Nothing more is started. {HINT}"
        )


HINT = (
    "Free some disk: `orchestrate clean` removes what can be made or fetched again, `keep` in the sweep file says how many "
    "checkpoints stay; or move ORCHESTRATE_HOME. Then run the same command again to resume."
)


@dataclass(frozen=True)
class DiskEstimate:
    """What a plan's trials are expected to write, compared with the free space; in GB of 10**9 bytes.

    kept_gb: what all of them keep. running_gb: in addition, while every slot is busy. first_gb: what the first trials need.
    is_guess: some of it is estimated from other kinds of trials.
    """

    folder: Path
    free_gb: float
    floor_gb: float
    kept_gb: float
    running_gb: float
    first_gb: float
    is_guess: bool

    @property
    def needed_gb(self) -> float:
        return self.kept_gb + self.running_gb

    def to_json(self) -> dict[str, Any]:
        return {
            "needed_gb": round(self.needed_gb, 4),
            "kept_gb": round(self.kept_gb, 4),
            "free_gb": round(self.free_gb, 4),
            "floor_gb": self.floor_gb,
            "is_enough": self.is_enough,
        }

    @property
    def is_enough(self) -> bool:
        return self.free_gb >= self.floor_gb + self.needed_gb

    def describe(self) -> str:
        """In one line."""
        guess = " (guess)" if self.is_guess else ""
        free = f"{format_gb(self.free_gb)} free in {self.folder}"
        needed = f"disk: {format_gb(self.needed_gb)}{guess} of checkpoints and predictions, {free}"
        if self.is_enough:
            return needed
        floor = f"{format_gb(self.floor_gb)} of which stay free (limits.free_disk_gb)"
        return f"{needed}, {floor}: the sweep will stop before it is complete"

    def find_shortage(self) -> str | None:
        """Why not even the first trials can run, and what to do; None if they can, or on a guess."""
        if self.is_guess or self.free_gb >= self.floor_gb + self.first_gb:
            return None
        return (
            f"{self.folder}: {format_gb(self.free_gb)} are free on its disk, and the first trials need "
            f"{format_gb(self.first_gb)} beside {format_gb(self.floor_gb)} that stay free (limits.free_disk_gb). "
            f"Nothing was started. {HINT}"
        )


def free_gb(folder: Path) -> float:
    """As ``free_bytes``, in GB of 10**9 bytes."""
    return free_bytes(folder) / GB


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def say_full(folder: Path, found: str) -> str:
    """The message for a write that failed because the disk is full."""
    return f"{folder}: the disk is full, or a quota used up: {found.rstrip('.')}. Nothing more is started. {HINT}"


def measure(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of all files below a folder; files that vanish meanwhile count as 0."""
    try:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            return found.st_size
        with os.scandir(path) as entries:
            return sum(map(measure, entries))
    except FileNotFoundError:
        return 0
