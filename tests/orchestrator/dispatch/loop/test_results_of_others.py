"""Results that exist already, or that come from other dispatchers."""

from __future__ import annotations

import shutil

import pytest

from orchestrator.errors import TrackingError
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialResult, TrialSpec, TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    SWEEP,
    Bench,
    ListSearch,
    ScriptedLauncher,
    Ticks,
    a_result,
    claim_as,
    complete,
    points,
    spec,
    states_of,
)


def test_finished_folders_survive_the_loss_of_the_ledger(bench: Bench) -> None:
    """The folder is the truth: with a new ledger, finished trials are CACHED."""
    bench.run(points("a"), ScriptedLauncher(complete))
    fresh = Ledger(f"sqlite:///{bench.home.root}/new.db")
    launcher = ScriptedLauncher(complete)
    assert states_of(bench.run(points("a"), launcher, ledger=fresh)) == {"a": TrialState.CACHED}
    assert launcher.launched == []


def test_a_trial_that_another_dispatcher_finishes_is_waited_for(bench: Bench) -> None:
    """It is recorded like a trial of this dispatcher, with all its attempts."""
    search = ListSearch(points("a", "b"))
    claim_as(bench, "a", "another-machine:1:1")
    clock = Ticks(1.0)

    def finish_elsewhere(seconds: float) -> None:
        if bench.ledger.release("a", "another-machine:1:1"):
            claim_as(bench, "a", "a-third-machine:1:1")
            bench.ledger.finish("a", "a-third-machine:1:1", TrialState.COMPLETE)

    outcome = bench.run(
        search, ScriptedLauncher(complete), clock=clock, sleep=finish_elsewhere, find_result=lambda spec: a_result(spec.key, 0.7)
    )
    assert states_of(outcome) == {"a": TrialState.COMPLETE, "b": TrialState.COMPLETE}
    assert [trial.attempts for trial in outcome.trials] == [2, 1]
    assert ("configuration of a", 0.7, TrialState.COMPLETE) in search.values
    assert (SWEEP, "a", True) not in bench.tracker.mirrored


@pytest.mark.parametrize("here", [None, TrialState.FAILED])
def test_a_result_of_another_machine_is_found(bench: Bench, here: TrialState | None) -> None:
    """COMPLETE in the ledger, and here nothing or an earlier failure: the search gets its value, and nothing is trained."""
    claim_as(bench, "a", "another-machine:1:1")
    bench.ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)
    if here is not None:
        bench.folder("a").create(spec("a"))
        bench.folder("a").write_result(TrialResult(key="a", state=here, attempt=1, started_s=1, ended_s=2))
    launcher, search = ScriptedLauncher(complete), ListSearch(points("a"))
    [trial] = bench.run(search, launcher, find_result=lambda spec: a_result(spec.key, 0.7)).trials
    assert (trial.state, trial.result) == (TrialState.CACHED, a_result("a", 0.7))
    assert search.values == [("configuration of a", 0.7, TrialState.COMPLETE)]
    assert launcher.launched == []


def test_a_trial_whose_result_is_lost_runs_again(bench: Bench) -> None:
    """After its folder was deleted, a complete trial runs again and the monitor sees why; the search never gets FAILED."""
    bench.run(points("a"), ScriptedLauncher(complete))
    shutil.rmtree(bench.folder("a").path)
    launcher, search = ScriptedLauncher(complete), ListSearch(points("a"))
    [trial] = bench.run(search, launcher).trials
    assert (trial.state, trial.attempts, trial.reason) == (TrialState.COMPLETE, 2, None)
    assert search.values == [("configuration of a", 0.5, TrialState.COMPLETE)]
    assert launcher.launched == ["a"]
    assert any("runs again" in (reason or "") for reason in bench.monitor.reasons)


@pytest.mark.parametrize("comes_at", [5, None])
def test_a_result_on_its_way_is_waited_for(bench: Bench, comes_at: int | None) -> None:
    """The ledger is faster than the mirror, and the server may be down; in the end the trial runs again."""
    claim_as(bench, "a", "another-machine:1:1")
    bench.ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)
    asked: list[str] = []

    def find(spec: TrialSpec) -> TrialResult | None:
        asked.append(spec.key)
        if len(asked) == 2:
            raise TrackingError("the server does not answer")
        return a_result(spec.key, 0.7) if len(asked) == comes_at else None

    launcher, search = ScriptedLauncher(complete), ListSearch(points("a"))
    bench.run(search, launcher, find_result=find, clock=Ticks(0.5))
    assert [value for _, value, _ in search.values] == [0.5 if comes_at is None else 0.7]
    assert launcher.launched == (["a"] if comes_at is None else [])
    assert 3 < len(asked) < 40


def test_a_server_that_is_away_is_waited_for(bench: Bench) -> None:
    """For longer than a result may take: an outage does not make a finished trial run twice."""
    claim_as(bench, "a", "another-machine:1:1")
    bench.ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)
    asked: list[str] = []

    def find(spec: TrialSpec) -> TrialResult | None:
        asked.append(spec.key)
        if len(asked) < 100:
            raise TrackingError("the server does not answer")
        return a_result(spec.key, 0.7)

    launcher = ScriptedLauncher(complete)
    [trial] = bench.run(points("a"), launcher, find_result=find, clock=Ticks(0.5)).trials
    assert (trial.result, launcher.launched) == (a_result("a", 0.7), [])
