"""A failure is a result; and errors that the dispatcher itself survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import UNKNOWN, JobExit, MemoryEstimate
from orchestrator.spec.sections import RetrySpec
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.failures import FailureKind
from orchestrator.state.trial.folder import TrialFile
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    Bench,
    ListSearch,
    ScriptedJob,
    ScriptedLauncher,
    complete,
    points,
    raise_error,
    spec,
    states_of,
    stop_when_asked,
)

NEVER = RetrySpec(exception=0, signal=0, exit=0, out_of_memory=0)


def fail_a(job: ScriptedJob) -> int:
    """Fail trial a and complete the others."""
    return raise_error(job) if job.folder.name == "a" else complete(job)


def test_a_failed_trial_is_a_result(bench: Bench) -> None:
    """The sweep continues; the trial is not retried before `orchestrate retry`."""
    search = ListSearch(points("a", "b"))
    outcome = bench.run(search, ScriptedLauncher(fail_a), retry=NEVER)
    assert states_of(outcome) == {"a": TrialState.FAILED, "b": TrialState.COMPLETE}
    assert search.values[0] == ("configuration of a", None, TrialState.FAILED)
    assert bench.ledger.states(["a"])["a"].reason == "exception: no"
    again = ScriptedLauncher(complete)
    assert states_of(bench.run(points("a", "b"), again)) == {"a": TrialState.FAILED, "b": TrialState.CACHED}
    assert again.launched == []
    bench.ledger.reset_failed(["a"])
    assert states_of(bench.run(points("a", "b"), again)) == {"a": TrialState.COMPLETE, "b": TrialState.CACHED}


def test_a_failed_trial_can_be_retried_after_the_loss_of_the_ledger(bench: Bench) -> None:
    """A new ledger counts attempts from 1; the folder's numbers continue, so that no old failure counts as a new one."""
    bench.run(points("a"), ScriptedLauncher(raise_error))
    fresh = Ledger(f"sqlite:///{bench.home.root}/new.db")
    launcher = ScriptedLauncher(complete)
    assert states_of(bench.run(points("a"), launcher, ledger=fresh)) == {"a": TrialState.FAILED}
    fresh.reset_failed(["a"])
    [trial] = bench.run(points("a"), launcher, ledger=fresh).trials
    assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 4)


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (-11, FailureKind.SIGNAL, "killed by signal 11 (SIGSEGV)"),
        (0, FailureKind.EXIT, "the worker ended with exit code 0 and left no result"),
        (120, FailureKind.EXIT, "the worker ended with exit code 120 and left no result"),
    ],
)
def test_a_worker_that_dies_without_a_result_has_failed(bench: Bench, code: int, kind: FailureKind, reason: str) -> None:
    """The dispatcher writes the result, with the end of the log."""

    def script(job: ScriptedJob) -> int:
        (job.trial.path / TrialFile.LOG).write_text("last words\n")
        return code

    [trial] = bench.run(points("a"), ScriptedLauncher(script), retry=NEVER).trials
    assert trial.state is TrialState.FAILED
    assert trial.result == bench.folder("a").result()
    assert trial.result is not None
    assert (trial.result.failure, trial.result.reason, trial.result.log_tail) == (kind, reason, "last words")


def test_a_folder_of_another_trial_fails_this_one_only(bench: Bench) -> None:
    """The error is reported, and the sweep continues."""
    bench.folder("a").create(spec("other"))
    outcome = bench.run(points("a", "b"), ScriptedLauncher(complete))
    assert states_of(outcome) == {"a": TrialState.FAILED, "b": TrialState.COMPLETE}
    assert "holds trial other" in (bench.ledger.states(["a"])["a"].reason or "")
    assert "holds trial other" in (outcome.trials[0].reason or "")


def test_where_no_worker_can_be_started_the_sweep_ends(bench: Bench) -> None:
    """After some tries, with an error and without claims."""

    class Broken(ScriptedLauncher):
        def launch(self, folder: Path, need: MemoryEstimate = UNKNOWN) -> ScriptedJob:
            raise LaunchError("no worker can be started")

    with pytest.raises(LaunchError, match="no worker"):
        bench.run(points("a", "b"), Broken(complete))
    assert bench.state_of("a") is TrialState.WAITING


def test_another_sweep_may_take_the_slot_first(bench: Bench) -> None:
    """The trial waits for the next slot, and the failed launch counts as no attempt."""

    class Contested(ScriptedLauncher):
        num_lost = 0

        def free_slots(self, need: MemoryEstimate = UNKNOWN) -> int:
            return super().free_slots() if self.num_lost in (0, 5) else self._wait()

        def _wait(self) -> int:
            self.num_lost += 1
            return 0

        def launch(self, folder: Path, need: MemoryEstimate = UNKNOWN) -> ScriptedJob:
            if self.num_lost == 0:
                self.num_lost = 1
                raise LaunchError("no slot is free")
            return super().launch(folder)

    bench.run(points("a"), ScriptedLauncher(lambda job: -9), retry=NEVER)
    bench.ledger.reset_failed(["a"])
    tried_before = bench.folder("a").attempt()
    attempts = []
    for key in "ab":
        launcher = Contested(lambda job: attempts.append(job.trial.attempt().number) or complete(job))
        [trial] = bench.run(points(key), launcher).trials
        assert trial.state is TrialState.COMPLETE
        attempts.append(trial.attempts)
    assert tried_before.number == 1
    assert attempts == [2, 2, 1, 1]


def test_an_error_of_our_own_leaves_nothing_running_or_claimed(bench: Bench) -> None:
    """Jobs are killed and trials released, whatever error ends the loop."""

    class Breaking(ListSearch):
        def propose(self) -> Any:
            if not self._proposals:
                raise RuntimeError("the search broke")
            return super().propose()

    launcher = ScriptedLauncher(stop_when_asked, num_slots=3)
    with pytest.raises(RuntimeError, match="broke"):
        bench.run(Breaking(points("a", "b")), launcher)
    assert [job.exit for job in launcher.jobs] == [JobExit(-9)] * 2
    assert [bench.state_of(key) for key in "ab"] == [TrialState.WAITING] * 2
