"""Replacing and appending to files so that a kill leaves them whole; locks; network file systems."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import BaseFileLock, FileLock, Timeout

from orchestrator.errors import TrackingError


def try_lock(path: Path) -> BaseFileLock | None:
    """The lock at ``path``, which we now hold; None if somebody else holds it. A missing file is created."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


@contextmanager
def holding(path: Path) -> Iterator[bool]:
    """Hold the lock at ``path``; False if somebody else holds it. A missing file is created."""
    lock = try_lock(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock at ``path``; a missing file is created."""
    with holding(path) as is_free:
        return not is_free


NETWORK = ("nfs", "cifs", "smb", "sshfs", "fuse.sshfs", "afs", "fuse.rclone", "fuse.davfs", "davfs")
"""Beginnings of their types in the mount table."""


def check_local(file: Path, what: str) -> None:
    """Check that a database file lies on a local disk.

    Raises:
        TrackingError: it lies on a network file system, where two machines that write at once damage it.
    """
    path = file.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)]
    # the later of two mounts at one point is on top
    nearest = max(reversed(mounts), key=lambda mount: len(mount.mountpoint), default=None)
    if nearest is not None and nearest.fstype.startswith(NETWORK):
        raise TrackingError(
            f"{file}: {what} would be an SQLite file on {nearest.mountpoint}, a network file system ({nearest.fstype}): its "
            "locks do not hold there, so that two machines that write at once damage it. Set ORCHESTRATE_HOME to a folder on a "
            "local disk; machines share their work through ORCHESTRATE_STORAGE (PostgreSQL) and MLFLOW_TRACKING_URI (a server)."
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path, at which a file or folder is written; at the end it replaces ``path`` at once.

    No reader sees half of it, even after a kill; after an exception it is deleted. Threads and processes may do so at once, in
    containers and on other machines too, where process numbers repeat.
    """
    scratch = path.with_name(f".{path.name}.{secrets.randbits(64)}.{os.getpid()}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch)
        scratch.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` at once by text (UTF-8) or bytes; they survive a power cut."""
    with replacing(path) as scratch, open(scratch, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def append_line(path: Path, text: str) -> None:
    """Add a line in one write, so that a kill leaves at most one torn last line; an earlier torn line is ended first."""
    with open(path, "ab+") as file:
        torn = False
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + text.encode() + b"\n")


def mark_file(path: Path | str) -> str:
    """Size and time: changes when the file is replaced."""
    found = os.stat(path)
    return f"{found.st_size}-{found.st_mtime_ns}"
