"""Reading a server by REST: the same rows as MLflow's own client, without importing mlflow."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from orchestrator.errors import TrackingError
from orchestrator.tracking.errors import translate_errors
from orchestrator.tracking.location import RefusedError, TrackingLocation
from orchestrator.tracking.reader import rest
from orchestrator.tracking.reader.mlflow_client import ClientSource
from orchestrator.tracking.reader.rest import RestSource
from orchestrator.tracking.reader.source import open_source
from tests.orchestrator.tracking.conftest import Server

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

LEADERBOARD = """
import sys
from orchestrator.cli import app
sys.argv[1:] = ["leaderboard"]
app(standalone_mode=False)
assert "mlflow" not in sys.modules
"""


def at(uri: str, folder: Path) -> TrackingLocation:
    """A server, and this test's home."""
    return TrackingLocation(uri, folder / "artifacts", folder / "trials", folder / "locks", folder / "index")


def test_a_server_gives_both_the_same(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of every kind, page by page, deleted ones, ids that are not there, experiments by name."""
    server.start()
    location = at(server.uri, tmp_path)
    client = MlflowClient(location.uri)
    experiment = client.create_experiment("a sweep, größer", tags={"orchestrate": "sweep"})
    other = client.create_experiment("other")
    runs = [
        client.create_run(e, tags={"key": str(n), "kind": "trial"}).info.run_id for n, e in enumerate([experiment] * 5 + [other])
    ]
    metrics = [Metric("val/miou", 0.0, 1, 1), Metric("nan", math.nan, 1, 1), Metric("inf", math.inf, 1, 1)]
    client.log_batch(runs[0], metrics, [Param("a", "ä"), Param("empty", "")], [RunTag("sweep", "s")])
    client.delete_run(runs[4])
    client.log_text(runs[1], "text", "file ä.txt")
    client.log_text(runs[1], "text", "folder/file.txt")
    ours, theirs = open_source(location), ClientSource(location)
    assert isinstance(ours, RestSource)
    monkeypatch.setattr(rest, "_PAGE", 2)
    for query in ("", "tags.key = '0'", "tags.kind LIKE 'tr%' and tags.key = '3'"):
        for is_deleted in (False, True):
            found = [source.search([experiment, other], query, is_deleted=is_deleted) for source in (ours, theirs)]
            assert repr(found[0]) == repr(found[1])  # NaN equals nothing, itself included
    assert len(ours.search([experiment, other])) == 5
    assert repr(ours.find_run(runs[0])) == repr(theirs.find_run(runs[0]))
    assert ours.find_run("0" * 32) is theirs.find_run("0" * 32) is None
    assert ours.find_latest([other], "tags.kind = 'trial'") == theirs.find_latest([other], "tags.kind = 'trial'")
    assert ours.find_latest([other], "tags.kind = 'no'") is theirs.find_latest([other], "tags.kind = 'no'") is None
    assert ours.list_files(runs[1]) == theirs.list_files(runs[1]) == ["file ä.txt"]
    assert ours.list_files(runs[1], "folder") == theirs.list_files(runs[1], "folder") == ["folder/file.txt"]
    assert ours.list_files(runs[1], "no") == theirs.list_files(runs[1], "no") == []
    assert ours.list_files(runs[2]) == theirs.list_files(runs[2]) == []
    assert ours.list_experiments() == theirs.list_experiments()
    assert ours.find_experiment("a sweep, größer") == experiment == theirs.find_experiment("a sweep, größer")
    assert ours.find_experiment("no") is theirs.find_experiment("no") is None
    with pytest.raises(RefusedError, match="INVALID_PARAMETER_VALUE"), translate_errors(location):
        ours.search([experiment], "no query")
    there = os.environ | {"MLFLOW_TRACKING_URI": location.uri, "ORCHESTRATE_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", LEADERBOARD], env=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Gate(BaseHTTPRequestHandler):
    """A server that only records logins."""

    heard: ClassVar[list[str | None]] = []
    status = 401

    def do_POST(self) -> None:
        self.heard.append(self.headers.get("Authorization"))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"Who are you?")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[TrackingLocation]:
    """A server that rejects everybody."""
    Gate.heard, Gate.status = [], 401
    with ThreadingHTTPServer(("127.0.0.1", 0), Gate) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield at(f"http://127.0.0.1:{listening.server_port}", tmp_path)
        listening.shutdown()


def test_the_login_is_sent_as_mlflow_sends_it(gate: TrackingLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Password, token, neither; and ~/.netrc, which both leave to requests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for login in ({}, {"TOKEN": "t"}, {"USERNAME": "team", "PASSWORD": "größer", "TOKEN": "t"}):
        for name, value in login.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        for source in (RestSource(gate), ClientSource(gate)):
            with (
                pytest.raises(TrackingError, match=r"Who are you\?.*MLFLOW_TRACKING_USERNAME and _PASSWORD") as raised,
                translate_errors(gate),
            ):
                source.search(["1"])
            assert not isinstance(raised.value, RefusedError)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login another password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    for source in (RestSource(gate), ClientSource(gate)):
        with pytest.raises(TrackingError), translate_errors(gate):
            source.search(["1"])
    assert Gate.heard[::2] == Gate.heard[1::2]
    assert [heard and heard.split()[0] for heard in Gate.heard[::2]] == [None, "Bearer", "Basic", "Basic"]


def test_what_only_mlflows_client_can_do_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates, other logins, passwords in a file; and databases."""
    monkeypatch.setenv("HOME", str(tmp_path))
    location = at("http://127.0.0.1:9", tmp_path)
    assert isinstance(open_source(location), RestSource)
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert isinstance(open_source(location), ClientSource)
    monkeypatch.delenv("MLFLOW_TRACKING_INSECURE_TLS")
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("[mlflow]\nmlflow_tracking_username = a\nmlflow_tracking_password = b\n")
    assert isinstance(open_source(location), ClientSource)


def test_no_server_is_one_message(tmp_path: Path) -> None:
    """One message that says what to check."""
    location = at("http://127.0.0.1:9", tmp_path)
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1.*Is the server up"), translate_errors(location):
        open_source(location).list_experiments()
