from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.plan import make_plan
from orchestrator.search.proposers import count_since_best
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.search.conftest import COMPLETE, FACTS, FAILED, GRID, LR, build, proposals, read, run, trials_in

STOP = LR.format(method="random", trials=30) + "stop: {no_improvement: 3}\n"
values = st.lists(st.none() | st.floats(0, 1), max_size=12)


def test_hours_end_a_run_and_not_the_sweep(tmp_path: Path, journal: Path) -> None:
    """Nothing is proposed after the time is up; the next run has its own time."""
    spec = read(tmp_path, GRID + "budget: {hours: 1}\n")
    now_s = 0.0
    search = build(spec, journal, clock=lambda: now_s)
    assert search.propose() is not None
    now_s = 3600.0
    assert search.propose() is None
    assert search.stopped_because == "budget.hours is spent"
    assert build(spec, journal, clock=lambda: now_s).propose() is not None


def test_gpu_hours_are_those_of_all_runs(tmp_path: Path, storage: Path | str) -> None:
    """GPU time of earlier runs counts, also after an edit of the space; CPU time does not."""
    spec = read(tmp_path, GRID + "budget: {gpu_hours: 1}\n")
    first = build(spec, storage, owner="first")
    first.spend(3000)
    assert first.propose() is not None
    first.close()

    second = build(read(tmp_path, GRID.replace("epochs", "batch_size") + "budget: {gpu_hours: 1}\n"), storage, owner="second")
    second.spend(599)
    assert second.propose() is not None
    second.spend(1)
    assert second.propose() is None
    assert second.stopped_because == "budget.gpu_hours is spent"


def test_each_name_of_again_has_its_own_budget(tmp_path: Path, journal: Path) -> None:
    """Otherwise a sweep that retrains everything every night would spend its budget for good."""
    spec = read(tmp_path, GRID + "budget: {gpu_hours: 1}\n")
    monday, tuesday = replace(FACTS, again="monday"), replace(FACTS, again="tuesday")
    first = build(spec, journal, facts=monday)
    first.spend(3600)
    assert first.propose() is None
    first.close()
    assert build(spec, journal, facts=monday).propose() is None
    assert build(spec, journal, facts=tuesday).propose() is not None


def test_two_dispatchers_spend_one_budget(tmp_path: Path, journal: Path) -> None:
    """Each records its own share, from time to time."""
    spec = read(tmp_path, GRID + "budget: {gpu_hours: 1}\n")
    now_s = 0.0
    one, other = (build(spec, journal, owner=owner, clock=lambda: now_s) for owner in ("one", "other"))
    for search in (one, other):
        search.spend(1000)
    now_s = 60.0
    for search in (one, other):
        search.spend(800)
    assert one.propose() is None
    assert other.propose() is None


def test_finished_configurations_are_listed_without_budget(tmp_path: Path, journal: Path) -> None:
    """With the budget used up, a run still lists configurations that need no training."""
    spec = read(tmp_path, GRID + "budget: {hours: 1, trials: 4}\n")
    plan = make_plan(spec, FACTS)
    states = {trial.spec.key: TrialState.COMPLETE for trial in plan.trials if trial.configuration.train.arch == "FPN"}
    now_s = 0.0
    search = build(spec, journal, states=states, clock=lambda: now_s)
    now_s = 3600.0
    assert [c.label for c in proposals(search)] == ["FPN-epochs=1", "FPN-epochs=2"]
    assert search.stopped_because == "budget.hours is spent"


def test_a_search_stops_without_improvement(tmp_path: Path, journal: Path) -> None:
    """Three configurations without a better one end it, in this run and the next; a larger limit continues it."""
    mious = iter([0.1, 0.5, 0.2, 0.5, 0.4])
    search = build(read(tmp_path, STOP), journal)
    done = run(search, lambda _: next(mious))
    assert len(done) == 5
    assert search.stopped_because == "stop: no improvement in the last 3 configurations"

    again = build(read(tmp_path, STOP), journal)
    assert len(run(again, lambda _: 0.0)) == 5
    assert again.stopped_because == search.stopped_because

    more = build(read(tmp_path, STOP.replace("3}", "4}")), journal)
    assert len(run(more, lambda _: 0.0)) == 6


def test_a_late_better_result_continues_the_search(tmp_path: Path, journal: Path) -> None:
    """A running configuration may still be better than all before."""
    search = build(read(tmp_path, STOP), journal)
    late, *others = [search.propose() for _ in range(5)]
    for configuration in others:
        assert configuration is not None
        search.tell(configuration, 0.5, COMPLETE)
    assert search.propose() is None
    assert late is not None
    search.tell(late, 0.6, COMPLETE)
    assert search.propose() is not None
    assert search.stopped_because is None


def test_pruned_configurations_are_no_improvement_and_failed_ones_do_not_count(tmp_path: Path, journal: Path) -> None:
    """A failure is no evidence about the space."""
    ends = [(0.5, COMPLETE), (None, FAILED), (None, FAILED), (None, TrialState.PRUNED), (None, FAILED), (0.4, COMPLETE)]
    search = build(read(tmp_path, STOP.replace("3}", "2}")), journal)
    for value, state in ends:
        configuration = search.propose()
        assert configuration is not None
        search.tell(configuration, value, state)
    assert search.propose() is None
    assert len(trials_in(journal)) == len(ends)


@given(values, st.floats(0, 0.5))
def test_the_count_follows_the_last_improvement(mious: list[float | None], min_delta: float) -> None:
    """By definition, a value that beats the best before it by more than the delta resets the count."""
    count = count_since_best(mious, min_delta)
    assert 0 <= count <= len(mious)
    if count < len(mious):
        improvement = mious[len(mious) - count - 1]
        assert improvement is not None
        earlier = [v for v in mious[: len(mious) - count - 1] if v is not None]
        assert improvement > max(earlier, default=-math.inf) or min_delta > 0
        later = [v for v in mious[len(mious) - count :] if v is not None]
        assert all(v <= improvement + min_delta for v in later)


@given(values, st.floats(0, 1))
def test_only_a_better_value_resets_the_count(mious: list[float | None], value: float) -> None:
    """One more value either is the best or adds one to the count."""
    best = max((v for v in mious if v is not None), default=-math.inf)
    expected = 0 if value > best else count_since_best(mious, 0.0) + 1
    assert count_since_best([*mious, value], 0.0) == expected
