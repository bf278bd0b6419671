"""The folder that holds everything on this machine (``mlruns/``), and which dispatchers are alive there."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

import psutil
from filelock import BaseFileLock

from orchestrator.state.files import try_lock


@dataclass(frozen=True)
class Home:
    """The folder that holds trials, caches and databases. Nothing is created before it is needed.

    storage: a team's database (PostgreSQL) for ledger and search; None: files in ``root``.
    tracking: MLflow's tracking server; None: SQLite in ``root``.
    """

    root: Path
    storage: str | None = None
    tracking: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Home:
        """Read ORCHESTRATE_HOME (default: ./mlruns), ORCHESTRATE_STORAGE and MLFLOW_TRACKING_URI."""
        return cls(
            root=Path(environment.get("ORCHESTRATE_HOME") or "mlruns").expanduser().absolute(),
            storage=environment.get("ORCHESTRATE_STORAGE") or None,
            tracking=environment.get("MLFLOW_TRACKING_URI") or None,
        )

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    @property
    def plans(self) -> Path:
        """Each sweep's latest plan."""
        return self.root / "plans"

    @property
    def data(self) -> Path:
        """Prepared data sets."""
        return self.root / "data"

    @property
    def cache(self) -> Path:
        """Files that can be made again, such as unpacked predictions."""
        return self.root / "cache"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def schedule(self) -> Path:
        """State of `orchestrate schedule`, and the logs of its sweeps."""
        return self.root / "schedule"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def ledger_url(self) -> str:
        return self.storage or f"sqlite:///{self.root / 'ledger.db'}"

    @property
    def optuna_journal(self) -> Path:
        return self.root / "optuna.journal"

    @property
    def optuna_url(self) -> str | None:
        """Optuna's database if a team shares one; None: the journal."""
        return self.storage

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_uri(self) -> str:
        return self.tracking or f"sqlite:///{self.mlflow_db}"

    def trial_folder(self, key: str) -> Path:
        return self.trials / key

    def new_owner(self) -> Owner:
        """Register this process under a new name; it counts as alive until it is closed or its process dies."""
        return Owner(self.locks)

    def is_dead(self, owner: str) -> bool:
        """Whether ``owner`` was a process of this machine and has died. For other machines only leases count: False."""
        return self.is_alive(owner) is False

    def is_alive(self, owner: str) -> bool | None:
        """Whether ``owner`` is alive; None if it is on another machine."""
        host, process, started_ms = owner.rsplit(":", 2)
        if host != socket.gethostname():
            return None
        path = _lock_path(self.locks, owner)
        if not path.exists():  # closed, or in another home that shares our database
            pid, _, space = process.partition("-")
            if space not in ("", _process_space()):  # a machine of the same name, or a container
                return None
            try:
                return psutil.Process(int(pid)).create_time() <= int(started_ms) / 1000 + 1  # a younger one reuses the number
            except psutil.NoSuchProcess:
                return False
        lock = try_lock(path)
        if lock is None:
            return True
        path.unlink(missing_ok=True)
        lock.release()
        return False

    def nudge(self, owner: str) -> None:
        """Make an owner in this home read the ledger at once."""
        with suppress(OSError):  # gone, in another home, or another user's: it reads the ledger soon anyway
            os.utime(_lock_path(self.locks, owner))


class Owner:
    """A dispatcher's name, ``<host>:<pid>-<process space>:<start in ms>``, and the lock that proves it alive.

    The kernel drops the lock however the process ends.
    """

    def __init__(self, locks: Path) -> None:
        locks.mkdir(parents=True, exist_ok=True)
        self._lock, self.name = _take_new_name(locks)

    @property
    def nudged_ns(self) -> int:
        """Changes whenever somebody calls ``Home.nudge`` for us."""
        try:
            return os.stat(self._lock.lock_file).st_mtime_ns
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Release the name."""
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _take_new_name(locks: Path) -> tuple[BaseFileLock, str]:
    """Lock a name that nobody has: two owners in one process may start in the same millisecond."""
    while True:
        name = f"{socket.gethostname()}:{os.getpid()}-{_process_space()}:{time.time_ns() // 1_000_000}"
        if (lock := try_lock(_lock_path(locks, name))) is not None:
            return lock, name
        time.sleep(0.001)


@cache
def _process_space() -> str:
    """Identifies the boot and the PID namespace in which a process's number is unique; empty without /proc.

    A host name does not suffice: clones keep it, and containers may have their machine's.
    """
    try:
        found = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii") + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(found.encode()).hexdigest()[:8]


def _lock_path(locks: Path, owner: str) -> Path:
    return locks / f"{owner}.lock"
