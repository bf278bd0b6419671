from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.configuration import Configuration
from orchestrator.search import read_known
from orchestrator.search.search import study_name
from orchestrator.search.storage import open_storage
from orchestrator.search.study import Study
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.search.conftest import (
    COMPLETE,
    CONDITIONAL,
    FACTS,
    FAILED,
    GRID,
    LR,
    build,
    by_rate,
    is_nobody,
    proposals,
    read,
    run,
    trials_in,
)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_the_budget_counts_trainings(tmp_path: Path, storage: Path | str, method: str) -> None:
    """Seven trainings allow three configurations of two seeds."""
    spec = read(tmp_path, LR.format(method=method, trials=7) + "seeds: [0, 1]\n")
    assert len(run(build(spec, storage), by_rate)) == 3


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_finished_search_proposes_nothing_new(tmp_path: Path, storage: Path | str, method: str) -> None:
    """A second run finds everything done; a larger budget adds proposals."""
    first = run(build(read(tmp_path, LR.format(method=method, trials=5)), storage), by_rate)
    again = run(build(read(tmp_path, LR.format(method=method, trials=5)), storage), by_rate)
    more = run(build(read(tmp_path, LR.format(method=method, trials=7)), storage), by_rate)

    assert [c.id for c in again] == [c.id for c in first]
    assert [c.id for c in more[:5]] == [c.id for c in first]
    assert len({c.id for c in more}) == 7
    known = read_known(read(tmp_path, LR.format(method=method, trials=7)), FACTS, storage)
    assert [(c.id, value) for c, value in known] == [(c.id, by_rate(c)) for c in more]


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_an_interrupted_search_proposes_the_same_points(tmp_path: Path, method: str) -> None:
    """Proposals depend on the seed and the results, not on how often the sweep was started."""
    spec = read(tmp_path, CONDITIONAL.format(method=method, trials=14))

    def value(configuration: Configuration) -> float:
        return configuration.train.batch_size / 10

    whole = run(build(spec, tmp_path / "whole.journal"), value)
    for _ in range(7):
        part = build(spec, tmp_path / "parts.journal")
        fresh = {c.id for c, _ in read_known(spec, FACTS, tmp_path / "parts.journal")}
        while (configuration := part.propose()) is not None:
            part.tell(configuration, value(configuration), COMPLETE)
            if configuration.id not in fresh and len(fresh) % 2:
                break
            fresh.add(configuration.id)
    assert [c.id for c, _ in read_known(spec, FACTS, tmp_path / "parts.journal")] == [c.id for c in whole]


def test_conditional_parameters_exist_where_they_should(tmp_path: Path, journal: Path) -> None:
    """Objects come back as objects, and gamma only with focal."""
    done = run(build(read(tmp_path, CONDITIONAL.format(method="tpe", trials=25)), journal), lambda c: c.train.batch_size / 10)
    assert {c.train.loss.name for c in done} == {"focal", "dice", "jaccard"}
    assert all(("loss.gamma" in c.params) == (c.train.loss.name == "focal") for c in done)
    assert all(c.train.batch_size in (2, 4, 6, 8) for c in done)
    assert len({c.id for c in done}) == 25


def test_tpe_learns_from_results(tmp_path: Path, journal: Path) -> None:
    """Its later proposals are better than its first."""
    done = run(build(read(tmp_path, LR.format(method="tpe", trials=40)), journal), by_rate)
    assert sum(map(by_rate, done[-10:])) > sum(map(by_rate, done[:10]))


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_small_space_ends_by_itself(tmp_path: Path, journal: Path, method: str) -> None:
    """Repeated proposals get the known value and cost nothing; an exhausted search says so, also in the next run."""
    spec = read(tmp_path, f"search: {{method: {method}, space: {{arch: [Unet, FPN, PSPNet]}}}}\nbudget: {{trials: 50}}\n")
    search = build(spec, journal)
    done = run(search, lambda _: 0.5)
    assert sorted(c.label for c in done) == ["FPN", "PSPNet", "Unet"]
    assert search.stopped_because is not None
    assert "exhausted" in search.stopped_because

    num_trials = len(trials_in(journal))
    again = build(spec, journal)
    assert len(run(again, lambda _: 0.5)) == 3
    assert again.stopped_because is not None
    assert len(trials_in(journal)) == num_trials


def test_a_search_is_not_exhausted_while_configurations_run(tmp_path: Path, journal: Path) -> None:
    """Running configurations are not proposed again; the search may continue when they end."""
    search = build(read(tmp_path, "search: {method: random, space: {arch: [Unet, FPN]}}\nbudget: {trials: 9}\n"), journal)
    running = list(proposals(search))
    assert sorted(c.label for c in running) == ["FPN", "Unet"]
    assert search.stopped_because is None
    for configuration in running:
        search.tell(configuration, 0.5, COMPLETE)
    assert search.propose() is None
    assert search.stopped_because is not None


def test_a_failed_configuration_is_not_proposed_again(tmp_path: Path, journal: Path) -> None:
    """A failure is a result, and uses budget."""
    spec = read(tmp_path, "search: {method: random, space: {arch: [Unet, FPN]}}\nbudget: {trials: 9}\n")
    search = build(spec, journal)
    for configuration in proposals(search):
        search.tell(configuration, None, FAILED)
    assert [value for _, value in read_known(spec, FACTS, journal)] == [None, None]


