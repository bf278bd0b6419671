"""Reports of trials: across kills, dispatchers and seeds, and from trial folders."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from orchestrator.planning.configuration import Configuration
from orchestrator.planning.plan import make_plan, plan_trials
from orchestrator.search import StudySearch, read_epochs
from orchestrator.search.pruning import History
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialSpec, TrialState
from tests.orchestrator.search.conftest import COMPLETE, FACTS, build, read, run, trials_in

GRID = "search: {method: grid, space: {batch_size: [2, 3, 4, 5]}}\nbase: {epochs: 9}\n"
MEDIAN = GRID + "pruner: {name: median, options: {n_startup_trials: 1}}\n"
RANDOM = "search: {method: random, space: {batch_size: {low: 2, high: 900}}}\nbudget: {trials: 9}\nbase: {epochs: 9}\n"


def take(search: StudySearch, spec: SweepSpec) -> tuple[Configuration, list[TrialSpec]]:
    """The next proposal and its trials."""
    configuration = search.propose()
    assert configuration is not None
    return configuration, [planned.spec for planned in plan_trials(configuration, spec, FACTS)]


def train(search: StudySearch, spec: SweepSpec, mious: list[float]) -> bool:
    """Run the next configuration's first trial epoch by epoch; whether it was pruned."""
    configuration, trials = take(search, spec)
    for epoch, miou in enumerate(mious, start=1):
        if search.report(trials[0], epoch, miou):
            search.tell(configuration, None, TrialState.PRUNED)
            return True
    search.tell(configuration, max(mious), COMPLETE)
    return False


def history_of(epochs: Mapping[str, Mapping[int, float]]) -> History:
    """Epochs by the trial's key."""
    return lambda trial: epochs.get(trial.key, {})


def test_without_a_pruner_nothing_is_recorded(tmp_path: Path, journal: Path) -> None:
    """Nothing is pruned either."""
    spec = read(tmp_path, GRID)
    assert not train(build(spec, journal), spec, [0.1, 0.2])
    assert trials_in(journal)[0].intermediate_values == {}


def test_a_pruned_configuration_keeps_its_reports(tmp_path: Path, storage: Path | str) -> None:
    """The sampler learns from its last value."""
    spec = read(tmp_path, MEDIAN)
    search = build(spec, storage)
    assert not train(search, spec, [0.4, 0.6])
    assert train(search, spec, [0.5, 0.5, 0.9])
    pruned = trials_in(storage)[1]
    assert (pruned.state.name, pruned.value, pruned.intermediate_values) == ("PRUNED", 0.5, {1: 0.5, 2: 0.5})


def test_reports_may_be_repeated(tmp_path: Path, journal: Path) -> None:
    """The first report of an epoch counts; later ones are ignored without a warning."""
    spec = read(tmp_path, MEDIAN)
    search = build(spec, journal)
    _, [trial] = take(search, spec)
    for miou in (0.3, 0.9):
        assert not search.report(trial, 1, miou)
    assert trials_in(journal)[0].intermediate_values == {1: 0.3}


def test_a_resumed_trial_continues_its_reports(tmp_path: Path, storage: Path | str) -> None:
    """With and without a kill, it is pruned at the same epoch."""
    spec = read(tmp_path, MEDIAN)
    first = build(spec, storage, owner="dead")
    train(first, spec, [0.4, 0.5, 0.6])
    configuration, [trial] = take(first, spec)
    assert not any(first.report(trial, epoch, 0.5) for epoch in (1, 2))

    states = {planned.spec.key: COMPLETE for planned in make_plan(spec, FACTS).trials[:1]}
    second = build(spec, storage, owner="alive", is_dead=lambda owner: owner == "dead", states=states)
    second.reconcile()
    take(second, spec)
    assert take(second, spec)[0] == configuration
    assert not second.report(trial, 2, 0.5)  # trained again from the checkpoint of epoch 1
    assert second.report(trial, 3, 0.5)
    assert trials_in(storage)[1].intermediate_values == {1: 0.5, 2: 0.5, 3: 0.5}


