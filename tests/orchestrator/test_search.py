from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from orchestrator.configuration import Configuration, DataFacts, Facts, source_part
from orchestrator.errors import TrackingError
from orchestrator.parts import Search
from orchestrator.plan import make_plan
from orchestrator.search import PlannedSearch, SampledSearch, build_search, read_known
from orchestrator.search.study import open_storage
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.trial import TrialState
from trainers.config import DataConfig

FACTS = Facts(
    data={source_part(DataConfig()): DataFacts("f" * 16, Path("prepared"), 16, 64, 128, 1, 5, ("a", "b", "c", "d", "e"))}
)
GRID = "search: {method: grid, space: {arch: [Unet, FPN], epochs: [1, 2]}}\n"
LR = "search: {{method: {method}, space: {{optimizer.lr: {{low: 1e-4, high: 1e-1, log: true}}}}}}\nbudget: {{trials: {trials}}}\n"
CONDITIONAL = """
search:
  method: {method}
  space:
    loss: [{{name: focal}}, {{name: dice}}, {{name: jaccard}}]
    loss.gamma: {{low: 0.5, high: 4, when: {{loss.name: focal}}}}
    batch_size: {{low: 2, high: 8, step: 2}}
budget: {{trials: {trials}}}
"""
COMPLETE, FAILED = TrialState.COMPLETE, TrialState.FAILED


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Each kind of storage."""
    return tmp_path / "optuna.journal" if request.param == "journal" else f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The storage of one machine."""
    return tmp_path / "optuna.journal"


def read(folder: Path, text: str, name: str = "s.yaml") -> SweepSpec:
    """Write a sweep file and read it."""
    (folder / name).write_text(text)
    return load_spec(folder / name)


def is_nobody(_: str) -> bool:
    """No owner is dead."""
    return False


def build(
    spec: SweepSpec,
    storage: Path | str,
    *,
    owner: str = "me",
    is_dead: Callable[[str], bool] = is_nobody,
    clock: Callable[[], float] = lambda: 0.0,
) -> PlannedSearch | SampledSearch:
    """A search over a sweep as a new run of it would have it."""
    known = [configuration for configuration, _ in read_known(spec, FACTS, storage)]
    plan = make_plan(spec, FACTS, {}, known=known)
    return build_search(spec, plan, storage, owner=owner, is_dead=is_dead, clock=clock)


def proposals(search: Search) -> Iterator[Configuration]:
    """What is proposed until there is nothing more."""
    while (configuration := search.propose()) is not None:
        yield configuration


def run(search: Search, value_of: Callable[[Configuration], float]) -> list[Configuration]:
    """Propose and tell to the end."""
    done = []
    for configuration in proposals(search):
        search.tell(configuration, value_of(configuration), COMPLETE)
        done.append(configuration)
    return done


def by_rate(configuration: Configuration) -> float:
    """Best at a rate of 0.01."""
    return 1 - abs(configuration.train.optimizer.lr - 0.01)


def trials_in(storage: Path | str) -> list[optuna.trial.FrozenTrial]:
    """All trials of all studies."""
    opened = open_storage(storage)
    names = optuna.get_all_study_names(opened)
    return [trial for name in names for trial in optuna.load_study(study_name=name, storage=opened).get_trials()]


# ------------------------------------------------------------------------------------- fixed plans


def test_a_grid_is_proposed_in_its_order_and_recorded(tmp_path: Path, storage: Path | str) -> None:
    """Each point once, and the study holds the same values."""
    done = run(build(read(tmp_path, GRID), storage), lambda c: c.train.epochs / 10)

    assert [c.label for c in done] == ["Unet-epochs=1", "Unet-epochs=2", "FPN-epochs=1", "FPN-epochs=2"]
    recorded = trials_in(storage)
    assert [(t.params, t.value, t.user_attrs["owner"]) for t in recorded] == [
        ({"arch": a, "epochs": e}, e / 10, "me") for a in ("Unet", "FPN") for e in (1, 2)
    ]


