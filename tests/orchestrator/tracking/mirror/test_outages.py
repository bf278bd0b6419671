"""A tracking server that is slow, or goes down and comes back: no trial waits, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.tracker import MlflowTracker
from tests.orchestrator.dispatch.loop.conftest import Bench, ScriptedJob, ScriptedLauncher, complete, points, states_of
from tests.orchestrator.tracking.conftest import Server, Wait
from tests.orchestrator.tracking.mirror.test_mirror import history_of, runs_of

KEYS = [f"k{index}" for index in range(6)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A fresh home."""
    home = Home(tmp_path / "home")
    with home.new_owner() as owner:
        yield Bench(home, Ledger(home.ledger_url), owner.name)


def place_of(bench: Bench, uri: str) -> TrackingLocation:
    """A server for this home."""
    return TrackingLocation(uri, bench.home.artifacts, bench.home.trials, bench.home.locks)


@pytest.fixture
def held_up() -> Iterator[tuple[str, list[str], threading.Event]]:
    """A server that answers only when allowed to: its address, the requests so far, and the permission."""
    asked: list[str] = []
    may_answer = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            may_answer.wait(60)
            self.send_error(503)

        do_POST = do_GET

        def log_message(self, format: str, *values: object) -> None:
            """No log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked, may_answer
    may_answer.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_does_not_answer_slows_no_trial(bench: Bench, held_up, wait: Wait) -> None:
    """All trials end while the first request is still unanswered; close returns what the server lacks."""
    uri, asked, may_answer = held_up
    tracker = MlflowTracker(place_of(bench, uri))

    def script(job: ScriptedJob) -> int | None:
        if job.folder.name == KEYS[0]:
            if job.num_polls == 1:  # it has to be running for a while, to be mirrored
                return None
            wait(lambda: bool(asked))
        return complete(job)

    outcome = bench.run(points(*KEYS), ScriptedLauncher(script, num_slots=1), tracker=tracker, clock=_Hurrying())
    assert states_of(outcome) == dict.fromkeys(KEYS, TrialState.COMPLETE)
    assert len(asked) == 1
    may_answer.set()
    assert sorted(folder.path.name for folder in tracker.close(1)) == KEYS


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("is_up_at_first", [True, False])
def test_a_server_that_dies_during_a_sweep_has_everything_afterwards(
    bench: Bench, server: Server, wait: Wait, is_up_at_first: bool
) -> None:
    """Killed -9 while trials are sent and started again two trials later, or down when the sweep begins."""
    location = place_of(bench, server.uri)
    tracker = MlflowTracker(location)
    if is_up_at_first:
        server.start()

    def script(job: ScriptedJob) -> int | None:
        number = KEYS.index(job.folder.name)
        if number == 2 and is_up_at_first:
            wait(lambda: tracker.run_id("sweep", KEYS[0]) is not None)
            server.kill()
        if number == 4:
            wait(lambda: tracker.trouble is not None)
            server.start()
        return complete(job, miou=number / 10)

    outcome = bench.run(points(*KEYS), ScriptedLauncher(script, num_slots=1), tracker=tracker)
    assert states_of(outcome) == dict.fromkeys(KEYS, TrialState.COMPLETE)
    assert tracker.close(120) == []
    runs = {run.data.tags["key"]: run for run in runs_of(location, "sweep")}
    assert len(runs_of(location, "sweep")) == len(KEYS)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for number, key in enumerate(KEYS):
        assert history_of(location, runs[key], "epoch/val/miou") == [(1, number / 10)]
        files = {file.path for file in MlflowClient(tracking_uri=location.uri).list_artifacts(runs[key].info.run_id)}
        assert files >= {"trial.json", "result.json"}


class _Hurrying:
    """A clock by which everything is always due."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += 10
        return self._now_s