def test_configurations_of_a_dead_owner_are_proposed_again_first(tmp_path: Path, storage: Path | str) -> None:
    """A search resumes what ran when its dispatcher was killed."""
    spec = read(tmp_path, LR.format(method="tpe", trials=4))
    first = build(spec, storage, owner="dead")
    finished, left = first.propose(), first.propose()
    assert finished is not None
    assert left is not None
    first.tell(finished, 0.5, COMPLETE)

    second = build(spec, storage, owner="alive", is_dead=lambda owner: owner == "dead")
    second.reconcile()
    done = run(second, by_rate)

    assert [c.id for c in done[:2]] == [finished.id, left.id]
    assert len({c.id for c in done}) == 4
    assert [t.state.name for t in trials_in(storage)].count("RUNNING") == 0


def test_configurations_of_a_dead_owner_in_an_earlier_study_are_requeued(tmp_path: Path, storage: Path | str) -> None:
    """After an edit of the seeds, the sweep's earlier study is reconciled too; another sweep's is not."""
    before = read(tmp_path, LR.format(method="tpe", trials=4))
    build(before, storage, owner="dead").propose()
    build(before.model_copy(update={"name": "another"}), storage, owner="dead").propose()

    after = read(tmp_path, LR.format(method="tpe", trials=4) + "seeds: [0, 1]\n")
    build(after, storage, is_dead=lambda owner: owner == "dead").reconcile()
    assert sorted(t.state.name for t in trials_in(storage)) == ["RUNNING", "WAITING"]


def test_configurations_of_live_owners_are_left_alone(tmp_path: Path, storage: Path | str) -> None:
    """Only those of dead owners are requeued."""
    spec = read(tmp_path, LR.format(method="tpe", trials=4))
    build(spec, storage, owner="other").propose()
    build(spec, storage, owner="me", is_dead=lambda owner: owner == "dead").reconcile()
    assert [t.state.name for t in trials_in(storage)] == ["RUNNING"]


def test_a_stopped_configuration_is_requeued(tmp_path: Path, journal: Path) -> None:
    """WAITING means that the next run resumes it; it costs no more budget."""
    spec = read(tmp_path, LR.format(method="random", trials=2))
    first = build(spec, journal)
    stopped = first.propose()
    assert stopped is not None
    first.tell(stopped, None, TrialState.WAITING)
    again = run(build(spec, journal), by_rate)
    assert again[0].id == stopped.id
    assert len(read_known(spec, FACTS, journal)) == 2


def test_a_resumed_configuration_keeps_its_number(tmp_path: Path, storage: Path | str) -> None:
    """It is the same trial of the study, under its new owner."""
    spec = read(tmp_path, LR.format(method="tpe", trials=2))
    left = build(spec, storage, owner="dead").propose()
    second = build(spec, storage, owner="alive", is_dead=lambda owner: owner == "dead")
    second.reconcile()
    assert [t.state.name for t in trials_in(storage)] == ["WAITING"]

    assert second.propose() == left
    assert [(t.state.name, t.user_attrs["owner"]) for t in trials_in(storage)] == [("RUNNING", "alive")]


def test_nothing_runs_after_a_search_was_closed(tmp_path: Path, storage: Path | str) -> None:
    """A dispatcher's unfinished configurations wait; those of others keep running."""
    spec = read(tmp_path, LR.format(method="random", trials=3))
    first, other = build(spec, storage, owner="first"), build(spec, storage, owner="other")
    first.propose()
    other.propose()
    first.close()
    assert [t.state.name for t in trials_in(storage)] == ["WAITING", "RUNNING"]


def test_a_result_counts_after_its_configuration_was_requeued(tmp_path: Path, storage: Path | str) -> None:
    """A dispatcher that takes over a trial may finish it before anybody proposes it again."""
    spec = read(tmp_path, GRID)
    one = build(spec, storage, owner="dead")
    configuration = one.propose()
    assert configuration is not None
    build(spec, storage, is_dead=lambda owner: owner == "dead").reconcile()

    one.tell(configuration, 0.5, COMPLETE)
    assert [(t.state.name, t.value) for t in trials_in(storage)] == [("COMPLETE", 0.5)]


def test_proposals_of_other_dispatchers_come_last(tmp_path: Path, journal: Path) -> None:
    """Each of two dispatchers sees the whole sweep, so either can take over from the other."""
    spec = read(tmp_path, LR.format(method="random", trials=4))
    one, other = build(spec, journal, owner="one"), build(spec, journal, owner="other")
    of_one = [one.propose() for _ in range(2)]
    of_other = list(proposals(other))
    assert [c.id for c in of_other[2:]] == [c.id for c in of_one if c]
    assert [c.id for c in proposals(one)] == [c.id for c in of_other[:2]]
    assert len(trials_in(journal)) == 4


def test_a_requeued_trial_may_be_asked_for_again(tmp_path: Path, journal: Path) -> None:
    """One dispatcher may requeue a trial just before the other asks for a new one."""
    spec = read(tmp_path, LR.format(method="random", trials=4))
    search = build(spec, journal)
    configuration = search.propose()
    assert configuration is not None
    study = Study(open_storage(journal), name=study_name(spec, FACTS), owner="other", sweep="s", rounds="", is_dead=is_nobody)
    search.tell(configuration, None, TrialState.WAITING)

    assert study.claim(study.ask(), configuration)
    assert [(t.state.name, t.user_attrs["owner"]) for t in trials_in(journal)] == [("RUNNING", "other")]
