"""`orchestrate doctor` with real servers: with and without login, down, under another name, with another clock."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.operations.doctor.findings import Finding, Level
from orchestrator.operations.doctor.servers import check_storage, check_tracking
from orchestrator.state.home import Home
from tests.orchestrator.postgresql import PASSWORD, PostgreSQL
from tests.orchestrator.tracking.conftest import Server, empty_database, make_guarded  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # mlflow 3.17, SQLAlchemy 2.1

LOGIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    """An MLflow that wants a login."""
    folder = tmp_path_factory.mktemp("server")
    server = make_guarded(folder, empty_database)
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def anonymous(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login of whoever runs the tests."""
    for name in LOGIN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def look_at(uri: str, tmp_path: Path) -> dict[str, Finding]:
    """The findings about a tracking server, by subject."""
    return {finding.subject: finding for finding in check_tracking(Home(tmp_path, tracking=uri))}


def levels(findings: dict[str, Finding]) -> dict[str, str]:
    """Subject -> level."""
    return {subject: str(finding.level) for subject, finding in findings.items()}


@pytest.mark.slow
def test_the_login_is_checked(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None, a wrong one, the right one, and one under a name that the server rejects; no password is shown."""
    without = look_at(server.uri, tmp_path)
    assert levels(without) == {"login": "error"}
    assert "MLFLOW_TRACKING_PASSWORD" in without["login"].advice

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "mistaken-secret")
    mistaken = look_at(server.uri, tmp_path)
    assert levels(mistaken) == {"login": "error"}
    assert "'admin'" in mistaken["login"].found
    assert "mistaken-secret" not in repr(mistaken)

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    right = look_at(server.uri, tmp_path)
    assert levels(right) == dict.fromkeys(("tracking", "login", "files", "clock, the tracking server's"), "ok")
    assert list((server.folder / "artifacts" / "doctor").iterdir())

    strange = look_at(server.uri.replace("127.0.0.1", "localhost"), tmp_path)
    assert levels(strange) == {"login": "error"}
    assert "PUBLIC_HOST" in strange["login"].advice


class _Clockwork(BaseHTTPRequestHandler):
    """Pretends to be MLflow 2 of the last century."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"2.9.0")

    do_PUT = do_GET

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Fri, 31 Dec 1999 23:59:59 GMT"

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def test_another_version_and_another_time_are_reported(tmp_path: Path) -> None:
    """Another major version is an error, another clock a warning."""
    server = HTTPServer(("127.0.0.1", 0), _Clockwork)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        found = look_at(f"http://127.0.0.1:{server.server_port}", tmp_path)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert found["tracking"].level is Level.ERROR
    assert "MLflow 2.9.0" in found["tracking"].found
    assert found["clock, the tracking server's"].level is Level.WARNING
    assert "behind this machine's" in found["clock, the tracking server's"].found


def test_a_server_that_is_down_is_reported(tmp_path: Path) -> None:
    """In one line, without the password in its address."""
    found = look_at(f"http://me:{PASSWORD}@127.0.0.1:9", tmp_path)
    assert levels(found) == {"tracking": "error"}
    assert PASSWORD not in repr(found)


def test_a_shared_ledger_is_opened(postgres: PostgreSQL, tmp_path: Path) -> None:
    """With the right login only the unshared tracking server is a warning; with another login there is an error."""
    found = list(check_storage(Home(tmp_path, storage=postgres.create())))
    assert [(finding.subject, finding.level) for finding in found] == [
        ("ledger", Level.OK),
        ("clock, the database's", Level.OK),
        ("tracking", Level.WARNING),
    ]
    (refused,) = check_storage(Home(tmp_path, storage=postgres.url("postgres", "another-secret")))
    assert refused.level is Level.ERROR
    assert "another-secret" not in repr(refused)


@pytest.mark.slow
def test_the_command_reports_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one JSON document; exit code 1 after an error, and nothing is left behind."""
    for name in ("ORCHESTRATE_STORAGE", "MLFLOW_TRACKING_URI", "ORCHESTRATE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCHESTRATE_HOME", str(tmp_path / "home"))

    def ask() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator.cli", "doctor", "--json"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    asked = ask()
    document = json.loads(asked.stdout)
    subjects = {finding["subject"] for finding in document["findings"]}
    assert {"packages", "GPUs", "disk", "ledger", "tracking", "data"} <= subjects
    assert (asked.returncode == 0) is document["is_healthy"]
    assert list((tmp_path / "home").iterdir()) == []
    monkeypatch.setenv("ORCHESTRATE_DATA", str(tmp_path / "nowhere"))
    asked = ask()
    assert asked.returncode == 1
    assert [f["subject"] for f in json.loads(asked.stdout)["findings"] if f["level"] == "error"][-1] == "data"
