"""File systems of other machines, on which SQLite's locks do not hold."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from orchestrator.errors import TrackingError


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at ``path``; the file is created where it is missing."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


NETWORK = ("nfs", "cifs", "smb", "sshfs", "fuse.sshfs", "afs", "fuse.rclone", "fuse.davfs", "davfs")
"""What the names of their kinds begin with, as the mount table has them."""


def check_local(file: Path, what: str) -> None:
    """Check that a database file lies on a disk of this machine.

    Raises:
        TrackingError: it lies on a network's, where two machines that write at once damage it.
    """
    found = find_network_mount(file)
    if found is not None:
        folder, kind = found
        raise TrackingError(
            f"{file}: {what} would be an SQLite file on {folder}, a network file system ({kind}): its locks do not hold there, "
            "so that two machines that write at once damage it. Let ORCHESTRATE_HOME name a folder on a local disk; what "
            "machines are to share goes through ORCHESTRATE_STORAGE (PostgreSQL) and MLFLOW_TRACKING_URI (a server)."
        )


def find_network_mount(file: Path) -> tuple[str, str] | None:
    """Mount point and kind of the network file system that ``file`` lies on, or would lie on; None where it is a local one."""
    path = file.resolve()
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)]
    if not mounts:
        return None
    nearest = max(reversed(mounts), key=lambda mount: len(mount.mountpoint))  # of two at one place the later lies on top
    return (nearest.mountpoint, nearest.fstype) if nearest.fstype.startswith(NETWORK) else None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write a file or folder at; at the end it takes the place of ``path`` at once.

    Neither readers nor a kill ever see half of it. After an exception it is removed. Threads and processes may write at once.
    """
    scratch = path.with_name(f".{path.name}.{threading.get_native_id()}.{os.getpid()}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch)
        scratch.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` at once by text (UTF-8) or bytes that a power cut cannot take away any more."""
    with replacing(path) as scratch, open(scratch, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def append_line(path: Path, text: str) -> None:
    """Add a line; one write, so that a kill leaves at most one torn last line.

    A torn line of a killed predecessor is closed first, so that it cannot swallow this one.
    """
    with open(path, "ab+") as file:
        torn = False
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + text.encode() + b"\n")


def mark_file(path: Path | str) -> str:
    """What tells a file from what it was or will be under the same name."""
    found = os.stat(path)
    return f"{found.st_size}-{found.st_mtime_ns}"
