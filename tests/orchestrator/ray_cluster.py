"""A Ray cluster of a test's own on this machine: nodes that are started and ended one by one, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

HOST = "127.0.0.1"


class RayCluster:
    """Nodes of one CPU each unless more are asked for; no GPU, no dashboard, nobody is phoned."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie in it
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.address = f"{HOST}:{_free_port()}"

    def start_node(self, *, num_cpus: int = 1) -> subprocess.Popen[bytes]:
        """The first is the head."""
        is_head = not self._nodes
        where = (
            ["--head", "--port", self.address.partition(":")[2], f"--temp-dir={self._folder}", "--include-dashboard=false"]
            if is_head
            else [f"--address={self.address}"]
        )
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *where]
        command += [f"--node-ip-address={HOST}", f"--num-cpus={num_cpus}", "--num-gpus=0", "--object-store-memory=80000000"]
        environment = {**os.environ, "PYTHONPATH": "", "PYTHONUNBUFFERED": "1"}  # where our code lies, the driver says
        with (self._folder / f"node-{len(self._nodes)}.log").open("wb") as log:
            node = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        self._nodes.append(node)
        deadline_s = time.monotonic() + 60
        while b"--block" not in (self._folder / f"node-{len(self._nodes) - 1}.log").read_bytes():
            assert node.poll() is None, self._log(node)
            assert time.monotonic() < deadline_s, self._log(node)
            time.sleep(0.05)
        return node

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """As when its machine loses power: everything on it is gone at once."""
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        node.wait()

    def close(self) -> None:
        for node in reversed(self._nodes):
            if node.poll() is None:
                self.kill_node(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _log(self, node: subprocess.Popen[bytes]) -> str:
        return (self._folder / f"node-{self._nodes.index(node)}.log").read_text(errors="replace")


def start_cluster(*nodes: int) -> RayCluster:
    """With so many CPUs on each node; the test is skipped where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'orchestrate[ray]'")
    cluster = RayCluster()
    try:
        for num_cpus in nodes:
            cluster.start_node(num_cpus=num_cpus)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])
