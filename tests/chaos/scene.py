"""A sweep seen from outside: its command, and its processes, known by a mark in their environment whoever started them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from tests.orchestrator.tracking.conftest import Server

MARK = "ORCHESTRATE_CHAOS"
"""Environment variable that every process of a scene inherits."""

SWEEP = """
name: chaos
data: {source: synthetic, synthetic: {num_images: 24, height: 32, width: 64}, val_fraction: 0.25, ignore_classes: [0]}
base: {arch: FPN, encoder: timm-mobilenetv3_small_100, epochs: 12, batch_size: 6, precision: float32}
search:
  method: grid
  space:
    loss: [{name: focal}, {name: dice}, {name: cross_entropy}]
seeds: [0, 1]
resources: {slots: 2, threads_per_slot: 1}
retry: {signal: 50, exit: 50}
limits: {free_disk_gb: 0, checkpoint_s: 0}
"""

LONGEST_COMMAND_S = 400.0
"""After which a command that has not ended counts as hung."""

DEATH_S = 15.0
"""How long after its dispatcher a process of the sweep may live on: the kernel kills it at once, on a busy machine in a while."""


class Role(StrEnum):
    """What a process is to the sweep."""

    DISPATCHER = "dispatcher"
    FORKSERVER = "forkserver"
    WORKER = "worker"
    SERVER = "server"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Scene:
    """A home with a sweep file and perhaps a tracking server; used by one thread.

    database: a fresh MLflow's, for the server to start from; None: no server, MLflow is embedded and makes its own.
    """

    folder: Path
    database: Path | None = None
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    server: Server | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "chaos.yaml").write_text(SWEEP, encoding="utf-8")
        if self.database is not None:
            (self.folder / "server").mkdir()
            self.server = Server(self.folder / "server", {MARK: self.mark})
            self.server.database.write_bytes(self.database.read_bytes())
        self.home = Home(self.folder / "mlruns", tracking=self.server.uri if self.server else None)

    @property
    def mlflow_database(self) -> Path:
        return self.server.database if self.server else self.home.mlflow_db

    def start(self) -> Command:
        """Start the sweep, as a person would, and go on."""
        return Command(self.folder, self._environment())

    def run(self) -> Ended:
        """Run the sweep to its end, with nobody in its way."""
        if self.server is not None and not self.server.is_started:
            self.server.kill()
            self.server.start()
        elif self.server is not None:
            self.server.wait_until_up()
        return self.start().wait()

    def processes(self) -> dict[Role, list[psutil.Process]]:
        """The living processes of the scene; those that help multiprocessing or were only just forked are left out."""
        found: dict[Role, list[psutil.Process]] = {}
        for process in self.marked():
            if (role := _find_role(process)) is not None:
                found.setdefault(role, []).append(process)
        return found

    def marked(self) -> list[psutil.Process]:
        """Every living process that carries the scene's mark."""
        return [process for process in psutil.process_iter() if _mark_of(process) == self.mark]

    def wait_for_silence(self) -> list[psutil.Process]:
        """Wait until no process but the server's is left; returns those that will not go."""
        deadline_s = time.monotonic() + DEATH_S
        while left := [process for process in self.marked() if _find_role(process) is not Role.SERVER]:
            if time.monotonic() > deadline_s:
                return left
            time.sleep(0.05)
        return []

    def results(self) -> dict[str, bytes]:
        """Key -> result.json, of the trials that are complete."""
        found = {path.parent.name: path.read_bytes() for path in self.home.trials.glob("*/result.json")}
        return {key: content for key, content in found.items() if json.loads(content)["state"] == "COMPLETE"}

    def num_epochs(self) -> int:
        """Epochs told so far, those that were trained again too."""
        return sum(path.read_bytes().count(b'"kind":"epoch"') for path in self.home.trials.glob("*/progress.jsonl"))

    def num_resumed(self) -> int:
        """Attempts that went on from a checkpoint, by the epoch that they told first."""
        num_resumed = 0
        for path in self.home.trials.iterdir():
            events = [event for event in TrialFolder(path).events()[0] if event.epoch is not None]
            first = {event.attempt: event.epoch for event in reversed(events)}
            num_resumed += sum(epoch != 1 for epoch in first.values())
        return num_resumed

    def clear(self) -> None:
        """Leave nothing running."""
        for process in self.marked():
            process.kill()
        if self.server is not None:
            self.server.kill()

    def _environment(self) -> dict[str, str]:
        foreign = ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_NOTIFY")
        own = {MARK: self.mark, "ORCHESTRATE_HOME": str(self.home.root), "ORCHESTRATE_SLOTS": str(self.folder / "slots")}
        own |= {"MLFLOW_TRACKING_URI": self.server.uri} if self.server else {}
        return {name: value for name, value in os.environ.items() if name not in foreign} | own


class Command:
    """``orchestrate sweep`` under way, in a process group of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._files = folder / "stdout.json", folder / "stderr.txt"
        line = [sys.executable, "-m", "orchestrator.cli", "sweep", "chaos.yaml", "--json"]
        with open(self._files[0], "wb") as stdout, open(self._files[1], "wb") as stderr:
            self._process = subprocess.Popen(
                line, cwd=folder, env=environment, stdout=stdout, stderr=stderr, start_new_session=True
            )
        self._deadline_s = time.monotonic() + LONGEST_COMMAND_S

    @property
    def is_running(self) -> bool:
        assert time.monotonic() < self._deadline_s, f"the command hangs:\n{self._files[1].read_text()}"
        return self._process.poll() is None

    def wait(self) -> Ended:
        while self.is_running:
            time.sleep(0.05)
        return Ended(self._process.returncode, *(file.read_text(encoding="utf-8") for file in self._files))


def _mark_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except psutil.Error:  # gone meanwhile, a zombie, or another user's
        return None


def _find_role(process: psutil.Process) -> Role | None:
    try:
        line, parent = " ".join(process.cmdline()), process.parent()
        if "orchestrator.cli sweep" in line:
            return Role.DISPATCHER
        if "multiprocessing.forkserver" in line:
            is_forked = parent is not None and "multiprocessing.forkserver" in " ".join(parent.cmdline())
            return Role.WORKER if is_forked else Role.FORKSERVER
        return Role.SERVER if "mlflow" in line else None
    except psutil.Error:
        return None
