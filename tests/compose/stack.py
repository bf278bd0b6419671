"""The server of docker-compose.yml as a team would have it, in a project of its own, on images made here of Debian packages."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "MLFLOW_DATABASE_PASSWORD",
    "ORCHESTRATE_PASSWORD",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_TEAM_PASSWORD",
)
IMAGES = {
    "MLFLOW_IMAGE": "orchestrate-test/mlflow",
    "DASHBOARD_IMAGE": "orchestrate-test/dashboard",
    "WORKER_IMAGE": "orchestrate-test/worker",
}
PUBLIC_HOST = "gpu-server.example.org"
API = "/api/2.0/mlflow/experiments/search?max_results=1"
LONGEST_START_S = 180.0


def run(*command: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command, and show what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, **options)  # type: ignore[call-overload]
    assert not check or done.returncode == 0, (
        f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done


def make_images() -> dict[str, str]:
    """The images that docker-compose.yml wants, by its variables; those of an earlier run serve as cache."""
    made = dict(pair.split("=") for pair in run(str(ROOT / "tests/compose/make_bases.sh")).stdout.split())
    base = f"BASE_IMAGE={made['PYTHON_IMAGE']}"
    for image, folder, options in (
        (IMAGES["MLFLOW_IMAGE"], "docker/mlflow", ()),
        (IMAGES["DASHBOARD_IMAGE"], "docker/dashboard", ()),
        (IMAGES["WORKER_IMAGE"], ".", ("--file", "docker/worker/Dockerfile")),
    ):
        run("docker", "build", "--network", "host", "--build-arg", base, "--tag", image, *options, folder)
    return made | IMAGES


class Stack:
    """One project of compose. folder: for .env and whatever tests need. settings: what .env says besides passwords and ports."""

    def __init__(self, folder: Path, images: dict[str, str], settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.project = f"orchestrate-test-{os.getpid()}-{folder.name}"
        self.passwords = {name: secrets.token_hex(16) for name in PASSWORDS}
        self.ports = {name: _free_port() for name in ("MLFLOW_PORT", "DATABASE_PORT", "DASHBOARD_PORT")}
        self.values = images | self.passwords | {name: str(port) for name, port in self.ports.items()}
        self.values |= {"PUBLIC_HOST": PUBLIC_HOST, "DATA_FOLDER": str(folder)} | dict(settings or {})
        self.env_file = folder / "env"
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in self.values.items()))
        self.command = (*find_compose(), "--env-file", str(self.env_file), "--project-name", self.project)
        self.uri = f"http://127.0.0.1:{self.ports['MLFLOW_PORT']}"
        (folder / "slots").mkdir()

    def compose(self, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        return run(*self.command, *arguments, check=check, env=os.environ | variables)

    def up(self, **variables: str) -> None:
        """Start the server and wait until it is healthy."""
        self.compose("up", "--detach", **variables)
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        deadline_s = time.monotonic() + LONGEST_START_S
        while (found := self.inspect("mlflow", "{{.State.Health.Status}}")) != "healthy":
            assert time.monotonic() < deadline_s, f"{found}\n{self.compose('logs', '--tail=30').stdout}"
            time.sleep(1)

    def down(self) -> None:
        """Remove it with everything that it holds."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()  # all: those that were killed, too

    def inspect(self, service: str, template: str) -> str:
        return run("docker", "inspect", "--format", template, self.container(service)).stdout.strip()

    def ask(self, *, password: str | None = None, host: str | None = None, path: str = API) -> int:
        """The status by which MLflow answers one of the team."""
        login = {} if password is None else {"Authorization": f"Basic {b64encode(f'team:{password}'.encode()).decode()}"}
        request = urllib.request.Request(self.uri + path, headers=login | ({"Host": host} if host else {}))
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def login(self, *, database: str = "127.0.0.1", mlflow: str = "127.0.0.1", is_inside: bool = False) -> dict[str, str]:
        """What a machine sets to use the server; is_inside: with the ports that containers see."""
        ports = {"MLFLOW_PORT": 5000, "DATABASE_PORT": 5432} if is_inside else self.ports
        secret = self.passwords["ORCHESTRATE_PASSWORD"]
        return {
            "ORCHESTRATE_STORAGE": f"postgresql://orchestrate:{secret}@{database}:{ports['DATABASE_PORT']}/orchestrate",
            "MLFLOW_TRACKING_URI": f"http://{mlflow}:{ports['MLFLOW_PORT']}",
            "MLFLOW_TRACKING_USERNAME": "team",
            "MLFLOW_TRACKING_PASSWORD": self.passwords["MLFLOW_TEAM_PASSWORD"],
        }

    def environment(self) -> dict[str, str]:
        """Of commands on this machine, with a home of their own."""
        own = {"ORCHESTRATE_HOME": str(self.folder / "mlruns"), "ORCHESTRATE_SLOTS": str(self.folder / "slots")}
        return os.environ | self.login() | own | {"PYTHONPATH": str(ROOT)}

    def orchestrate(self, *arguments: str, home: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """home: another than the one that began the sweeps."""
        own = {} if home is None else {"ORCHESTRATE_HOME": str(home)}
        return run(sys.executable, "-m", "orchestrator.cli", *arguments, env=self.environment() | own, check=check)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on meanwhile; its files are named after it."""
        with open(self.folder / f"{arguments[0]}.out", "w") as out, open(self.folder / f"{arguments[0]}.err", "w") as err:
            command = [sys.executable, "-m", "orchestrator.cli", *arguments]
            return subprocess.Popen(command, env=self.environment(), stdout=out, stderr=err, text=True, cwd=self.folder)

    def query(self, statement: str, database: str = "orchestrate") -> list[str]:
        """Rows of a database of the server."""
        options = ("--username=postgres", "--tuples-only", "--no-align", f"--dbname={database}", f"--command={statement}")
        return self.compose("exec", "-T", "database", "psql", *options).stdout.split()


def find_compose() -> tuple[str, ...]:
    """The command of whichever compose is installed."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose") is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    return ("docker-compose",)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
