"""Which failures are retried, how often, and what is recorded about them."""

from __future__ import annotations

import pytest

from orchestrator.launchers.base import JobExit
from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.spec.sections import RetrySpec
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.records import Event, TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    Bench,
    ListSearch,
    Point,
    ScriptedJob,
    ScriptedLauncher,
    claim_as,
    complete,
    dead_owner,
    points,
    raise_error,
    spec,
    states_of,
)


def fail_times(count: int, kind: FailureKind = FailureKind.EXCEPTION) -> ScriptedLauncher:
    """The first ``count`` attempts fail, all others complete; one at a time."""
    launcher = ScriptedLauncher(
        lambda job: raise_error(job, kind) if launcher.jobs.index(job) < count else complete(job), num_slots=1
    )
    return launcher


def test_a_crash_is_retried_once(bench: Bench) -> None:
    """If the second attempt completes, nothing has failed, and the search gets only the value."""
    search = ListSearch(points("a"))
    [trial] = bench.run(search, fail_times(1)).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)
    assert search.values == [("configuration of a", 0.5, TrialState.COMPLETE)]


def test_a_trial_that_has_used_its_retries_has_failed(bench: Bench) -> None:
    """As without a retry; the result is the last attempt's."""
    search = ListSearch(points("a"))
    launcher = fail_times(9)
    [trial] = bench.run(search, launcher).trials
    assert launcher.launched == ["a", "a"]
    assert (trial.state, trial.attempts) == (TrialState.FAILED, 2)
    assert trial.result is not None
    assert (trial.result.attempt, trial.result.failure) == (2, FailureKind.EXCEPTION)
    assert search.values == [("configuration of a", None, TrialState.FAILED)]


@pytest.mark.parametrize("kind", [FailureKind.BAD_CONFIGURATION, FailureKind.BAD_DATA, FailureKind.DIVERGED])
def test_a_certain_failure_is_not_retried(bench: Bench, kind: FailureKind) -> None:
    """By default; only a diverged training may get a retry."""
    launcher = fail_times(9, kind)
    assert states_of(bench.run(points("a"), launcher)) == {"a": TrialState.FAILED}
    assert len(launcher.jobs) == 1


def test_the_file_says_how_often(bench: Bench) -> None:
    """Each kind of failure is counted separately."""
    launcher = ScriptedLauncher(lambda job: -11 if len(launcher.jobs) in (2, 4) else raise_error(job))
    [trial] = bench.run(points("a"), launcher, retry=RetrySpec(exception=2, signal=5)).trials
    assert (trial.state, trial.attempts) == (TrialState.FAILED, 5)


def test_while_a_trial_waits_for_its_retry_others_run(bench: Bench) -> None:
    """Waiting trials of its round run first, then it runs again, then those of later rounds."""
    launcher = fail_times(1)
    seeds = Point("one", (spec("a0"), spec("b0"), spec("c0"), spec("d1")))
    bench.run([seeds], launcher, round_of=lambda trial: int(trial.key[-1]))
    assert launcher.launched == ["a0", "b0", "c0", "a0", "d1"]


def test_a_retry_is_shown_to_the_monitor(bench: Bench) -> None:
    """What failed, that it is retried, and how many retries there are; the mirror sees a waiting trial."""
    bench.run(points("a"), fail_times(1))
    assert bench.monitor.seen[:2] == [("started", "a", 1), ("ended", "a", TrialState.WAITING)]
    assert bench.monitor.reasons[0] == "exception: no; retrying (1 of 1 for exception)"
    assert bench.monitor.failed[0] is FailureKind.EXCEPTION
    assert ("started", "a", 2) in bench.monitor.seen


def test_the_failure_stays_in_the_folder(bench: Bench) -> None:
    """As the end of its attempt, with its kind; the result is removed before the next launch."""
    bench.run(points("a"), fail_times(1))
    ended = [event for event in bench.folder("a").events()[0] if event.kind == "attempt_ended"]
    assert [(event.attempt, event.state, event.failure) for event in ended] == [(1, TrialState.FAILED, FailureKind.EXCEPTION)]


def test_earlier_failures_outlive_the_dispatcher(bench: Bench) -> None:
    """A dispatcher that dies between a failure and its retry does not reset the count."""
    stopping = bench.dispatcher(points("a"), fail_times(9), sleep=lambda seconds: None)
    bench.monitor.on_end = stopping.request_stop
    [trial] = stopping.run().trials
    assert (trial.state, trial.attempts) == (TrialState.WAITING, 1)
    bench.monitor.on_end = None
    launcher = fail_times(9)
    [trial] = bench.run(points("a"), launcher).trials
    assert (trial.state, trial.attempts, len(launcher.jobs)) == (TrialState.FAILED, 2, 1)