def test_a_second_run_proposes_all_again_and_records_nothing_twice(tmp_path: Path, storage: Path | str) -> None:
    """What is done already is shown again; the study stays as it is."""
    spec = read(tmp_path, GRID)
    run(build(spec, storage), lambda _: 0.5)
    again = build(spec, storage, owner="later")

    for configuration in proposals(again):
        again.tell(configuration, 0.5, TrialState.CACHED)

    assert [t.user_attrs["owner"] for t in trials_in(storage)] == ["me"] * 4


def test_rows_that_differ_in_their_seed_are_two_trials(tmp_path: Path, journal: Path) -> None:
    """One configuration trained twice is in the study twice."""
    search = build(read(tmp_path, "rows:\n  - {id: 8, seed: 0}\n  - {id: 9, seed: 1}\n"), journal)
    assert [c.label for c in run(search, lambda _: 0.5)] == ["row 8", "row 9"]
    assert [t.params for t in trials_in(journal)] == [{"row": "8"}, {"row": "9"}]


def test_base_alone_is_one_configuration(tmp_path: Path, journal: Path) -> None:
    """A sweep without a search has a study of one trial."""
    assert len(run(build(read(tmp_path, "seeds: [0, 1]\n"), journal), lambda _: 0.5)) == 1
    assert [t.value for t in trials_in(journal)] == [0.5]


def test_a_failed_configuration_that_succeeds_later_counts(tmp_path: Path, storage: Path | str) -> None:
    """A retry's value is recorded beside the failure."""
    spec = read(tmp_path, "base: {epochs: 1}\n")
    first = build(spec, storage)
    for configuration in proposals(first):
        first.tell(configuration, None, FAILED)
    second = build(spec, storage)
    run(second, lambda _: 0.25)

    assert [(t.state.name, t.value) for t in trials_in(storage)] == [("FAIL", None), ("COMPLETE", 0.25)]


def test_two_dispatchers_share_one_record(tmp_path: Path, storage: Path | str) -> None:
    """What one has proposed, the other attaches to; whoever tells first is right."""
    spec = read(tmp_path, GRID)
    one, other = build(spec, storage, owner="one"), build(spec, storage, owner="other")
    for configuration in proposals(one):
        assert other.propose() == configuration
        other.tell(configuration, 0.5, COMPLETE)
        one.tell(configuration, 0.7, COMPLETE)
    assert [(t.value, t.user_attrs["owner"]) for t in trials_in(storage)] == [(0.5, "one")] * 4


def test_a_pruned_configuration_is_pruned_there_too(tmp_path: Path, journal: Path) -> None:
    """Optuna's word for it is the same."""
    search = build(read(tmp_path, "base: {epochs: 1}\n"), journal)
    for configuration in proposals(search):
        search.tell(configuration, None, TrialState.PRUNED)
    assert [t.state.name for t in trials_in(journal)] == ["PRUNED"]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_complete_configuration_needs_a_value(tmp_path: Path, journal: Path, value: float | None) -> None:
    """Nothing that is no number reaches the sampler."""
    search = build(read(tmp_path, "base: {epochs: 1}\n"), journal)
    configuration = search.propose()
    assert configuration is not None
    with pytest.raises(ValueError, match="needs a finite value"):
        search.tell(configuration, value, COMPLETE)