def test_a_decision_outlives_its_dispatcher(tmp_path: Path, journal: Path) -> None:
    """A configuration stays pruned after a kill between the decision and its end."""
    spec = read(tmp_path, MEDIAN)
    first = build(spec, journal, owner="dead")
    train(first, spec, [0.6])
    _, [trial] = take(first, spec)
    assert first.report(trial, 1, 0.1)

    second = build(spec, journal, is_dead=lambda owner: owner == "dead")
    second.reconcile()
    for _ in range(2):
        take(second, spec)
    assert second.report(trial, 2, 0.9)


def test_unreported_epochs_are_read_from_the_folder(tmp_path: Path, journal: Path) -> None:
    """Epochs that a dead dispatcher did not report count, each in its order."""
    spec = read(tmp_path, MEDIAN)
    _, second = (planned.spec for planned in make_plan(spec, FACTS).trials[:2])
    search = build(spec, journal, history=history_of({second.key: {1: 0.5, 2: 0.1, 3: 0.1, 9: 0.1}}))
    train(search, spec, [0.4, 0.6, 0.6, 0.6])
    take(search, spec)
    assert search.report(second, 4, 0.9)
    assert trials_in(journal)[1].intermediate_values == {1: 0.5, 2: 0.1}


def test_a_cached_trial_takes_part_in_comparisons(tmp_path: Path, journal: Path) -> None:
    """A trial of another sweep brings its history along, so that there is a median."""
    spec = read(tmp_path, MEDIAN)
    done = make_plan(spec, FACTS).trials[0].spec
    search = build(spec, journal, states={done.key: COMPLETE}, history=history_of({done.key: {1: 0.5, 2: 0.6}}))
    configuration, [trial] = take(search, spec)
    search.report_end(trial, 0.6)
    search.tell(configuration, 0.6, TrialState.CACHED)
    assert [(t.state.name, t.intermediate_values) for t in trials_in(journal)] == [("COMPLETE", {1: 0.5, 2: 0.6})]
    assert train(search, spec, [0.4])


def test_a_changed_pruner_knows_the_earlier_reports(tmp_path: Path, journal: Path) -> None:
    """Its new study copies complete trials with their histories, and no pruned ones."""
    first = read(tmp_path, RANDOM + "pruner: {name: median, options: {n_startup_trials: 1}}\n")
    search = build(first, journal)
    train(search, first, [0.5, 0.6])
    assert train(search, first, [0.4])
    second = read(tmp_path, RANDOM + "pruner: {name: ThresholdPruner, options: {lower: 0.45}}\n")
    build(second, journal)
    assert [(t.state.name, t.intermediate_values) for t in trials_in(journal)[2:]] == [("COMPLETE", {1: 0.5, 2: 0.6})]


def test_a_retried_trial_keeps_its_new_history(tmp_path: Path, journal: Path) -> None:
    """Others are compared with it as with any trial."""
    spec = read(tmp_path, MEDIAN)
    search = build(spec, journal)
    configuration, _ = take(search, spec)
    search.tell(configuration, None, TrialState.FAILED, reason="out of memory")
    again = build(spec, journal)
    train(again, spec, [0.3, 0.4])
    found = [(t.state.name, t.user_attrs.get("reason"), t.intermediate_values) for t in trials_in(journal)]
    assert found == [("FAIL", "out of memory", {}), ("COMPLETE", None, {1: 0.3, 2: 0.4})]


@pytest.mark.parametrize("method", ["random", "tpe", "BruteForceSampler", "NSGAIISampler", "QMCSampler"])
def test_samplers_work_within_the_brackets_of_hyperband(tmp_path: Path, journal: Path, method: str) -> None:
    """Hyperband shows a sampler only the trials of its own bracket."""
    spec = read(tmp_path, RANDOM.replace("random", method) + "pruner: {name: hyperband, options: {max_resource: 9}}\n")
    search = build(spec, journal)
    decisions = [train(search, spec, [i / 20] * 8) for i in range(9)]
    assert len({t.user_attrs["configuration"]["id"] for t in trials_in(journal)}) == len(decisions) == 9


