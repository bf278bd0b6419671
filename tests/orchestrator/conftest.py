"""A real trial small enough for tests: 16 generated tiles, the smallest encoder, one epoch; a launcher for all tests, a chat."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.worker.contract import Slot
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Attempt, TrialSpec, make_key
from tests.orchestrator.clock import Clock
from tests.orchestrator.postgresql import PostgreSQL, find_programs
from trainers.config import DataConfig, SyntheticConfig, TrainConfig
from trainers.data import open_dataset, prepare_dataset

SECRET = "hunter2"
"""In the address of the chat."""

TINY_DATA = DataConfig(synthetic=SyntheticConfig(num_images=16, height=32, width=64), val_fraction=0.25, ignore_classes=(0,))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared data set of every tiny trial."""
    return prepare_dataset(TINY_DATA, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def make_spec(tiny_data: Path) -> Callable[..., TrialSpec]:
    """Builds tiny trials; keyword arguments go into TrainConfig."""
    fingerprint = open_dataset(tiny_data).fingerprint

    def make(*, seed: int = 0, **fields: Any) -> TrialSpec:
        smallest = {"arch": "FPN", "encoder": "resnet18", "epochs": 1, "batch_size": 6, "precision": "float32"}
        train = TrainConfig.model_validate(smallest | fields)
        identity: dict[str, Any] = {"source_fingerprint": fingerprint, "code": {}, "fold": None}
        return TrialSpec(
            key=make_key(train, TINY_DATA, seed=seed, **identity),
            configuration=make_key(train, TINY_DATA, seed=None, **identity),
            name=f"tiny, {train.epochs} epochs, seed {seed}",
            train=train,
            data=TINY_DATA,
            seed=seed,
            source_fingerprint=fingerprint,
        )

    return make


@pytest.fixture(scope="session")
def make_trial(make_spec: Callable[..., TrialSpec], tiny_data: Path) -> Callable[..., TrialFolder]:
    """Lays a trial into a folder, ready to be worked on."""

    def make(path: Path, *, attempt: int = 1, **fields: Any) -> TrialFolder:
        folder = TrialFolder(path)
        folder.create(make_spec(**fields))
        folder.write_attempt(Attempt(number=attempt, data_folder=str(tiny_data)))
        return folder

    return make


@pytest.fixture(scope="session")
def cpu_slots() -> tuple[Slot, ...]:
    """Two slots on the CPU, wherever the tests run."""
    return (Slot("cpu-0", "", 1), Slot("cpu-1", "", 1))


@pytest.fixture
def user_code(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's own code, where it can be imported from here and from workers."""
    folder = Path(__file__).parent / "user_code"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))  # of programs that a test starts
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MiB; skipped where nothing may be mounted."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    with mounted(folder, "2m"):
        yield folder


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """Let ``folder`` be a tmpfs of ``size``, as ``mount`` writes it."""
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def local_launcher(cpu_slots: tuple[Slot, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLauncher]:
    """Shared, since its forkserver takes seconds to start; its slots are locked apart from those of real sweeps."""
    launcher = LocalLauncher(cpu_slots, locks=tmp_path_factory.mktemp("slots"))
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL for all tests, each with a database of its own; skipped where none is installed."""
    programs = find_programs()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # another user's: pytest's own folders are closed to it
    server = PostgreSQL(folder, programs)
    yield server
    server.stop(signal.SIGINT)
    shutil.rmtree(folder)


class Chat:
    """Takes JSON by POST, and answers as it is told to."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                chat.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(chat.status)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"json://somebody:{SECRET}@127.0.0.1:{self.server.server_port}/{SECRET}"


@pytest.fixture
def chat() -> Iterator[Chat]:
    """A chat that listens on loopback."""
    chat = Chat()
    thread = threading.Thread(target=chat.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield chat
    chat.server.shutdown()
    chat.server.server_close()
    thread.join()


@pytest.fixture
def clock() -> Clock:
    """A clock that a test moves."""
    return Clock(1000.0)