# ------------------------------------------------------------------------------------ open-ended


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_the_budget_counts_trainings(tmp_path: Path, storage: Path | str, method: str) -> None:
    """Seven trainings are three configurations of two seeds."""
    spec = read(tmp_path, LR.format(method=method, trials=7) + "seeds: [0, 1]\n")
    assert len(run(build(spec, storage), by_rate)) == 3


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_finished_search_proposes_what_it_knows_and_nothing_new(tmp_path: Path, storage: Path | str, method: str) -> None:
    """Running it again finds everything done; a larger budget adds to it."""
    first = run(build(read(tmp_path, LR.format(method=method, trials=5)), storage), by_rate)
    again = run(build(read(tmp_path, LR.format(method=method, trials=5)), storage), by_rate)
    more = run(build(read(tmp_path, LR.format(method=method, trials=7)), storage), by_rate)

    assert [c.id for c in again] == [c.id for c in first]
    assert [c.id for c in more[:5]] == [c.id for c in first]
    assert len({c.id for c in more}) == 7
    known = read_known(read(tmp_path, LR.format(method=method, trials=7)), FACTS, storage)
    assert [(c.id, value) for c, value in known] == [(c.id, by_rate(c)) for c in more]


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_an_interrupted_search_goes_on_as_it_would_have(tmp_path: Path, method: str) -> None:
    """Proposals depend on the seed and on what is known, not on how often the sweep was started."""
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
    """Objects come back as objects, and gamma with focal only."""
    done = run(build(read(tmp_path, CONDITIONAL.format(method="tpe", trials=25)), journal), lambda c: c.train.batch_size / 10)
    assert {c.train.loss.name for c in done} == {"focal", "dice", "jaccard"}
    assert all(("loss.gamma" in c.params) == (c.train.loss.name == "focal") for c in done)
    assert all(c.train.batch_size in (2, 4, 6, 8) for c in done)
    assert len({c.id for c in done}) == 25


def test_tpe_learns_from_what_it_is_told(tmp_path: Path, journal: Path) -> None:
    """Its later proposals are better than its first."""
    done = run(build(read(tmp_path, LR.format(method="tpe", trials=40)), journal), by_rate)
    assert sum(map(by_rate, done[-10:])) > sum(map(by_rate, done[:10]))


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_small_space_ends_by_itself(tmp_path: Path, journal: Path, method: str) -> None:
    """Repetitions get the known value and cost nothing; when nothing new comes, the search says so, also the next time."""
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


def test_nothing_new_while_all_is_running_is_no_exhaustion(tmp_path: Path, journal: Path) -> None:
    """What is under way is not proposed again, and the search may go on when it has ended."""
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


def test_what_a_dead_owner_left_is_proposed_again_first(tmp_path: Path, storage: Path | str) -> None:
    """A search goes on with what was under way when its dispatcher was killed."""
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


def test_what_a_dead_owner_left_in_an_earlier_space_is_ended(tmp_path: Path, storage: Path | str) -> None:
    """After an edit of the seeds another study is in use; the sweep's earlier one is reconciled too, another sweep's not."""
    before = read(tmp_path, LR.format(method="tpe", trials=4))
    build(before, storage, owner="dead").propose()
    build(before.model_copy(update={"name": "another"}), storage, owner="dead").propose()

    after = read(tmp_path, LR.format(method="tpe", trials=4) + "seeds: [0, 1]\n")
    build(after, storage, is_dead=lambda owner: owner == "dead").reconcile()
    assert sorted(t.state.name for t in trials_in(storage)) == ["FAIL", "RUNNING"]


def test_what_the_living_run_is_left_alone(tmp_path: Path, storage: Path | str) -> None:
    """Reconciling takes from the dead only."""
    spec = read(tmp_path, LR.format(method="tpe", trials=4))
    build(spec, storage, owner="other").propose()
    build(spec, storage, owner="me", is_dead=lambda owner: owner == "dead").reconcile()
    assert [t.state.name for t in trials_in(storage)] == ["RUNNING"]


def test_a_stopped_configuration_is_given_back(tmp_path: Path, journal: Path) -> None:
    """WAITING means that the next run goes on with it; it costs no more budget."""
    spec = read(tmp_path, LR.format(method="random", trials=2))
    first = build(spec, journal)
    stopped = first.propose()
    assert stopped is not None
    first.tell(stopped, None, TrialState.WAITING)
    again = run(build(spec, journal), by_rate)
    assert again[0].id == stopped.id
    assert len(read_known(spec, FACTS, journal)) == 2


def test_hours_end_a_run_and_not_the_sweep(tmp_path: Path, journal: Path) -> None:
    """Nothing is proposed once the time is over; the next run has new time."""
    spec = read(tmp_path, GRID + "budget: {hours: 1}\n")
    now_s = 0.0
    search = build(spec, journal, clock=lambda: now_s)
    assert search.propose() is not None
    now_s = 3600.0
    assert search.propose() is None
    assert search.stopped_because == "budget.hours is spent"
    assert build(spec, journal, clock=lambda: now_s).propose() is not None


