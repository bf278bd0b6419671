"""A PostgreSQL server that is killed during a sweep, and returns or does not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from orchestrator.errors import TrackingError
from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import Bench, ScriptedJob, ScriptedLauncher, complete, points, states_of
from tests.orchestrator.postgresql import PASSWORD, PostgreSQL


@pytest.fixture
def far(bench: Bench, postgres: PostgreSQL) -> Iterator[Bench]:
    """A home with its ledger in PostgreSQL."""
    url = postgres.create()
    bench = replace(bench, home=Home(bench.home.root, storage=url), ledger=Ledger(url))
    yield bench
    bench.ledger.close()


def test_a_database_that_is_killed_is_waited_for(far: Bench, postgres: PostgreSQL, caplog: pytest.LogCaptureFixture) -> None:
    """Attempts keep running; their outcomes are recorded once each when it is back."""
    back: list[threading.Thread] = []

    def script(job: ScriptedJob) -> int | None:
        if job.num_polls == 3 and not back:
            postgres.stop()
            back.append(threading.Timer(1.0, postgres.start))
            back[0].start()
        return complete(job) if job.num_polls > 5 else None

    with caplog.at_level(logging.WARNING):
        outcome = far.run(points("a", "b", "c"), ScriptedLauncher(script))
    back[0].join()
    assert states_of(outcome) == dict.fromkeys("abc", TrialState.COMPLETE)
    assert {row.state for row in far.ledger.states("abc").values()} == {TrialState.COMPLETE}
    assert {trial.attempts for trial in outcome.trials} == {1}
    assert "the database is unreachable" in caplog.text


def test_the_second_stop_waits_for_no_database(far: Bench, postgres: PostgreSQL) -> None:
    """The sweep ends with a reason and without the password; its trials can be resumed later."""
    dispatcher = None

    def script(job: ScriptedJob) -> int | None:
        assert dispatcher is not None
        postgres.stop()
        for _ in range(2):
            dispatcher.request_stop()
        return -9

    dispatcher = far.dispatcher(points("a"), ScriptedLauncher(script))
    began_s = time.monotonic()
    try:
        with pytest.raises(TrackingError, match="the ledger cannot be used now") as caught:
            dispatcher.run()
    finally:
        postgres.start()
    assert time.monotonic() - began_s < 60  # and not the ten minutes of its patience
    assert PASSWORD not in str(caught.value)
    assert far.ledger.states("a")["a"].state is TrialState.RUNNING


def test_a_refused_login_shows_no_password(postgres: PostgreSQL) -> None:
    """Neither the correct one nor the one that was used."""
    with pytest.raises(TrackingError, match="password authentication failed") as caught:
        Ledger(postgres.url("postgres", "another-secret"))
    assert "another-secret" not in str(caught.value)


def test_leases_are_measured_by_the_databases_clock(far: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is an hour ahead neither loses its leases nor takes others'."""
    right_s = time.time
    monkeypatch.setattr(time, "time", lambda: right_s() + 3600)
    ledger = Ledger(far.home.ledger_url)
    assert abs(ledger.now_s() - right_s()) < 10
    ledger.close()
