"""Stopping a sweep, gracefully and at once."""

from __future__ import annotations

import pytest

from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.records import Event, TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    Bench,
    ScriptedJob,
    ScriptedLauncher,
    Ticks,
    complete,
    points,
    states_of,
    stop_when_asked,
)


def test_the_first_stop_is_graceful(bench: Bench) -> None:
    """Nothing more is launched, running attempts are asked to stop, and the next run resumes them."""
    launcher = ScriptedLauncher(stop_when_asked)
    dispatcher = bench.dispatcher(points(*"abc"), launcher, sleep=lambda seconds: dispatcher.request_stop())
    outcome = dispatcher.run()
    assert outcome.interrupted
    assert [job.stops[0] for job in launcher.jobs] == [False, False]
    assert set(states_of(outcome).values()) == {TrialState.WAITING}
    assert [bench.state_of(key) for key in "ab"] == [TrialState.WAITING] * 2
    outcome = bench.run(points(*"abc"), ScriptedLauncher(complete))
    assert [(trial.state, trial.attempts) for trial in outcome.trials] == [
        (TrialState.COMPLETE, 2),
        (TrialState.COMPLETE, 2),
        (TrialState.COMPLETE, 1),
    ]


def test_the_second_stop_kills(bench: Bench) -> None:
    """An attempt killed on request is no failure, and its record is closed."""
    launcher = ScriptedLauncher(lambda job: -9 if True in job.stops else None)
    dispatcher = bench.dispatcher(points("a"), launcher, sleep=lambda seconds: dispatcher.request_stop())
    assert states_of(dispatcher.run()) == {"a": TrialState.WAITING}
    last = bench.folder("a").events()[0][-1]
    assert (last.kind, last.state, last.reason) == ("attempt_ended", TrialState.WAITING, "killed on request")
    assert bench.state_of("a") is TrialState.WAITING


@pytest.mark.parametrize("code", [ExitCode.STOPPED, ExitCode.LOCKED])
def test_a_library_that_ends_the_process_with_such_a_code_is_a_failure(bench: Bench, code: ExitCode) -> None:
    """Otherwise it would restart forever: a stopped attempt has a record of it, and a locked one has no record."""

    def end(job: ScriptedJob) -> int:
        job.trial.append(Event(kind="attempt_started", time_s=1.0, attempt=job.trial.attempt().number))
        return code if len(launcher.jobs) < 4 else complete(job)

    launcher = ScriptedLauncher(end)
    [trial] = bench.run(points("a"), launcher, clock=Ticks(1.0)).trials
    assert (trial.state, trial.attempts) == (TrialState.FAILED, 2)
    assert trial.result is not None
    assert trial.result.failure is FailureKind.EXIT


def test_an_attempt_stopped_from_outside_is_resumed(bench: Bench) -> None:
    """SIGTERM from another process to a worker loses nothing."""
    launcher = ScriptedLauncher(lambda job: ExitCode.STOPPED if len(launcher.jobs) == 1 else complete(job))
    [trial] = bench.run(points("a"), launcher).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)
