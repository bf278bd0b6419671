"""Opens the storage of studies: a journal file of this machine that survives kills, or a database; for search.py."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.storages.journal._file import BaseJournalFileLock

from orchestrator.errors import TrackingError, redact
from orchestrator.state.ledger.reconnect import CONNECTION, Reconnection, wait_for_server


class _KernelLock(BaseJournalFileLock):
    """A lock that the kernel releases when its holder dies; Optuna's own would block all others for 30 s after a kill.

    It is taken for every entry, by one thread at a time. filelock would cost a tenth of the dispatcher's time and poll only every
    50 ms.
    """

    def __init__(self, path: Path) -> None:
        self._path = f"{path}.lock"
        self._descriptor = -1

    def acquire(self) -> bool:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # immediate if an interrupted call left it locked
        return True

    def release(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def open_storage(location: Path | str, reconnection: Reconnection | None = None) -> BaseStorage:
    """Open the storage of studies: a journal file of this machine, or a database by its URL.

    reconnection: how long to wait for a database that becomes unreachable later; None: do not wait.

    Raises:
        TrackingError: the database cannot be opened.
    """
    optuna.logging.disable_default_handler()  # which prints to standard error
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(logging.WARNING)
    if isinstance(location, Path):
        return _open_journal(location)
    for wait_s in (0.2, 0.5, None):  # two processes may create the tables at once and fail; the next try finds them
        try:
            return _open_database(location, reconnection)
        except Exception as error:  # of the database driver or of SQLAlchemy; they have no common base
            if wait_s is None:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                message = f"{location}: the search's storage cannot be opened: {reason}. See ORCHESTRATE_STORAGE."
                raise TrackingError(redact(message)) from error
            time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate Optuna's error about a failing database into one for people.

    Raises:
        TrackingError: the database cannot be used now.
    """
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        found = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise TrackingError(redact(f"the search's storage cannot be used now: {found}. See ORCHESTRATE_STORAGE.")) from error


def _open_database(url: str, reconnection: Reconnection | None) -> RDBStorage:
    if not url.startswith("postgresql"):
        return RDBStorage(url)
    storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": CONNECTION})
    if reconnection is not None:
        wait_for_server(storage.engine, reconnection)
    return storage


def _open_journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _KernelLock(path)
    lock.acquire()
    try:
        # half a line that a machine left when it went down; Optuna would not read what follows it
        if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
