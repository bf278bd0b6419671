from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.dispatch.summary import PlanReport, summarize_plan
from orchestrator.errors import SpecError
from orchestrator.planning.configuration import DataFacts, Facts, resolve, source_part
from orchestrator.planning.plan import Plan, longest_first, make_plan
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.state.trial.records import TrialState
from trainers.config import DataConfig

GRID = "search: {method: grid, space: {arch: [Unet, FPN]}}\n"


def read(folder: Path, text: str) -> SweepSpec:
    """Write a sweep file and read it."""
    (folder / "sweep.yaml").write_text(text)
    return load_spec(folder / "sweep.yaml")


def facts(*sets: DataConfig) -> Facts:
    """The same facts of the default set and of ``sets``."""
    known = DataFacts("f" * 16, Path("prepared"), 16, 64, 128, 5, ("a", "b", "c", "d", "e"))
    return Facts(data={source_part(data): known for data in (DataConfig(), *sets)})


def plan(spec: SweepSpec, states: Sequence[tuple[str, TrialState]] = ()) -> Plan:
    """The plan of a sweep on the default data."""
    return make_plan(spec, facts()).with_states(dict(states))


def test_all_configurations_come_with_the_first_seed_first(tmp_path: Path) -> None:
    """An interrupted sweep has covered every configuration once."""
    made = plan(read(tmp_path, GRID + "seeds: [4, 2]\n"))
    assert [t.spec.name for t in made.trials] == ["Unet seed 4", "FPN seed 4", "Unet seed 2", "FPN seed 2"]


def test_folds_of_one_seed_stay_together(tmp_path: Path) -> None:
    """A configuration's out-of-fold predictions are complete before the next configuration starts."""
    made = plan(read(tmp_path, GRID + "folds: 2\n"))
    assert [t.spec.name for t in made.trials] == ["Unet fold 1/2", "Unet fold 2/2", "FPN fold 1/2", "FPN fold 2/2"]
    assert len({t.spec.key for t in made.trials}) == 4
    assert len({t.spec.configuration for t in made.trials}) == 2


def test_one_seed_is_not_named(tmp_path: Path) -> None:
    """Names contain only what differs between trials."""
    assert [t.spec.name for t in plan(read(tmp_path, GRID)).trials] == ["Unet", "FPN"]


def test_a_file_without_search_and_rows_trains_base(tmp_path: Path) -> None:
    """One configuration, each seed."""
    made = plan(read(tmp_path, "seeds: [0, 1, 2]\nbase: {epochs: 4}\n"))
    assert [t.spec.name for t in made.trials] == [f"Unet-mobilenet_v2 seed {seed}" for seed in (0, 1, 2)]


def test_rows_run_their_own_seed_or_all(tmp_path: Path) -> None:
    """A row's seed replaces the sweep's."""
    made = plan(read(tmp_path, "seeds: [0, 1]\nrows:\n  - {id: 8, seed: 5}\n  - {id: 9, epochs: 2}\n"))
    assert [t.spec.name for t in made.trials] == ["row 8 seed 5", "row 9 seed 0", "row 9 seed 1"]


def test_what_is_complete_is_cached_and_the_rest_keeps_its_state(tmp_path: Path) -> None:
    """Trials without a known state are WAITING."""
    spec = read(tmp_path, GRID + "seeds: [0, 1]\n")
    keys = [t.spec.key for t in plan(spec).trials]
    made = plan(spec, [(keys[0], TrialState.COMPLETE), (keys[1], TrialState.FAILED), (keys[2], TrialState.RUNNING)])
    assert [t.state for t in made.trials] == [TrialState.CACHED, TrialState.FAILED, TrialState.RUNNING, TrialState.WAITING]


def test_a_budget_takes_whole_configurations(tmp_path: Path) -> None:
    """A configuration that does not fit with all its seeds is left out."""
    made = plan(read(tmp_path, GRID + "seeds: [0, 1]\nbudget: {trials: 3}\n"))
    assert [t.spec.name for t in made.trials] == ["Unet seed 0", "Unet seed 1"]


