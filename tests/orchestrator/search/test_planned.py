from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from orchestrator.search.storage import open_storage
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.search.conftest import COMPLETE, FAILED, GRID, build, proposals, read, run, trials_in


def test_a_grid_is_proposed_in_its_order_and_recorded(tmp_path: Path, storage: Path | str) -> None:
    """Each point once, and the study holds the same values."""
    done = run(build(read(tmp_path, GRID), storage), lambda c: c.train.epochs / 10)

    assert [c.label for c in done] == ["Unet-epochs=1", "Unet-epochs=2", "FPN-epochs=1", "FPN-epochs=2"]
    recorded = trials_in(storage)
    assert [(t.params, t.value, t.user_attrs["owner"]) for t in recorded] == [
        ({"arch": a, "epochs": e}, e / 10, "me") for a in ("Unet", "FPN") for e in (1, 2)
    ]


def test_a_second_run_proposes_everything_again_and_records_nothing_twice(tmp_path: Path, storage: Path | str) -> None:
    """Finished configurations are listed again; the study does not change."""
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
    """Both work on the same proposals; the first reported outcome counts."""
    spec = read(tmp_path, GRID)
    one, other = build(spec, storage, owner="one"), build(spec, storage, owner="other")
    for configuration in proposals(one):
        assert other.propose() == configuration
        other.tell(configuration, 0.5, COMPLETE)
        one.tell(configuration, 0.7, COMPLETE)
    assert [(t.value, t.user_attrs["owner"]) for t in trials_in(storage)] == [(0.5, "one")] * 4


def test_a_pruned_configuration_is_pruned_there_too(tmp_path: Path, journal: Path) -> None:
    """The study records it as PRUNED."""
    search = build(read(tmp_path, "base: {epochs: 1}\n"), journal)
    for configuration in proposals(search):
        search.tell(configuration, None, TrialState.PRUNED)
    assert [t.state.name for t in trials_in(journal)] == ["PRUNED"]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_complete_configuration_needs_a_value(tmp_path: Path, journal: Path, value: float | None) -> None:
    """Only finite numbers reach the sampler."""
    search = build(read(tmp_path, "base: {epochs: 1}\n"), journal)
    configuration = search.propose()
    assert configuration is not None
    with pytest.raises(ValueError, match="needs a finite value"):
        search.tell(configuration, value, COMPLETE)


def test_two_records_of_one_configuration_both_end(tmp_path: Path, storage: Path | str) -> None:
    """The unreported trial gets the other's value: at once if the other has it, else in the next run."""
    spec = read(tmp_path, "base: {epochs: 1}\n")
    mine, theirs = build(spec, storage), build(spec, storage, owner="they")
    [configuration] = proposals(mine)
    [first] = trials_in(storage)
    opened = open_storage(storage)
    [study] = optuna.get_all_study_names(opened)
    # as they would have, had they looked before I wrote
    again = optuna.trial.create_trial(state=OptunaState.RUNNING, user_attrs={**first.user_attrs, "owner": "they"})
    optuna.load_study(study_name=study, storage=opened).add_trial(again)
    mine.close()
    assert [t.state for t in trials_in(storage)] == [OptunaState.WAITING, OptunaState.RUNNING]
    theirs.tell(configuration, 0.25, COMPLETE)
    theirs.close()
    build(spec, storage).reconcile()
    assert [(t.state, t.value) for t in trials_in(storage)] == [(OptunaState.COMPLETE, 0.25)] * 2
