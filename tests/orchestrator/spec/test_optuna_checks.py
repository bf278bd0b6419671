from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.spec import SweepSpec, load_spec
from orchestrator.spec.optuna_names import PRUNERS, SAMPLERS

SEARCH = "search:\n  method: {}\n  space: {{epochs: [1, 2]}}\nbudget: {{trials: 4}}\n"
OPTIONS = "search:\n  method: {}\n  options: {}\n  space: {{epochs: [1, 2]}}\nbudget: {{trials: 4}}\n"


def read(folder: Path, text: str) -> SweepSpec:
    """Write a sweep file and read it."""
    path = folder / "s.yaml"
    path.write_text(text)
    return load_spec(path)


def test_sampler_pruner_stop_and_budget_are_read(tmp_path: Path) -> None:
    """Everything that steers a search reaches its field."""
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
        (SEARCH.format("PartialFixedSampler"), ("s.yaml:2: search.method", "stands in 'base'")),
        (
            OPTIONS.format("tpe", "{n_startup_trial: 3}"),
            ("s.yaml:3: search.options.n_startup_trial", "an option of TPESampler", "Did you mean 'n_startup_trials'?"),
        ),
        (OPTIONS.format("tpe", "{n_startup_trials: yes}"), ("s.yaml:3: search.options", "is 'yes'", "a whole number")),
        (OPTIONS.format("tpe", "{group: 1}"), ("s.yaml:3: search.options.group is 1", "true or false")),
        (OPTIONS.format("random", "{seed: 1}"), ("s.yaml:3: search.options.seed", "RandomSampler has no options")),
        (OPTIONS.format("tpe", "{seed: 1}"), ("search.options.seed", "Write 'search.seed'.")),
        (OPTIONS.format("grid", "{shuffle: true}"), ("s.yaml:3: search.options: method 'grid' has none",)),
        (
            SEARCH.format("BruteForceSampler").replace("[1, 2]", "[1], optimizer.lr: {low: 0.1, high: 1}"),
            ("s.yaml:3: search.space.optimizer.lr is a range", "with 'step'"),
        ),
        ("stop: {no_improvement: 3}\n" + SEARCH.format("grid"), ("s.yaml:1: stop:", "BruteForceSampler")),
        ("rows: [{id: 1}]\nstop: {no_improvement: 3}\n", ("s.yaml:2: stop: this sweep goes through all",)),
        ("stop: {no_improvement: 0}\n", ("s.yaml:1: stop.no_improvement is 0. Allowed: at least 1",)),
        ("budget: {gpu_hours: 0}\n", ("s.yaml:1: budget.gpu_hours is 0. Allowed: above 0",)),
        ("budget: {}\n", ("s.yaml:1: budget says nothing. Allowed: trials, hours, gpu_hours",)),
        ("pruner: median\n", ("s.yaml:1: pruner is 'median'", "a mapping with name, over, options")),
        ("pruner: {name: meidan}\n", ("s.yaml:1: pruner.name is 'meidan'", "Did you mean 'median'?")),
        ("pruner: {name: asha, options: {reduction: 3}}\n", ("s.yaml:1: pruner.options.reduction", "'reduction_factor'?")),
        ("pruner: {name: PercentilePruner}\n", ("s.yaml:1: pruner.options.percentile is missing",)),
        ("pruner: {name: NopPruner, options: {a: 1}}\n", ("NopPruner has no options",)),
        ("pruner: {name: median, over: images}\n", ("s.yaml:1: pruner.over: median compares epochs",)),
        ("pruner: {name: wilcoxon}\n", ("s.yaml:1: pruner.name is 'wilcoxon'", "Add 'folds: 5' or 'seeds: [0, 1, 2]'")),
        (
            "pruner:\n  name: PatientPruner\n  options:\n    patience: 2\n    wrapped_pruner: {name: asah}\n",
            ("s.yaml:5: pruner.options.wrapped_pruner.name is 'asah'", "Did you mean 'asha'?"),
        ),
        (
            "folds: 3\npruner: {name: PatientPruner, options: {patience: 2, wrapped_pruner: {name: wilcoxon}}}\n",
            ("wrapped_pruner.name is 'wilcoxon'", "pruners that compare epochs"),
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, pieces: tuple[str, ...]) -> None:
    """Line, place, what was found, what is allowed, and the nearest name."""
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    assert [piece for piece in pieces if piece not in str(caught.value)] == []


def test_a_sampler_whose_package_is_missing_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install; where it is there, the same file is taken."""
    assert read(tmp_path, SEARCH.format("CmaEsSampler")).search is not None
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(SpecError, match=r"'CmaEsSampler', which needs packages that are not installed: pip install cmaes"):
        read(tmp_path, SEARCH.format("CmaEsSampler"))


options = st.dictionaries(
    st.sampled_from([*{option for known in (SAMPLERS | PRUNERS).values() for option in known}, "name", "x"]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-2, 5) | st.floats(-1, 1) | st.sampled_from(["auto", "median", ""]),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["name", "options", "wrapped_pruner", "over"]), inner, max_size=3)
        ),
        max_leaves=4,
    ),
    max_size=3,
)


@settings(max_examples=120, deadline=None)
@given(
    method=st.sampled_from([*SAMPLERS, "grid"]), pruner=st.sampled_from([*PRUNERS, "asha", ""]), sampled=options, pruned=options
)
def test_whatever_options_are_written_are_taken_or_answered(
    method: str, pruner: str, sampled: dict[str, Any], pruned: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Reading a file ends with a spec or with lines that name the file."""
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    document = {
        "search": {"method": method, "options": sampled, "space": {"epochs": [1, 2]}},
        "pruner": {"name": pruner, "options": pruned},
        "budget": {"trials": 4},
    }
    path.write_text(json.dumps(document))  # JSON is YAML
    assert all(line.startswith(str(path)) for line in complaint_about(path).splitlines())


def complaint_about(path: Path) -> str:
    """What is said of a file; empty where nothing is."""
    try:
        load_spec(path)
    except SpecError as error:
        return str(error)
    return ""
