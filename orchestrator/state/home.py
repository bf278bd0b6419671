"""The folder that holds everything on this machine (``mlruns/``), and which dispatchers are alive there."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from orchestrator.state.files import try_lock


class Home:
    """The folder that holds trials, caches and databases. Nothing is created before it is needed.

    storage: a team's database (PostgreSQL) for ledger and search; None: files in ``root``.
    tracking: MLflow's tracking server; None: SQLite in ``root``.
    """

    def __init__(self, root: Path, storage: str | None = None, tracking: str | None = None) -> None:
        self.root, self.storage, self.tracking = root, storage, tracking
        self.trials = root / "trials"
        self.plans = root / "plans"
        """Each sweep's latest plan."""
        self.data = root / "data"
        """Prepared data sets."""
        self.cache = root / "cache"
        """Files that can be made again, such as unpacked predictions."""
        self.locks = root / "locks"
        self.schedule = root / "schedule"
        """State of `orchestrate schedule`, and the logs of its sweeps."""
        self.artifacts = root / "artifacts"
        self.optuna_journal = root / "optuna.journal"
        self.mlflow_db = root / "mlflow.db"
        self.mlflow_uri = tracking or f"sqlite:///{self.mlflow_db}"
        self.ledger_url = storage or f"sqlite:///{root / 'ledger.db'}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Home:
        """Read ORCHESTRATE_HOME (default: ./mlruns), ORCHESTRATE_STORAGE and MLFLOW_TRACKING_URI."""
        return cls(
            root=Path(environment.get("ORCHESTRATE_HOME") or "mlruns").expanduser().absolute(),
            storage=environment.get("ORCHESTRATE_STORAGE") or None,
            tracking=environment.get("MLFLOW_TRACKING_URI") or None,
        )

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
        while True:
            self.name = f"{socket.gethostname()}:{os.getpid()}-{_process_space()}:{time.time_ns() // 1_000_000}"
            if (lock := try_lock(_lock_path(locks, self.name))) is not None:
                self._lock = lock
                return
            time.sleep(0.001)  # two owners in one process may start in the same millisecond

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

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def _process_space() -> str:
    """Identifies the boot and the PID namespace in which a process's number is unique; empty without /proc."""
    try:  # a host name does not suffice: clones keep it, and containers may have their machine's
        found = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii") + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(found.encode()).hexdigest()[:8]


def _lock_path(locks: Path, owner: str) -> Path:
    return locks / f"{owner}.lock"
