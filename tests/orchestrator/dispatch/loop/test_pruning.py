"""A pruned trial ends after its running epoch, and its state is a result of the sweep."""

from __future__ import annotations

from orchestrator.launchers.worker.contract import ExitCode
from orchestrator.state.trial.endings import leave_waiting
from orchestrator.state.trial.records import Event, TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    Bench,
    ListSearch,
    Point,
    ScriptedJob,
    ScriptedLauncher,
    complete,
    points,
    spec,
    states_of,
)


def report_until_stopped(job: ScriptedJob) -> int | None:
    """Report an epoch at every third poll, and stop like a worker on request."""
    attempt = job.trial.attempt().number
    if job.stops:
        leave_waiting(job.trial, attempt, reason="stopped")
        return ExitCode.STOPPED
    if job.num_polls == 1:
        job.trial.append(Event(kind="attempt_started", time_s=1.0, attempt=attempt, facts={"gpu": "GPU-0"}))
    if job.num_polls % 3 == 0:
        epoch = job.num_polls // 3
        job.trial.append(Event(kind="epoch", time_s=1.0, attempt=attempt, epoch=epoch, metrics={"val/miou": epoch / 100}))
    return None


def search_of(proposals: list[Point], *prunes: tuple[str, int]) -> ListSearch:
    """A search that gives configurations up at a given trial and epoch."""
    search = ListSearch(proposals)
    search.prunes = set(prunes)
    return search


def test_a_given_up_trial_ends_after_its_epoch(bench: Bench) -> None:
    """It is asked to stop, not killed; its epochs are kept, the search gets PRUNED, and the next trial runs."""
    search = search_of(points(*"ab"), ("a", 2))
    launcher = ScriptedLauncher(lambda job: report_until_stopped(job) if job.folder.name == "a" else complete(job))
    outcome = bench.run(search, launcher)
    assert states_of(outcome) == {"a": TrialState.PRUNED, "b": TrialState.COMPLETE}
    assert launcher.jobs[0].stops == [False]
    result = bench.folder("a").result()
    assert result is not None
    assert result.metrics["val/miou"] >= 0.02
    assert (result.state, bench.state_of("a")) == (TrialState.PRUNED, TrialState.PRUNED)
    assert ("configuration of a", None, TrialState.PRUNED) in search.values
    assert any(reason is not None and "the pruner stopped it" in reason for reason in search.reasons)
    assert search.is_closed


def test_other_trials_of_the_configuration_are_not_trained(bench: Bench) -> None:
    """A queued seed of a pruned configuration is recorded as PRUNED without a process."""
    search = search_of([Point("both", (spec("a", "both"), spec("b", "both")))], ("a", 1))
    launcher = ScriptedLauncher(report_until_stopped, num_slots=1)
    outcome = bench.run(search, launcher)
    assert states_of(outcome) == {"a": TrialState.PRUNED, "b": TrialState.PRUNED}
    assert launcher.launched == ["a"]
    assert [state for _, _, state in search.values] == [TrialState.PRUNED]


def test_a_trial_that_completes_anyway_stays_complete(bench: Bench) -> None:
    """The stop came too late: nothing is discarded."""
    search = search_of(points("a"), ("a", 1))
    launcher = ScriptedLauncher(complete)
    assert states_of(bench.run(search, launcher)) == {"a": TrialState.COMPLETE}


def test_pruned_trials_stay_pruned(bench: Bench) -> None:
    """The next run of the sweep does not train them again."""
    bench.run(search_of(points("a"), ("a", 1)), ScriptedLauncher(report_until_stopped))
    launcher = ScriptedLauncher(complete)
    assert states_of(bench.run(points("a"), launcher)) == {"a": TrialState.PRUNED}
    assert launcher.launched == []


def test_gpu_time_is_counted(bench: Bench) -> None:
    """Attempts on GPU slots cost their duration; those on the CPU cost nothing."""
    search = search_of(points("a"), ("a", 3))
    bench.run(search, ScriptedLauncher(report_until_stopped))
    on_cpu = ListSearch(points("c"))
    bench.run(on_cpu, ScriptedLauncher(complete))
    assert search.gpu_s > 0
    assert on_cpu.gpu_s == 0


def test_a_given_up_trial_on_a_full_disk_waits(bench: Bench) -> None:
    """Its worker could not write any more: nothing is recorded about it either, and the sweep halts."""
    search = search_of(points("a"), ("a", 1))

    def fill_the_disk(job: ScriptedJob) -> int | None:
        return ExitCode.DISK_FULL if job.stops else report_until_stopped(job)

    outcome = bench.run(search, ScriptedLauncher(fill_the_disk))
    assert states_of(outcome) == {"a": TrialState.WAITING}
    assert outcome.halted is not None
    assert bench.folder("a").result() is None
