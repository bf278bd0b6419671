"""What the dispatcher launches, in which order, and the values that the search gets."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.state.trial.records import TrialState
from tests.orchestrator.dispatch.loop.conftest import (
    SWEEP,
    Bench,
    ListSearch,
    Point,
    ScriptedLauncher,
    complete,
    points,
    spec,
    states_of,
)


def test_everything_is_run_in_the_plans_order(bench: Bench) -> None:
    """Each trial once, one per slot at a time; search, monitor, ledger and mirror see every outcome."""
    launcher, search = ScriptedLauncher(complete), ListSearch(points(*"abcde"))
    outcome = bench.run(search, launcher)
    assert launcher.launched == list("abcde") == [trial.spec.key for trial in outcome.trials]
    assert set(states_of(outcome).values()) == {TrialState.COMPLETE}
    assert [trial.attempts for trial in outcome.trials] == [1] * 5
    assert not outcome.interrupted
    assert search.num_reconciled == 1
    assert search.values == [(f"configuration of {key}", 0.5, TrialState.COMPLETE) for key in "abcde"]
    assert [bench.state_of(key) for key in "abcde"] == [TrialState.COMPLETE] * 5
    assert [event for event in bench.monitor.seen if event[1] == "a"] == [
        ("started", "a", 1),
        ("epoch", "a", 1),
        ("ended", "a", TrialState.COMPLETE),
    ]
    assert (SWEEP, "a", True) in bench.tracker.mirrored


def test_a_configuration_is_valued_by_the_mean_over_its_trials(bench: Bench) -> None:
    """The search gets it once, after the last seed."""
    search = ListSearch([Point("one", (spec("a"), spec("b"), spec("c")))])
    values = {"a": 0.2, "b": 0.3, "c": 0.7}
    bench.run(search, ScriptedLauncher(lambda job: complete(job, values[job.folder.name])))
    [(configuration, value, state)] = search.values
    assert (configuration, state) == ("one", TrialState.COMPLETE)
    assert value == pytest.approx(0.4)


def test_a_second_run_runs_nothing(bench: Bench) -> None:
    """All trials are CACHED, the search gets the known values, and the mirror is checked."""
    bench.run(points("a", "b"), ScriptedLauncher(complete))
    bench.tracker.mirrored.clear()
    launcher, search = ScriptedLauncher(complete), ListSearch(points("a", "b"))
    outcome = bench.run(search, launcher)
    assert launcher.launched == []
    assert set(states_of(outcome).values()) == {TrialState.CACHED}
    assert [trial.attempts for trial in outcome.trials] == [1, 1]
    assert [value for _, value, _ in search.values] == [0.5, 0.5]
    assert bench.tracker.mirrored == [(SWEEP, "a", True), (SWEEP, "b", True)]


def test_a_trial_proposed_twice_is_run_once(bench: Bench) -> None:
    """The second proposal gets the first one's value, even if it comes while the trial runs."""
    search = ListSearch([*points("a"), *points("a"), Point("both", (spec("a"), spec("b")))])
    launcher = ScriptedLauncher(lambda job: complete(job) if job.num_polls > 3 else None)
    bench.run(search, launcher)
    assert launcher.launched == ["a", "b"]
    assert [entry[0] for entry in search.values] == ["configuration of a", "configuration of a", "both"]


def test_trials_of_a_lower_round_go_first(bench: Bench) -> None:
    """First seeds of all configurations before second ones, although a configuration brings both together."""
    search = ListSearch([Point("one", (spec("a0"), spec("a1"))), Point("two", (spec("b0"), spec("b1")))])
    launcher = ScriptedLauncher(complete, num_slots=1)
    bench.run(search, launcher, round_of=lambda spec: int(spec.key[-1]))
    assert launcher.launched == ["a0", "b0", "a1", "b1"]
    assert [entry[0] for entry in search.values] == ["one", "two"]


def test_a_search_is_asked_only_when_a_slot_is_free(bench: Bench) -> None:
    """So that each proposal knows as many results as possible."""

    class Adaptive(ListSearch):
        def propose(self) -> Any:
            assert launcher.free_slots() > 0
            known.append(len(self.values))
            return super().propose()

    known: list[int] = []
    launcher = ScriptedLauncher(complete, num_slots=1)
    bench.run(Adaptive(points(*"abc")), launcher)
    assert known[:3] == [0, 1, 2]
