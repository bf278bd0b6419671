"""Lock files of this machine's slots: shared by all its dispatchers and users, and passed on to workers."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from orchestrator.errors import LaunchError
from orchestrator.launchers.worker.contract import Slot

SLOTS_FOLDER = "ORCHESTRATE_SLOTS"
"""Environment variable: the folder of lock files, the same for all who share this machine's GPUs; default: below /tmp."""


class HeldSlot:
    """A slot that is held. The lock belongs to its file descriptor: passed on to a worker, it holds until both have closed it.

    So a slot stays taken while a worker outlives its dispatcher, and is free at once when both are dead.
    """

    def __init__(self, slot: Slot, descriptor: int) -> None:
        self.slot = slot
        self._descriptor: int | None = descriptor

    def __reduce__(self) -> tuple[object, ...]:
        return _receive, (self.slot, reduction.DupFd(self.descriptor))

    @property
    def descriptor(self) -> int:
        """Of the lock file."""
        assert self._descriptor is not None, "a released slot cannot be passed on"
        return self._descriptor

    @property
    def is_released(self) -> bool:
        return self._descriptor is None

    def release(self) -> None:
        """Close the lock file, unless that was done before; the slot is free once its worker has closed it too."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _receive(slot: Slot, sent: Any) -> HeldSlot:  # the type of a sent descriptor depends on how the process was started
    return HeldSlot(slot, sent.detach())


def slots_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of lock files. It does not depend on TMPDIR, which a scheduler may set for each job."""
    if chosen := environment.get(SLOTS_FOLDER):
        return Path(chosen).expanduser()
    return (Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())) / "orchestrate-slots"


class LockFolder:
    """Lock files by name.

    Raises:
        LaunchError: they cannot be created or opened.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path = folder or slots_folder()
        with self.translated_errors():
            make_shared(self.path)

    def file(self, name: str) -> Path:
        """The lock file of that name."""
        return self.path / f"{name.replace('/', '_')}.lock"

    def try_lock(self, name: str) -> int | None:
        """The file descriptor of the lock, which is held until its last copy is closed; None if somebody else holds it."""
        # not filelock, which unlocks for everybody when one holder releases: a worker must keep what its dispatcher closes
        with self.translated_errors():
            descriptor = _open_shared(self.file(name))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def read_held(self, name: str) -> bytes | None:
        """The content of a lock file that somebody holds; None if nobody does."""
        descriptor = self.try_lock(name)
        if descriptor is not None:
            os.close(descriptor)
            return None
        try:
            return self.file(name).read_bytes()
        except FileNotFoundError:  # removed by somebody who tidies up
            return b""

    @contextlib.contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise a LaunchError where the files cannot be used."""
        try:
            yield
        except OSError as error:
            raise LaunchError(
                f"{self.path}: the lock files of this machine's slots cannot be used: {error}. Make the folder writable for "
                f"everybody (chmod 1777), or set {SLOTS_FOLDER} to another, the same for all who share this machine."
            ) from error


def make_shared(folder: Path) -> None:
    """Make a folder in which everybody may create files; an existing one keeps its mode."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another dispatcher was quicker
            folder.mkdir()
            folder.chmod(0o1777)  # whatever the umask


def _open_shared(path: Path) -> int:
    """Open a lock file, which may belong to another user, or create it for everybody; returns its descriptor."""
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
            os.fchmod(descriptor, 0o666)  # whatever the umask
            return descriptor
