"""A SLURM cluster of a test's own on this machine: one node of two CPUs, on loopback, in a folder of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

LONGEST_WAIT_S = 60.0

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 Sockets=1 CoresPerSocket=2 ThreadsPerCore=1
PartitionName=all Nodes=node Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """Its daemons are children of this process, and are ended by ``close``."""

    def __init__(self, munged: str, slurmctld: str, slurmd: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket lies in it
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._configuration = self._folder / "slurm.conf"
        for name in ("state", "spool"):
            (self._folder / name).mkdir()
        key = self._folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
        known = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": self._folder}
        self._configuration.write_text(CONFIGURATION.format(**known, **ports))
        files = [
            f"--{name}={self._folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")
        ]
        self._start([munged, "--foreground", "--force", f"--key-file={key}", *files])
        self._start([slurmctld, "-D", "-f", str(self._configuration)])
        self._start([slurmd, "-D", "-N", "node", "-f", str(self._configuration)])
        try:
            self._wait_until_idle()
        except BaseException:
            self.close()
            raise

    def submit(self, folder: Path, command: Sequence[str], *options: str) -> str:
        """Have the command run in ``folder`` on one CPU; the job's number. What it prints goes to ``<number>.out`` there."""
        script = "exec " + " ".join(command)
        done = self._run("sbatch", "--parsable", "-c1", "--output=%j.out", *options, "--wrap", script, folder=folder)
        return done.strip()

    def cancel(self, job: str) -> None:
        """As a user does."""
        self._run("scancel", job)

    def wait(self, job: str, timeout_s: float) -> str:
        """The state in which it has ended."""
        deadline_s = time.monotonic() + timeout_s
        while self._run("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", f"--jobs={job}").strip():
            assert time.monotonic() < deadline_s, f"job {job} still runs"
            time.sleep(0.2)
        fields = dict(field.partition("=")[::2] for field in self._run("scontrol", "show", "job", job).split())
        return fields["JobState"]

    def close(self) -> None:
        """Kill jobs and daemons, where a test has failed too: what SLURM is asked to kill is first asked to end."""
        listed = subprocess.run(["scontrol", "listpids"], env=self._environment, capture_output=True, text=True, check=False)
        for line in listed.stdout.splitlines()[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(timeout=30)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self._configuration)}

    def _start(self, command: Sequence[str]) -> None:
        with self._log(len(self._daemons)).open("wb") as log:
            self._daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env=self._environment, start_new_session=True))

    def _log(self, daemon: int) -> Path:
        return self._folder / f"daemon-{daemon}.log"

    def _wait_until_idle(self) -> None:
        deadline_s = time.monotonic() + LONGEST_WAIT_S
        ask = ["sinfo", "--noheader", "--format=%T"]
        while subprocess.run(ask, env=self._environment, capture_output=True, text=True, check=False).stdout.strip() != "idle":
            has_failed = any(daemon.poll() is not None for daemon in self._daemons) or time.monotonic() > deadline_s
            assert not has_failed, "\n".join(self._log(i).read_text(errors="replace")[-1000:] for i in range(len(self._daemons)))
            time.sleep(0.1)

    def _run(self, *command: str, folder: Path | None = None) -> str:
        done = subprocess.run(command, env=self._environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def find_daemons() -> list[str]:
    """The programs of munged, slurmctld and slurmd; skips the test where one is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = {name: shutil.which(name, path=path) for name in ("munged", "slurmctld", "slurmd", "sbatch")}
    if lacking := [name for name, program in found.items() if program is None]:
        pytest.skip(f"no {', '.join(lacking)} is installed (Debian: apt-get install munge slurm-wlm)")
    return [program for name, program in found.items() if program is not None and name != "sbatch"]


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
