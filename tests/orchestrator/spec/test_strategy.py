"""Methods, pruners, budgets and the stop rule of a sweep file; search/test_options.py checks what needs Optuna."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec import SweepSpec, load_spec

SEARCH = "search:\n  method: {}\n  space: {{epochs: [1, 2]}}\nbudget: {{trials: 4}}\n"
OPTIONS = "search:\n  method: {}\n  options: {}\n  space: {{epochs: [1, 2]}}\nbudget: {{trials: 4}}\n"


def read(folder: Path, text: str) -> SweepSpec:
    """Write a sweep file and read it."""
    path = folder / "s.yaml"
    path.write_text(text)
    return load_spec(path)


def test_sampler_pruner_stop_and_budget_are_read(tmp_path: Path) -> None:
    """Every setting of a search reaches its field."""
    spec = read(
        tmp_path,
        OPTIONS.format("TPESampler", "{n_startup_trials: 3}").replace("{trials: 4}", "{trials: 4, gpu_hours: 0.5}")
        + "stop: {no_improvement: 5, min_delta: 0.01}\n"
        + "pruner: {name: PatientPruner, options: {patience: 3, wrapped_pruner: {name: median}}}\n",
    )
    assert spec.search is not None
    assert (spec.search.method, spec.search.options, spec.is_open_ended) == ("TPESampler", {"n_startup_trials": 3}, True)
    assert spec.budget is not None
    assert spec.budget.gpu_hours == 0.5
    assert spec.stop is not None
    assert (spec.stop.no_improvement, spec.stop.min_delta) == (5, 0.01)
    assert spec.pruner is not None
    assert spec.pruner.options == {"patience": 3, "wrapped_pruner": {"name": "median"}}
    assert SweepSpec.model_validate_json(spec.model_dump_json()).model_dump() == spec.model_dump()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (SEARCH.format("gpsampler"), ("s.yaml:2: search.method is 'gpsampler'", "Known: grid,", "Did you mean 'GPSampler'?")),
        (SEARCH.format("GridSampler"), ("s.yaml:2: search.method is 'GridSampler'", "write 'grid'")),
        (SEARCH.format("PartialFixedSampler"), ("s.yaml:2: search.method", "put fixed values into 'base'")),
        (OPTIONS.format("grid", "{shuffle: true}"), ("s.yaml:3: search.options: method 'grid' has none",)),
        (
            SEARCH.format("BruteForceSampler").replace("[1, 2]", "[1], optimizer.lr: {low: 0.1, high: 1}"),
            ("s.yaml:3: search.space.optimizer.lr is a range", "with 'step'"),
        ),
        ("stop: {no_improvement: 3}\n" + SEARCH.format("grid"), ("s.yaml:1: stop:", "BruteForceSampler")),
        ("rows: [{id: 1}]\nstop: {no_improvement: 3}\n", ("s.yaml:2: stop: this sweep runs everything that the file lists",)),
        ("stop: {no_improvement: 0}\n", ("s.yaml:1: stop.no_improvement is 0. Allowed: at least 1",)),
        ("budget: {gpu_hours: 0}\n", ("s.yaml:1: budget.gpu_hours is 0. Allowed: above 0",)),
        ("budget: {}\n", ("s.yaml:1: budget is empty. Allowed: trials, hours, gpu_hours",)),
        ("pruner: median\n", ("s.yaml:1: pruner is 'median'", "a mapping with name, options")),
        ("pruner: {name: meidan}\n", ("s.yaml:1: pruner.name is 'meidan'", "Did you mean 'median'?")),
        ("pruner:\n  name: wilcoxon\n  over: images\n", ("s.yaml:3: pruner.over: not a known field. Known: name, options",)),
        ("pruner: {name: wilcoxon}\n", ("s.yaml:1: pruner.name is 'wilcoxon'", "Add 'folds: 5' or 'seeds: [0, 1, 2]'")),
    ],
)
def test_an_error_names_its_place(tmp_path: Path, text: str, pieces: tuple[str, ...]) -> None:
    """The message holds line, place, what was found, what is allowed, and the nearest name."""
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    assert [piece for piece in pieces if piece not in str(caught.value)] == []
