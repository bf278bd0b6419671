"""Options of samplers and pruners are Optuna's own, and are checked before anything runs."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.errors import SpecError
from orchestrator.search import check_search
from orchestrator.search.options import model_options
from orchestrator.spec import load_spec
from orchestrator.spec.sections import NOT_METHODS, Method, PrunerName, class_name
from tests.orchestrator.search.conftest import read

SAMPLERS = sorted({class_name(name) for name in get_args(Method)} - {"grid"})
PRUNERS = sorted({class_name(name) for name in get_args(PrunerName)})
SEARCH = "search:\n  method: {}\n  space: {{epochs: [1, 2]}}\nbudget: {{trials: 4}}\n"
OPTIONS = "search:\n  method: {}\n  options: {}\n  space: {{epochs: [1, 2]}}\nbudget: {{trials: 4}}\n"
CODE = ("Callable", "BaseSampler", "BaseMutation", "BaseCrossover", "ndarray", "FrozenTrial", "dict[")
"""In annotations of options that no file can give."""


def classes_of(module: ModuleType) -> set[str]:
    """The public classes."""
    return {name for name in module.__all__ if inspect.isclass(getattr(module, name))}


def test_the_names_are_optunas() -> None:
    """Every public sampler can be named, or is refused with what to do instead; so can every pruner."""
    assert classes_of(optuna.samplers) == {*SAMPLERS, *NOT_METHODS}
    assert classes_of(optuna.pruners) == {*PRUNERS, "BasePruner"}


@pytest.mark.parametrize(
    "owner", [*(getattr(optuna.samplers, n) for n in SAMPLERS), *(getattr(optuna.pruners, n) for n in PRUNERS)]
)
def test_the_options_are_optunas(owner: type) -> None:
    """Every option but the seed and those that take code, with Optuna's type; required where Optuna has no default."""
    parameters = inspect.signature(owner).parameters
    given_by_file = {
        name for name, p in parameters.items() if name != "seed" and not any(word in str(p.annotation) for word in CODE)
    }
    fields = model_options(owner).model_fields
    assert fields.keys() == given_by_file
    for name, field in fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        found = {"BasePruner" if kind.__name__ == "PrunerSpec" else kind.__name__.replace("NoneType", "None") for kind in kinds}
        assert found == set(inspect.formatannotation(parameters[name].annotation).strip("'").split(" | ")), name
        assert field.is_required() == (parameters[name].default is inspect.Parameter.empty), name


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (
            OPTIONS.format("tpe", "{n_startup_trial: 3}"),
            ("s.yaml:3: search.options.n_startup_trial", "an option of TPESampler", "Did you mean 'n_startup_trials'?"),
        ),
        (OPTIONS.format("tpe", "{n_startup_trials: yes}"), ("s.yaml:3: search.options", "is 'yes'", "a whole number")),
        (OPTIONS.format("tpe", "{group: 1}"), ("s.yaml:3: search.options.group is 1", "true or false")),
        (OPTIONS.format("random", "{seed: 1}"), ("s.yaml:3: search.options.seed", "RandomSampler has no options")),
        (OPTIONS.format("tpe", "{seed: 1}"), ("search.options.seed", "Write 'search.seed'.")),
        ("pruner: {name: asha, options: {reduction: 3}}\n", ("s.yaml:1: pruner.options.reduction", "'reduction_factor'?")),
        ("pruner: {name: PercentilePruner}\n", ("s.yaml:1: pruner.options.percentile is missing",)),
        ("pruner: {name: NopPruner, options: {a: 1}}\n", ("NopPruner has no options",)),
        (
            "pruner:\n  name: PatientPruner\n  options:\n    patience: 2\n    wrapped_pruner: {name: asah}\n",
            ("s.yaml:5: pruner.options.wrapped_pruner.name is 'asah'", "Did you mean 'asha'?"),
        ),
        (
            "folds: 3\npruner: {name: PatientPruner, options: {patience: 2, wrapped_pruner: {name: wilcoxon}}}\n",
            ("wrapped_pruner.name is 'wilcoxon'", "pruners that compare epochs"),
        ),
        (OPTIONS.format("QMCSampler", "{qmc_type: soboll}"), ("s.yaml:3: search.options", "soboll", "halton")),
        (OPTIONS.format("NSGAIISampler", "{population_size: 1}"), ("s.yaml:3: search.options", "greater")),
        ("pruner:\n  name: asha\n  options: {reduction_factor: 1}\n", ("s.yaml:3: pruner.options", "reduction_factor >= 2")),
        ("pruner:\n  name: ThresholdPruner\n", ("s.yaml:1: pruner.options", "lower or upper")),
        (OPTIONS.format("tpe", "{prior_weight: 2.0}"), ("s.yaml:3: search.options: Optuna refuses them", "deprecated")),
    ],
)
def test_an_error_names_its_place(tmp_path: Path, text: str, pieces: tuple[str, ...]) -> None:
    """The message holds line, place, what was found, what is allowed and the nearest name, or Optuna's reason."""
    spec = read(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        check_search(spec)
    assert [piece for piece in pieces if piece not in str(caught.value)] == []


def test_the_command_refuses_a_bad_option_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`orchestrate sweep` stops with exit code 2 and leaves no trial."""
    (tmp_path / "s.yaml").write_text(OPTIONS.format("tpe", "{n_startup_trial: 3}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["orchestrate", "sweep", "s.yaml"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert not (tmp_path / "mlruns" / "trials").exists()


def test_a_missing_package_is_reported_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install; with the package installed, the same file is accepted."""
    spec = read(tmp_path, SEARCH.format("CmaEsSampler"))
    check_search(spec)
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(SpecError, match=r"'CmaEsSampler', which needs packages that are not installed: pip install cmaes"):
        check_search(spec)


options = st.dictionaries(
    st.sampled_from(
        [
            *{name for n in SAMPLERS for name in model_options(getattr(optuna.samplers, n)).model_fields},
            *{name for n in PRUNERS for name in model_options(getattr(optuna.pruners, n)).model_fields},
            "name",
            "x",
        ]
    ),
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
def test_any_options_are_accepted_or_refused_clearly(
    method: str, pruner: str, sampled: dict[str, Any], pruned: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each line of an error names the file."""
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    document = {
        "search": {"method": method, "options": sampled, "space": {"epochs": [1, 2]}},
        "pruner": {"name": pruner, "options": pruned},
        "budget": {"trials": 4},
    }
    path.write_text(json.dumps(document))  # JSON is YAML
    assert all(line.startswith(str(path)) for line in complaint_about(path).splitlines())


def complaint_about(path: Path) -> str:
    """What the file's error says; empty where it has none."""
    try:
        check_search(load_spec(path))
    except SpecError as error:
        return str(error)
    return ""
