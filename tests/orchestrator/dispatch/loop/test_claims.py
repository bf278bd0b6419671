"""Several dispatchers on one sweep: claims of dead ones are taken over, claims of running ones hold."""

from __future__ import annotations

import pytest
from filelock import FileLock

from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFile
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
    """Without waiting for the lease; the attempt's record is closed, also in the mirror of its own sweep."""
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
def test_a_result_that_the_ledger_lacks_is_recorded(bench: Bench, state: TrialState) -> None:
    """The dispatcher died after the worker's result and before recording it: nothing is trained again."""
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
    """For a dispatcher on another machine only its lease counts."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)
    ledger.register(SWEEP, [("a", "one")])
    ledger.claim("a", SWEEP, "another-machine:1:1")

    def wait(seconds: float) -> None:
        wall[0] += 10

    [trial] = bench.run(points("a"), ScriptedLauncher(complete), ledger=ledger, clock=Ticks(1.0), sleep=wait).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)


def test_leases_are_renewed_in_time(bench: Bench) -> None:
    """A trial that takes many times its lease keeps its owner."""
    wall = [1000.0]
    ledger = Ledger(bench.home.ledger_url, clock=lambda: wall[0], lease_s=60)

    def script(job: ScriptedJob) -> int | None:
        wall[0] += 5
        assert ledger.claim("a", SWEEP, "another-machine:1:1") is None
        return complete(job) if job.num_polls > 100 else None

    assert states_of(bench.run(points("a"), ScriptedLauncher(script), ledger=ledger, clock=lambda: wall[0])) == {
        "a": TrialState.COMPLETE
    }


def test_a_lost_trial_is_abandoned(bench: Bench) -> None:
    """If this machine sleeps past its lease and another takes the trial, the attempt here is killed without a record."""
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
    """A worker may take a moment to notice that its dispatcher died; no attempt is counted meanwhile."""
    bench.folder("a").create(spec("a"))
    lock = FileLock(bench.folder("a").path / TrialFile.LOCK)
    lock.acquire()
    launcher = ScriptedLauncher(complete)
    ticks = Ticks(0.1)
    outcome = bench.run(points("a"), launcher, clock=ticks, sleep=lambda seconds: lock.release() if ticks.now_s > 20 else None)
    assert [(trial.state, trial.attempts) for trial in outcome.trials] == [(TrialState.COMPLETE, 1)]


def test_a_worker_that_finds_its_folder_locked_is_retried_later(bench: Bench) -> None:
    """LOCKED does not end the trial."""
    launcher = ScriptedLauncher(lambda job: ExitCode.LOCKED if len(launcher.jobs) == 1 else complete(job))
    [trial] = bench.run(points("a"), launcher, clock=Ticks(1.0)).trials
    assert trial.state is TrialState.COMPLETE
    assert launcher.launched == ["a", "a"]


def test_a_dispatcher_may_exit_while_others_run_trials(bench: Bench) -> None:
    """It runs its own trials, waits for the allowed time, and leaves the others' trials alone."""
    claim_as(bench, "a", "another-machine:1:1")
    ticks = Ticks(60.0)
    dispatcher = bench.dispatcher(
        points("a", "b"), ScriptedLauncher(complete), leave_after_s=30.0, clock=ticks, sleep=lambda _: None
    )
    outcome = dispatcher.run()
    assert not outcome.interrupted
    assert states_of(outcome) == {"a": TrialState.WAITING, "b": TrialState.COMPLETE}
    assert bench.ledger.states(["a"])["a"].owner == "another-machine:1:1"
