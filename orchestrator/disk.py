"""Whether the disk has room for the next trial; asked before each launch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

GB = 1e9


class DiskSpace:
    """Free space below a folder, against what a trial may need: as much as the largest of the sweep has been seen to take.

    floor_gb: to be left free in any case; it is also what the first trial, of which nothing is known, has to do with.
    """

    def __init__(self, folder: Path, floor_gb: float) -> None:
        self._folder = folder
        self._floor_gb = floor_gb
        self._largest_gb = 0.0

    def note(self, trial: Path) -> None:
        """Take note of how large a trial's folder is; while it runs, its checkpoints count too."""
        with os.scandir(trial) as files:
            sizes = [_size(file) for file in files]
        self._largest_gb = max(self._largest_gb, sum(sizes) / GB)

    def find_lack(self, num_running: int) -> str | None:
        """What is lacking for one more trial beside ``num_running``, and what to do; None where there is room."""
        free_gb = shutil.disk_usage(_existing(self._folder)).free / GB
        needed_gb = self._floor_gb + (num_running + 1) * self._largest_gb
        if free_gb >= needed_gb:
            return None
        beside = f", {num_running} of them running" if num_running else ""
        trials = f" and {self._largest_gb:.3g} GB for each of {num_running + 1} trials{beside}" if self._largest_gb else ""
        return (
            f"{self._folder}: {free_gb:.3g} GB are free on its disk, and the next trial needs {needed_gb:.3g} GB: "
            f"{self._floor_gb:.3g} GB that stay free (limits.free_disk_gb){trials}. Nothing more is started. {HINT}"
        )


HINT = (
    "Free some disk: `orchestrate clean` removes what can be made or fetched again, `keep` in the sweep file says how many "
    "checkpoints stay; or move ORCHESTRATE_HOME. Then the same command goes on."
)


def say_full(folder: Path, found: str) -> str:
    """What to tell where something could not be written for want of space."""
    return f"{folder}: the disk is full, or a quota used up: {found.rstrip('.')}. Nothing more is started. {HINT}"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _size(file: os.DirEntry[str]) -> int:
    """Bytes; 0 of a scratch file that has just got its name."""
    try:
        return file.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
