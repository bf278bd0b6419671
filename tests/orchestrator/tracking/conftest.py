"""A real MLflow on SQLite, made once and copied; trial folders as a worker leaves them; a real server."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.records import Attempt, Event, TrialResult, TrialSpec, TrialState
from orchestrator.tracking.client import connect
from orchestrator.tracking.location import TrackingLocation
from tests.orchestrator.postgresql import PASSWORD
from trainers.config import DataConfig, TrainConfig


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating MLflow's tables takes seconds, so it is done once."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(TrackingLocation(f"sqlite:///{folder}/mlflow.db", folder / "artifacts", folder / "trials", folder / "locks"))
    return folder / "mlflow.db"


@pytest.fixture
def location(empty_database: Path, tmp_path: Path) -> TrackingLocation:
    """This test's own home, in a folder with a space in its name."""
    home = tmp_path / "a home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    return TrackingLocation(f"sqlite:///{home}/mlflow.db", home / "artifacts", home / "trials", home / "locks")


class Worker:
    """Writes trial folders as a training process does."""

    def __init__(self, trials: Path) -> None:
        self.trials = trials

    def start(self, key: str = "k1", *, seed: int = 0, attempt: int = 1, time_s: float = 1000.0) -> TrialFolder:
        spec = TrialSpec(
            key=key, configuration="c1", name=f"trial {key}", train=TrainConfig(epochs=3), data=DataConfig(),
            seed=seed, source_fingerprint="f" * 16,
        )  # fmt: skip
        folder = TrialFolder(self.trials / key)
        folder.create(spec)
        folder.write_attempt(Attempt(number=attempt, data_folder="/nowhere"))
        folder.append(Event(kind="attempt_started", time_s=time_s, attempt=attempt, facts={"device": "cpu", "num_threads": 1}))
        return folder

    def epoch(self, folder: TrialFolder, epoch: int, miou: float, *, attempt: int = 1, start_s: float = 1000.0) -> None:
        metrics = {"val/miou": miou, "val/iou/rock": miou / 2, "train/loss": 1.0 / epoch}
        folder.append(Event(kind="epoch", time_s=start_s + epoch, attempt=attempt, epoch=epoch, metrics=metrics))

    def finish(
        self, folder: TrialFolder, *, state: TrialState = TrialState.COMPLETE, best: float = 0.5, epoch: int = 2
    ) -> TrialResult:
        (folder.path / "best.safetensors").write_bytes(b"weights")
        (folder.path / TrialFile.LOG).write_text("all went well\n")
        np.savez(folder.path / TrialFile.CONFUSIONS, confusions=np.ones((2, 3, 3), np.int32), ignore_classes=np.array([0]))
        result = TrialResult(
            key=folder.spec().key, state=state, metrics={"val/miou": best, "val/iou/rock": best / 2}, best_epoch=epoch,
            epochs_run=3, scored_fingerprint="s" * 16, attempt=1, started_s=1000.0, ended_s=1010.0, facts={"num_parameters": 7},
            reason=None if state is TrialState.COMPLETE else "RuntimeError: no",
        )  # fmt: skip
        folder.write_result(result)
        return result

    def train(self, key: str = "k1", *, best: float = 0.5, seed: int = 0) -> tuple[TrialFolder, TrialResult]:
        folder = self.start(key, seed=seed)
        for epoch, miou in enumerate((0.2, best, best - 0.1), start=1):
            self.epoch(folder, epoch, miou)
        return folder, self.finish(folder, best=best)


@pytest.fixture
def worker(location: TrackingLocation) -> Worker:
    """Works in this test's home."""
    return Worker(location.trials)


class Server:
    """A real ``mlflow server`` on one port, that can be killed and started again.

    variables: of its environment, beside ours. options: of its command.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None, *, options: Sequence[str] = ()) -> None:
        self.folder = folder
        self._options = options
        self._variables = dict(variables or {})
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def is_started(self) -> bool:
        """Whether its process is alive, ready or not."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, is_awaited: bool = True) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.database}",
            "--artifacts-destination", str(self.folder / "artifacts"), *self._options,
        ]  # fmt: skip
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = os.environ | quiet | self._variables
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115  the process keeps it
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        log.close()
        if is_awaited:
            self.wait_until_up()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send ``number`` to all its processes, and SIGKILL to what has not ended by it soon."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, number)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(self.uri + "/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])


def make_guarded(folder: Path, empty_database: Path, *, settings: str = "") -> Server:
    """A server, not started yet, that requires a login: admin with PASSWORD. settings: further lines of its auth.ini."""
    shutil.copy(empty_database, folder / "mlflow.db")
    config = folder / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = admin\n{settings}"
    )
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
    }
    return Server(folder, variables, options=("--app-name", "basic-auth", "--allowed-hosts", "127.0.0.1:*"))


@pytest.fixture
def server(empty_database: Path, tmp_path: Path) -> Iterator[Server]:
    """Not started yet."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    server = Server(folder)
    yield server
    server.kill()


Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def wait() -> Wait:
    """Wait until a condition holds, at most a minute."""

    def until(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    return until