# --------------------------------------------------------------------------------- changed files


def test_a_changed_space_starts_a_study_that_knows_what_still_fits(tmp_path: Path, storage: Path | str) -> None:
    """Results of the earlier space are adopted where they are points of the new one, and cost their share of the budget."""
    before = read(tmp_path, "search: {method: random, space: {epochs: [1, 2, 3, 4]}}\nbudget: {trials: 4}\n")
    run(build(before, storage), lambda c: c.train.epochs / 10)
    after = read(tmp_path, "search: {method: random, space: {epochs: [3, 4, 5]}}\nbudget: {trials: 3}\n")
    build(after, storage)

    assert sorted((c.train.epochs, value) for c, value in read_known(after, FACTS, storage)) == [(3, 0.3), (4, 0.4)]


def test_a_changed_base_starts_afresh(tmp_path: Path, journal: Path) -> None:
    """Values of another training are no values of this one."""
    space = "search: {method: random, space: {epochs: [1, 2]}}\nbudget: {trials: 50}\n"
    run(build(read(tmp_path, space), journal), lambda _: 0.5)
    after = read(tmp_path, space + "base: {batch_size: 2}\n")
    build(after, journal)
    assert read_known(after, FACTS, journal) == ()


def test_other_seeds_start_afresh(tmp_path: Path, journal: Path) -> None:
    """A mean over other seeds is another value."""
    space = "search: {method: random, space: {epochs: [1, 2]}}\nbudget: {trials: 50}\n"
    run(build(read(tmp_path, space), journal), lambda _: 0.5)
    after = read(tmp_path, space + "seeds: [0, 1]\n")
    build(after, journal)
    assert read_known(after, FACTS, journal) == ()


def test_looking_changes_nothing(tmp_path: Path, journal: Path) -> None:
    """A plan reads the study without making one."""
    assert read_known(read(tmp_path, LR.format(method="tpe", trials=4)), FACTS, journal) == ()
    assert not journal.exists()


# ------------------------------------------------------------------------------------- the storage


def test_a_torn_line_in_the_journal_is_dropped(tmp_path: Path, journal: Path) -> None:
    """What a machine left half written does not stop the next run."""
    spec = read(tmp_path, GRID)
    run(build(spec, journal), lambda _: 0.5)
    with open(journal, "ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert len(run(build(spec, journal), lambda _: 0.5)) == 4
    assert len(trials_in(journal)) == 4


def test_a_killed_holder_does_not_keep_the_journal_locked(tmp_path: Path, journal: Path) -> None:
    """The lock goes with the process."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom orchestrator.search.study import _KernelLock\n"
        "_KernelLock(Path(sys.argv[1])).acquire()\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(journal)], check=False)
    assert done.returncode == -9
    assert build(read(tmp_path, GRID), journal).propose() is not None


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    """The message says which storage, and keeps the secret."""
    url = f"sqlite:///{tmp_path}/no/such/folder.db"
    with pytest.raises(TrackingError, match=r"no/such/folder\.db: .*ORCHESTRATE_STORAGE"):
        open_storage(url)
    with pytest.raises(TrackingError) as caught:
        open_storage("nosuchdialect://me:secret@host/db")
    assert "secret" not in str(caught.value)


def _work(folder: Path, owner: str) -> None:
    search = build(load_spec(folder / "s.yaml"), folder / "optuna.journal", owner=owner)
    run(search, lambda c: c.train.epochs / 10)


def test_processes_side_by_side_leave_one_consistent_study(
    tmp_path: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on one search: every proposal is told, and the budget holds but for what was under way."""
    spec = read(tmp_path, "search: {method: random, space: {epochs: {low: 1, high: 500}}}\nbudget: {trials: 20}\n")
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # by which a fresh process finds this module
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(tmp_path, f"owner{i}")) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    known = read_known(spec, FACTS, journal)
    assert 20 <= len(known) <= 21
    assert all(value == c.train.epochs / 10 for c, value in known)