def test_a_failure_that_no_dispatcher_recorded_is_retried(bench: Bench) -> None:
    """The dispatcher died after the worker had written its result: the next one decides the same."""
    folder = bench.folder("a")
    folder.create(spec("a"))
    attempt = claim_as(bench, "a", dead_owner(bench))
    raise_error(lay_out(bench, attempt))
    launcher = fail_times(0)
    [trial] = bench.run(points("a"), launcher).trials
    assert (trial.state, trial.attempts, len(launcher.jobs)) == (TrialState.COMPLETE, 2, 1)


def lay_out(bench: Bench, attempt: int) -> ScriptedJob:
    """An attempt at trial a by another dispatcher."""
    from orchestrator.state.trial.records import Attempt

    bench.folder("a").write_attempt(Attempt(number=attempt, data_folder="/nowhere"))
    return ScriptedJob(bench.folder("a").path, complete, exit=JobExit(1))


def test_a_reset_trial_gets_fresh_retries(bench: Bench) -> None:
    """After `orchestrate retry` old failures do not count."""
    bench.run(points("a"), fail_times(9))
    bench.ledger.reset_failed(["a"])
    [trial] = bench.run(points("a"), fail_times(1)).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 4)


def test_a_stop_leaves_pending_retries_for_later(bench: Bench) -> None:
    """A trial that waits for its retry when the sweep is stopped is WAITING, without a result, and not started."""
    launcher = ScriptedLauncher(lambda job: raise_error(job) if job.folder.name == "a" else stop_or_run(job))
    dispatcher = bench.dispatcher([Point("one", (spec("b"), spec("a"), spec("c")))], launcher)
    bench.monitor.on_end = dispatcher.request_stop  # called for the failure of a
    outcome = dispatcher.run()
    assert outcome.interrupted
    assert set(states_of(outcome).values()) == {TrialState.WAITING}
    assert bench.state_of("a") is TrialState.WAITING
    assert bench.folder("a").result() is None
    assert launcher.launched.count("a") == 1


def stop_or_run(job: ScriptedJob) -> int | None:
    """Run until asked to stop."""
    return ExitCode.STOPPED if job.stops else None


def test_cuda_out_of_memory_is_retried_with_half_the_images(bench: Bench) -> None:
    """The batch keeps its size, its parts are halved, and the attempt records it; never fewer than two images per part."""
    seen: list[tuple[int, str | None]] = []

    def script(job: ScriptedJob) -> int:
        attempt = job.trial.attempt()
        seen.append((attempt.accumulate, attempt.deviation))
        return raise_error(job, FailureKind.CUDA_OUT_OF_MEMORY)

    [trial] = bench.run(points("a"), ScriptedLauncher(script)).trials
    after = "parts after CUDA out of memory"
    assert seen == [
        (1, None),
        (2, f"batch of 32 in 2 {after}"),
        (4, f"batch of 32 in 4 {after}"),
        (8, f"batch of 32 in 8 {after}"),
    ]
    assert trial.state is TrialState.FAILED
    assert trial.result is not None
    assert trial.result.deviation == f"batch of 32 in 8 {after}"
    first = bench.monitor.reasons[0]
    assert first == "cuda_out_of_memory: no; retrying with a batch of 32 in 2 parts (1 of 3 for CUDA out of memory)"


def test_terms_stay_when_a_later_attempt_crashes(bench: Bench) -> None:
    """A resumed attempt trains on the terms of the one before it."""
    codes = iter([FailureKind.CUDA_OUT_OF_MEMORY, FailureKind.EXCEPTION])

    def script(job: ScriptedJob) -> int:
        kind = next(codes, None)
        return complete(job) if kind is None else raise_error(job, kind)

    bench.run(points("a"), ScriptedLauncher(script))
    attempt = bench.folder("a").attempt()
    assert (attempt.number, attempt.accumulate) == (3, 2)


def test_the_epoch_of_a_late_failure_is_recorded(bench: Bench) -> None:
    """Earlier epochs were trained with whole batches, and the deviation says so."""

    def script(job: ScriptedJob) -> int:
        if job.trial.attempt().number == 2:
            return complete(job)
        for epoch in (1, 2):
            job.trial.append(Event(kind="epoch", time_s=1.0, attempt=1, epoch=epoch))
        return raise_error(job, FailureKind.CUDA_OUT_OF_MEMORY)

    bench.run(points("a"), ScriptedLauncher(script))
    assert bench.folder("a").attempt().deviation == "batch of 32 in 2 parts after CUDA out of memory in epoch 3"
