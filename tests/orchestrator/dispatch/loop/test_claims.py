"""Several dispatchers on one sweep: what the dead leave, what the living hold."""

from __future__ import annotations

import pytest
from filelock import FileLock

from orchestrator.launchers.worker.exit_codes import ExitCode
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.records import TrialResult, TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    SWEEP,
    Bench,
    ScriptedJob,
    ScriptedLauncher,
    Ticks,
    a_result,
    claim_as,
    complete,
    dead_owner,
    points,
    spec,
    states_of,
)


def test_a_dead_dispatchers_trials_are_taken_over_at_once(bench: Bench) -> None:
    """Without waiting for the lease; the record of the attempt is closed, in its own sweep's mirror too."""
    claim_as(bench, "a", dead_owner(bench))
    claim_as(bench, "b", dead_owner(bench), sweep="another sweep")
    for key in "ab":
        bench.folder(key).create(spec(key))
    [trial] = bench.run(points("a"), ScriptedLauncher(complete)).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)
    assert bench.folder("a").events()[0][0].reason == "its dispatcher died"
    assert ("another sweep", "b", True) in bench.tracker.mirrored
    assert bench.state_of("b") is TrialState.WAITING


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAILED])
def test_a_result_that_the_ledger_does_not_know_is_entered(bench: Bench, state: TrialState) -> None:
    """The dispatcher died between the worker's result and its own entry: nothing is trained again."""
    folder = bench.folder("a")
    folder.create(spec("a"))
    attempt = claim_as(bench, "a", dead_owner(bench))
    folder.write_result(TrialResult(key="a", state=state, attempt=attempt, started_s=1, ended_s=2, metrics={"val/miou": 0.3}))
    launcher = ScriptedLauncher(complete)
    outcome = bench.run(points("a"), launcher)
    assert launcher.launched == []
    assert bench.state_of("a") is state
    assert states_of(outcome) == {"a": TrialState.CACHED if state is TrialState.COMPLETE else state}


def test_an_expired_lease_is_taken_over(bench: Bench) -> None:
    """Of a dispatcher on another machine only its lease tells."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)
    ledger.register(SWEEP, [("a", "one")])
    ledger.claim("a", SWEEP, "another-machine:1:1")

    def wait(seconds: float) -> None:
        wall[0] += 10

    [trial] = bench.run(points("a"), ScriptedLauncher(complete), ledger=ledger, clock=Ticks(1.0), sleep=wait).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)


def test_leases_are_renewed_in_time(bench: Bench) -> None:
    """A trial that takes many times its lease stays ours."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)

    def script(job: ScriptedJob) -> int | None:
        wall[0] += 5
        assert ledger.claim("a", SWEEP, "another-machine:1:1") is None
        return complete(job) if job.num_polls > 100 else None

    assert states_of(bench.run(points("a"), ScriptedLauncher(script), ledger=ledger, clock=lambda: wall[0])) == {
        "a": TrialState.COMPLETE
    }


def test_a_lost_trial_is_let_go(bench: Bench) -> None:
    """When this machine slept past its lease and another took the trial, ours is killed and nothing is written."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)

    def script(job: ScriptedJob) -> int | None:
        if job.num_polls == 1:
            wall[0] += 100
            assert ledger.claim("a", SWEEP, "another-machine:1:1") == 2
        if True in job.stops:
            ledger.finish("a", "another-machine:1:1", TrialState.COMPLETE)
            return -9
        return None

    launcher = ScriptedLauncher(script)
    outcome = bench.run(points("a"), launcher, ledger=ledger, clock=Ticks(1.0), find_result=lambda spec: a_result(spec.key, 0.7))
    assert states_of(outcome) == {"a": TrialState.COMPLETE}
    assert bench.monitor.reasons[0] == "another dispatcher has taken it over"
    assert launcher.launched == ["a"]
    assert bench.folder("a").result() is None


def test_a_folder_that_is_still_worked_on_is_waited_for(bench: Bench) -> None:
    """A worker may need a moment to notice that its dispatcher died; no attempt is counted meanwhile."""
    bench.folder("a").create(spec("a"))
    lock = FileLock(bench.folder("a").lock)
    lock.acquire()
    launcher = ScriptedLauncher(complete)
    ticks = Ticks(0.1)
    outcome = bench.run(points("a"), launcher, clock=ticks, sleep=lambda seconds: lock.release() if ticks.now_s > 20 else None)
    assert [(trial.state, trial.attempts) for trial in outcome.trials] == [(TrialState.COMPLETE, 1)]


def test_a_worker_that_finds_its_folder_locked_is_tried_again_later(bench: Bench) -> None:
    """LOCKED is no end of the trial."""
    launcher = ScriptedLauncher(lambda job: ExitCode.LOCKED if len(launcher.jobs) == 1 else complete(job))
    [trial] = bench.run(points("a"), launcher, clock=Ticks(1.0)).trials
    assert trial.state is TrialState.COMPLETE
    assert launcher.launched == ["a", "a"]


def test_a_dispatcher_may_leave_what_others_run(bench: Bench) -> None:
    """Its own trials are run first; then it waits for as long as it may, and the others' stay theirs."""
    claim_as(bench, "a", "another-machine:1:1")
    ticks = Ticks(60.0)
    dispatcher = bench.dispatcher(
        points("a", "b"), ScriptedLauncher(complete), leave_after_s=30.0, clock=ticks, sleep=lambda _: None
    )
    outcome = dispatcher.run()
    assert not outcome.interrupted
    assert states_of(outcome) == {"a": TrialState.WAITING, "b": TrialState.COMPLETE}
    assert bench.ledger.states(["a"])["a"].owner == "another-machine:1:1"
