"""Whether a lock file is held, asked without waiting; who holds locks of trials and of folders keeps them while it lives."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at ``path``; the file is created where it is missing."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False
