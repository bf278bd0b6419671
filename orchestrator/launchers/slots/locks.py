"""Lock files of this machine's slots: shared by all its dispatchers, whoever runs them, and handed on to workers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from orchestrator.errors import LaunchError
from orchestrator.launchers.worker.slot import Slot

SLOTS_FOLDER = "ORCHESTRATE_SLOTS"
"""Environment variable: the folder of lock files, the same for all who share this machine's GPUs; default: below /tmp."""


class HeldSlot:
    """A slot, owned. The lock goes with its file descriptor: handed to a worker, it is held until the last holder is gone.

    So a slot stays taken while a worker lives whose dispatcher was killed, and is free at once when both are dead.
    """

    def __init__(self, slot: Slot, descriptor: int) -> None:
        self.slot = slot
        self._descriptor: int | None = descriptor

    def __reduce__(self) -> tuple[object, ...]:
        return _receive, (self.slot, reduction.DupFd(self.descriptor))

    @property
    def descriptor(self) -> int:
        """Of the lock file."""
        assert self._descriptor is not None, "a slot given back cannot be handed on"
        return self._descriptor

    @property
    def is_given_back(self) -> bool:
        return self._descriptor is None

    def give_back(self) -> bool:
        """Let go, unless that was done before; the slot is free when no worker holds it either."""
        if self._descriptor is None:
            return False
        os.close(self._descriptor)
        self._descriptor = None
        return True


def _receive(slot: Slot, sent: Any) -> HeldSlot:  # what a descriptor is sent as depends on how the process was started
    return HeldSlot(slot, sent.detach())


def slots_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where lock files lie. TMPDIR, which a scheduler may set for each job, has no say in it."""
    if chosen := environment.get(SLOTS_FOLDER):
        return Path(chosen).expanduser()
    return (Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())) / "orchestrate-slots"


class LockFolder:
    """Lock files by name.

    Raises:
        LaunchError: they cannot be made or opened.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = folder or slots_folder()
        with self.telling():
            make_shared(self.path)

    def file(self, name: str) -> Path:
        """Where the lock of that name lies."""
        return self.path / f"{name.replace('/', '_')}.lock"

    def try_lock(self, name: str) -> int | None:
        """The file descriptor of the lock, which is now ours until its last copy is closed; None where it is somebody else's."""
        # filelock unlocks for everybody when one holder lets go; here the worker must keep what the dispatcher drops
        with self.telling():
            descriptor = _open_shared(self.file(name))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def read_held(self, name: str) -> bytes | None:
        """What stands in a lock file that somebody holds; None where nobody does."""
        descriptor = self.try_lock(name)
        if descriptor is not None:
            os.close(descriptor)
            return None
        return self.file(name).read_bytes()

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Turn what goes wrong with the files into a LaunchError."""
        try:
            yield
        except OSError as error:
            raise LaunchError(
                f"{self.path}: the lock files of this machine's slots cannot be used: {error}. Make the folder writable for "
                f"everybody (chmod 1777), or set {SLOTS_FOLDER} to another, the same for all who share this machine."
            ) from error


def make_shared(folder: Path) -> None:
    """Make a folder in which everybody may create files; one that exists keeps its mode."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another dispatcher was quicker
            folder.mkdir()
            folder.chmod(0o1777)  # past the umask


def _open_shared(path: Path) -> int:
    """Open a lock file, which may be another user's, or create it for everybody; returns its descriptor."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW  # in a folder of everybody, a link may lead anywhere
    while True:
        # O_CREAT comes last: the kernel may refuse it for another user's file in a sticky folder
        for access in (os.O_RDWR, os.O_RDONLY):
            try:
                return os.open(path, access | flags)
            except PermissionError:
                if access == os.O_RDONLY:
                    raise
            except FileNotFoundError:
                break
        with contextlib.suppress(FileExistsError):  # created by another dispatcher meanwhile
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
            os.fchmod(descriptor, 0o666)  # past the umask
            return descriptor
