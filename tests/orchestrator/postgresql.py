"""A PostgreSQL of whoever's packages, in a temporary folder, on a free port, with a password; may be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

PASSWORD = "hunter2-hunter2"
LONGEST_START_S = 60.0


class PostgreSQL:
    """A server of its own. Its programs refuse to be root's, so root runs them as nobody."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._folder, self._programs = folder, programs
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._num_databases = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        if self._user:
            shutil.chown(folder, self._user)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        make = ["initdb", "--username=me", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8"]
        self._run(*make, f"--pgdata={folder / 'data'}")
        self.start()

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://me:{password}@127.0.0.1:{self.port}/{database}"

    def create(self) -> str:
        """The address of a fresh database."""
        self._num_databases += 1
        name = f"fresh_{self._num_databases}"
        self._run("psql", "--quiet", f"--command=CREATE DATABASE {name}", self.url("postgres"))
        return self.url(name)

    def start(self) -> None:
        """Start it and wait until it serves."""
        command = [
            str(self._programs / "postgres"),
            "-D",
            str(self._folder / "data"),
            "-p",
            str(self.port),
            "-k",
            str(self._folder),
        ]
        command += ["-c", "fsync=off", "-c", "max_connections=400"]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        deadline_s = time.monotonic() + LONGEST_START_S
        ready = [str(self._programs / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}"]
        while subprocess.run(ready, check=False).returncode:
            has_failed = self._process.poll() is not None or time.monotonic() > deadline_s
            assert not has_failed, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """As by `kill -9`, unless told otherwise; its children notice that by themselves."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            user=self._user,
            cwd=self._folder,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def find_programs() -> Path:
    """The folder of PostgreSQL's programs; skips the test where there is none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    named = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = [Path(named).resolve().parent] if named else [folder for folder in folders if (folder / "initdb").exists()]
    if not found:
        pytest.skip("no PostgreSQL is installed (Debian: apt-get install postgresql)")
    return found[-1]
