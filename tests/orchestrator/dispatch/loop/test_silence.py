"""Attempts without a sign of life."""

from __future__ import annotations

import os

from orchestrator.spec.sections import LimitsSpec, RetrySpec
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import Bench, ScriptedJob, ScriptedLauncher, Ticks, complete, points

LIMITS = LimitsSpec(silence_s=900, free_disk_gb=0)


def hang(job: ScriptedJob) -> int | None:
    """Do nothing until killed."""
    return -9 if True in job.stops else None


def test_a_silent_attempt_is_killed(bench: Bench) -> None:
    """Counted from its launch, so that a start that never ends counts too; the result says how long it was silent."""
    ticks = Ticks(1.0)
    [trial] = bench.run(points("a"), ScriptedLauncher(hang), limits=LIMITS, clock=ticks, retry=RetrySpec(hang=0)).trials
    assert trial.state is TrialState.FAILED
    assert trial.result is not None
    assert trial.result.failure is FailureKind.HANG
    assert (trial.reason or "").startswith("killed after 90")
    assert 900 < ticks.now_s < 1000


def test_a_sign_of_life_is_noticed(bench: Bench) -> None:
    """However long the attempt takes, and without the end of an epoch."""

    def script(job: ScriptedJob) -> int | None:
        (job.trial.path / TrialFile.HEARTBEAT).touch()
        os.utime(
            job.trial.path / TrialFile.HEARTBEAT, ns=(job.num_polls, job.num_polls)
        )  # any change counts, whatever the clock says
        return complete(job) if job.num_polls > 1000 else None

    ticks = Ticks(1.0)
    [trial] = bench.run(points("a"), ScriptedLauncher(script), limits=LIMITS, clock=ticks).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 1)
    assert ticks.now_s > 2000


def test_a_machine_that_slept_is_given_time(bench: Bench) -> None:
    """Hours in which the machine slept are no silence."""
    ticks = Ticks(0.1)

    def script(job: ScriptedJob) -> int | None:
        if job.num_polls == 10:
            ticks.now_s += 36_000
        return complete(job) if job.num_polls > 100 else None

    [trial] = bench.run(points("a"), ScriptedLauncher(script), limits=LIMITS, clock=ticks).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 1)


def test_a_hung_attempt_is_retried(bench: Bench) -> None:
    """Once, by default."""
    launcher = ScriptedLauncher(lambda job: hang(job) if len(launcher.jobs) == 1 else complete(job))
    [trial] = bench.run(points("a"), launcher, limits=LIMITS, clock=Ticks(1.0)).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 2)
