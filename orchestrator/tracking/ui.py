"""MLflow's page as a leaderboard: its address, sorted by val/miou, and a server that shows a local database."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from orchestrator.errors import TrackingError
from orchestrator.state.trial.records import OBJECTIVE
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.reader.runs import RunReader

_START_TIMEOUT_S = 120


@dataclass
class LeaderboardPage:
    """A sweep's page and, if the records are in a database, the server that shows it until ``close``."""

    url: str
    process: subprocess.Popen[bytes] | None = None

    def wait(self) -> None:
        """Wait until our own server ends, if there is one."""
        if self.process is not None:
            self.process.wait()

    def close(self) -> None:
        """End our own server, if there is one."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def open_page(location: TrackingLocation, sweep: str | None = None, *, port: int = 0, browse: bool = True) -> LeaderboardPage:
    """Show a sweep (default: the latest) in MLflow, sorted by val/miou, best first.

    port: of our own server on 127.0.0.1; 0: any free one. browse: open a browser if there is a screen.

    Raises:
        TrackingError: the records cannot be read, there is no such sweep, or no server can be started.
    """
    reader = RunReader(location)
    wanted = sweep or reader.latest_sweep()
    experiment = reader.experiment_id(wanted) if wanted else None
    process = None
    base = location.uri
    if location.is_database:
        process, base = _start_server(location, port or _free_port())
    page = LeaderboardPage(make_url(base, experiment), process)
    # without a screen a browser would take over the terminal
    if browse and (sys.platform in {"darwin", "win32"} or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(page.url)
    return page


def make_url(base: str, experiment: str | None) -> str:
    """The address of an experiment's table, best val/miou first; without an experiment that of the front page.

    The page takes its order from these fields only if all are given (mlflow 3.17, useExperimentPageSearchFacets).
    """
    if experiment is None:
        return base.rstrip("/")
    query = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{OBJECTIVE}`",
        "orderByAsc": "false",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": "W10=",  # base64 of an empty list
        "compareRunsMode": "TABLE",
        "workflowType": "machine_learning",
    }
    return f"{base.rstrip('/')}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"


def _start_server(location: TrackingLocation, port: int) -> tuple[subprocess.Popen[bytes], str]:
    """The database's address is passed in the environment because it may hold a password."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": location.uri,
        "MLFLOW_ARTIFACTS_DESTINATION": str(location.artifacts),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for LLM evaluations: costs processes and seconds
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(base + "/health", timeout=5):
                return process, base
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    raise TrackingError(
        f"mlflow server on {base}: did not start ({'ended' if process.returncode else 'no answer'}). Is port {port} in use? "
        f"Try another, or run `mlflow server --backend-store-uri {location}` to see what it says."
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