def test_what_a_budget_leaves_out_is_shown(tmp_path: Path) -> None:
    """The number of rows and trials, in the line for people and in the JSON; nothing if all of them fit."""
    rows = "seeds: [0, 1]\nrows: [{id: 7, epochs: 1}, {id: 8, seed: 3}, {id: 9, epochs: 2}]\n"
    spec = read(tmp_path, f"{rows}budget: {{trials: 2}}\n")
    report = PlanReport(spec, plan(spec))
    assert report.to_json()["beyond_budget"] == {"configurations": 2, "trials": 3, "names": ["row 8", "row 9"]}
    assert summarize_plan(spec, report.plan).endswith("; budget.trials 2 leaves out 2 of 3 rows (3 trials), from row 8 on")
    enough = read(tmp_path, f"{rows}budget: {{trials: 5}}\n")
    assert PlanReport(enough, plan(enough)).to_json()["beyond_budget"] == {"configurations": 0, "trials": 0, "names": []}
    assert "budget" not in summarize_plan(enough, plan(enough))


def test_an_open_ended_plan_lists_what_is_known(tmp_path: Path) -> None:
    """Only earlier proposals of an open-ended search are in the plan."""
    spec = read(tmp_path, "search: {method: random, space: {epochs: {low: 1, high: 9}}}\nbudget: {trials: 3}\n")
    known = resolve(spec, {"epochs": 4}, facts())
    assert make_plan(spec, facts()).trials == ()
    made = make_plan(spec, facts(), known=[known])
    assert made.open_ended
    assert [t.spec.train.epochs for t in made.trials] == [4]


def test_labels_that_look_alike_get_their_id(tmp_path: Path) -> None:
    """Every configuration of a plan has a unique label."""
    transforms = ", ".join(f"[{{name: HorizontalFlip, options: {{p: {p}}}}}]" for p in (0.2, 0.5))
    made = plan(read(tmp_path, f"search: {{method: grid, space: {{augmentation: [{transforms}]}}}}\n"))
    assert len({c.label for c in made.configurations}) == 2
    assert all(c.label == f"HorizontalFlip {c.id[:6]}" for c in made.configurations)


def test_two_paths_to_one_data_set_are_refused(tmp_path: Path) -> None:
    """Entries with the same training would claim each other's trials."""
    a, b = (str(tmp_path / name) for name in ("a.npz", "b.npz"))
    spec = read(tmp_path, "search: {method: grid, space: {data.source: [a.npz, b.npz]}}\n")
    with pytest.raises(SpecError, match=r"'a' and 'b' are the same training on the same data"):
        make_plan(spec, facts(DataConfig(source=a), DataConfig(source=b)))


def test_planning_changes_nothing(tmp_path: Path) -> None:
    """The same spec gives the same plan."""
    spec = read(tmp_path, GRID)
    assert plan(spec) == plan(spec)


def test_long_trials_come_first_within_their_round(tmp_path: Path) -> None:
    """The last trials are short, and every configuration runs with the first seed before any with the next."""
    spec = read(tmp_path, "search: {method: grid, space: {arch: [Unet, FPN, Linknet]}}\nseeds: [0, 1]\n")
    made = plan(spec)
    durations_s = {t.spec.key: {"FPN": 5.0, "Linknet": 9.0}.get(t.spec.train.arch, 1.0) for t in made.trials}
    ordered = longest_first(made, spec, durations_s)
    assert [c.label for c in ordered.configurations] == ["Linknet", "FPN", "Unet"]
    assert [t.spec.name for t in ordered.trials][2:4] == ["Unet seed 0", "Linknet seed 1"]
    assert sorted(t.spec.key for t in ordered.trials) == sorted(t.spec.key for t in made.trials)


@pytest.mark.parametrize("rule", ["budget: {hours: 1}", "budget: {gpu_hours: 1}", "pruner: {name: median}"])
def test_the_order_of_the_file_holds_where_a_sweep_may_be_cut_short(tmp_path: Path, rule: str) -> None:
    """The file's order then decides what runs at all."""
    spec = read(tmp_path, GRID + rule + "\n")
    made = plan(spec)
    assert longest_first(made, spec, {made.trials[1].spec.key: 9.0}) == made