def test_the_first_seed_decides_for_all(tmp_path: Path, journal: Path) -> None:
    """The other seeds' epochs are not compared, and the other seeds are pruned too."""
    spec = read(tmp_path, MEDIAN + "seeds: [0, 1]\n")
    search = build(spec, journal)
    train(search, spec, [0.5, 0.6])
    _, [first, second] = take(search, spec)
    assert not search.report(second, 1, 0.1)
    assert search.report(first, 1, 0.1)
    assert search.report(second, 2, 0.9)
    assert trials_in(journal)[1].intermediate_values == {1: 0.1}


def test_a_finished_training_is_not_pruned(tmp_path: Path, journal: Path) -> None:
    """Unless pruning saves other seeds of the configuration."""
    spec = read(tmp_path, MEDIAN.replace("epochs: 9", "epochs: 2"))
    search = build(spec, journal)
    train(search, spec, [0.4, 0.6])
    assert not train(search, spec, [0.5, 0.5])

    spec = read(tmp_path, MEDIAN.replace("epochs: 9", "epochs: 2") + "seeds: [0, 1]\n")
    search = build(spec, journal)
    train(search, spec, [0.4, 0.6])
    assert train(search, spec, [0.5, 0.5])


def test_a_cached_first_seed_decides_too(tmp_path: Path, journal: Path) -> None:
    """The history of the first seed decides whether the other seeds are trained."""
    spec = read(tmp_path, MEDIAN + "seeds: [0, 1]\n")
    bad = next(p.spec for p in make_plan(spec, FACTS).trials if p.spec.train.batch_size == 3)
    search = build(spec, journal, states={bad.key: COMPLETE}, history=history_of({bad.key: {1: 0.1, 2: 0.2}}))
    train(search, spec, [0.5, 0.6])
    take(search, spec)
    assert search.report_end(bad, 0.2)


def test_dispatchers_share_reports_and_decisions(tmp_path: Path, storage: Path | str) -> None:
    """Two dispatchers compare with each other's trials; what one prunes, the other stops."""
    spec = read(tmp_path, MEDIAN + "seeds: [0, 1]\n")
    one, other = build(spec, storage, owner="one"), build(spec, storage, owner="other")
    train(one, spec, [0.5, 0.6])
    take(other, spec)
    _, [first, second] = take(one, spec)
    take(other, spec)
    assert not other.report(second, 1, 0.9)
    assert one.report(first, 1, 0.1)
    assert other.report(second, 2, 0.9)


def test_epochs_are_read_from_the_trials_folder(tmp_path: Path) -> None:
    """Of an epoch that was trained twice, the last counts; a trial without a folder has none."""
    spec = read(tmp_path, GRID)
    trial = make_plan(spec, FACTS).trials[0].spec
    home = Home(root=tmp_path)
    assert read_epochs(home, trial) == {}

    folder = TrialFolder(home.trial_folder(trial.key))
    folder.create(trial)
    for attempt, epoch, value in ((1, 1, 0.1), (1, 2, 0.2), (2, 2, 0.25), (2, 3, 0.3)):
        folder.append(Event(kind="epoch", time_s=0, attempt=attempt, epoch=epoch, metrics={"val/miou": value}))
    assert read_epochs(home, trial) == {1: 0.1, 2: 0.25, 3: 0.3}


def _report(folder: Path, index: int, both: Barrier) -> None:
    spec = load_spec(folder / "s.yaml")
    search = build(spec, folder / "optuna.journal", owner=f"owner{index}")
    taken = [take(search, spec) for _ in range(4)]
    both.wait(60)
    _, [trial] = taken[index]
    for epoch in range(1, 9):
        search.report(trial, epoch, index / 10 + epoch / 100)
    search.tell(taken[index][0], 0.5, COMPLETE)


def test_processes_report_to_one_journal(tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each report is recorded once, at its step, even if both processes add the same configuration at the same moment."""
    spec = read(tmp_path, GRID + "pruner: {name: NopPruner}\n")
    run(build(spec.model_copy(update={"name": "another"}), journal), lambda _: 0.5)
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # by which a fresh process finds this module
    context = multiprocessing.get_context("spawn")
    both = context.Barrier(2)
    workers = [context.Process(target=_report, args=(tmp_path, i, both)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = [t.intermediate_values for t in trials_in(journal) if t.intermediate_values]
    assert sorted(found, key=lambda steps: steps[1]) == [{e: i / 10 + e / 100 for e in range(1, 9)} for i in range(2)]
