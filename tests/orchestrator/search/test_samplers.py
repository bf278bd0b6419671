from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import get_args

import optuna
import pytest

from orchestrator.errors import SpecError
from orchestrator.planning.configuration import Configuration
from orchestrator.search import check_search, read_known
from orchestrator.search.build import study_name
from orchestrator.spec.optuna_names import (
    NOT_METHODS,
    PACKAGES,
    PRUNERS,
    REQUIRED,
    SAMPLERS,
    Method,
    Options,
    PrunerName,
    class_name,
)
from tests.orchestrator.search.conftest import COMPLETE, CONDITIONAL, FACTS, GRID, LR, build, by_rate, read, run, trials_in

NUMBERS = """
search:
  method: {method}
  options: {options}
  space:
    optimizer.lr: {{low: 0.001, high: 0.1, log: true}}
    batch_size: {{low: 2, high: 32}}
budget: {{trials: 6}}
"""
CODE = ("Callable", "Base", "ndarray", "FrozenTrial", "dict[")
"""In annotations of options that no file can give."""

LEFT_OUT = {
    "QMCSampler": {"warn_asynchronous_seeding"},
    "CmaEsSampler": {"x0", "sigma0", "restart_strategy", "inc_popsize"},
    "TPESampler": {
        "consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints", "warn_independent_sampling",
    },
}  # fmt: skip
"""Options that Optuna 5 takes with a warning that they will go; QMC's is about searches without a seed."""

INSTALLED = [
    name for name in SAMPLERS if all(importlib.util.find_spec(package) is not None for package in PACKAGES.get(name, ()))
]
QUICK = {"GPSampler": "{n_startup_trials: 5}", "CmaEsSampler": "{n_startup_trials: 2}", "TPESampler": "{n_startup_trials: 3}"}


def classes_of(module: ModuleType) -> set[str]:
    """The public classes."""
    return {name for name in module.__all__ if inspect.isclass(getattr(module, name))}


def parameters_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """The options of a constructor that a file can give."""
    parameters = dict(inspect.signature(cls).parameters)
    left_out = LEFT_OUT.get(cls.__name__, set()) | {"seed"}
    return {
        name: p
        for name, p in parameters.items()
        if name == "wrapped_pruner" or (name not in left_out and not any(word in str(p.annotation) for word in CODE))
    }


def test_the_names_are_optunas() -> None:
    """Every public sampler can be named, or is refused with what to do instead; so can every pruner."""
    assert classes_of(optuna.samplers) == SAMPLERS.keys() | NOT_METHODS.keys()
    assert classes_of(optuna.pruners) == PRUNERS.keys() | {"BasePruner"}
    assert {class_name(name) for name in get_args(Method)} == SAMPLERS.keys() | {"grid"}
    assert {class_name(name) for name in get_args(PrunerName)} == PRUNERS.keys()


@pytest.mark.parametrize(
    ("module", "known"), [(optuna.samplers, SAMPLERS), (optuna.pruners, PRUNERS)], ids=["samplers", "pruners"]
)
def test_the_options_are_optunas(module: ModuleType, known: Mapping[str, Options]) -> None:
    """Each option that a file can give is known with its types, and what has no default is known to be needed."""
    for name, options in known.items():
        parameters = {} if name == "NopPruner" else parameters_of(getattr(module, name))
        assert options.keys() == parameters.keys(), name
        for option, kinds in options.items():
            written = inspect.formatannotation(parameters[option].annotation).strip("'")
            expected = {"dict" if part == "BasePruner" else part for part in written.split(" | ")}
            assert {"None" if kind is type(None) else kind.__name__ for kind in kinds} == expected, (name, option)
        needed = {option for option, p in parameters.items() if p.default is inspect.Parameter.empty}
        assert needed == set(REQUIRED.get(name, ())), name


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name == "GPSampler" else []) for name in INSTALLED]
)
def test_any_sampler_searches_and_goes_on_as_it_would_have(tmp_path: Path, method: str) -> None:
    """Interrupted after every proposal, a search proposes what it proposes in one go, and nothing twice."""
    text = NUMBERS.format(method=method, options=QUICK.get(method, "{}"))
    if method == "BruteForceSampler":
        text = text.replace("low: 0.001, high: 0.1, log: true", "low: 0.01, high: 0.1, step: 0.01")
    spec = read(tmp_path, text)
    whole = run(build(spec, tmp_path / "whole.journal"), by_rate)
    assert len({c.id for c in whole}) == 6

    for _ in range(6):
        part = build(spec, tmp_path / "parts.journal")
        known = {c.id for c, _ in read_known(spec, FACTS, tmp_path / "parts.journal")}
        while (configuration := part.propose()) is not None:
            part.tell(configuration, by_rate(configuration), COMPLETE)
            if configuration.id not in known:
                break
    assert [c.id for c, _ in read_known(spec, FACTS, tmp_path / "parts.journal")] == [c.id for c in whole]


def test_conditional_parameters_do_with_any_sampler(tmp_path: Path) -> None:
    """What a sampler does not take itself, it has sampled independently, without a word."""
    for method in ("QMCSampler", "NSGAIISampler", "TPESampler"):
        done = run(build(read(tmp_path, CONDITIONAL.format(method=method, trials=15)), tmp_path / method), batch_share)
        assert all(("loss.gamma" in c.params) == (c.train.loss.name == "focal") for c in done)
        assert len(done) == 15


def batch_share(configuration: Configuration) -> float:
    """A value without a meaning."""
    return configuration.train.batch_size / 10


def test_brute_force_goes_through_a_grid_in_random_order(tmp_path: Path, journal: Path) -> None:
    """Each point once, then the space is exhausted."""
    spec = read(tmp_path, GRID.replace("grid", "BruteForceSampler") + "budget: {trials: 50}\n")
    search = build(spec, journal)
    labels = [c.label for c in run(search, lambda _: 0.5)]
    assert sorted(labels) == ["FPN-epochs=1", "FPN-epochs=2", "Unet-epochs=1", "Unet-epochs=2"]
    assert search.stopped_because is not None
    assert "exhausted" in search.stopped_because
    assert len(trials_in(journal)) == 5


def test_options_reach_the_sampler(tmp_path: Path) -> None:
    """Another sequence proposes other points."""
    done = []
    for kind in ("sobol", "halton"):
        spec = read(tmp_path, NUMBERS.format(method="QMCSampler", options=f"{{qmc_type: {kind}}}"))
        done.append([c.id for c in run(build(spec, tmp_path / kind), by_rate)])
    assert done[0][3:] != done[1][3:]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (NUMBERS.format(method="QMCSampler", options="{qmc_type: soboll}"), ("s.yaml:4: search.options", "soboll", "halton")),
        (NUMBERS.format(method="NSGAIISampler", options="{population_size: 1}"), ("s.yaml:4: search.options", "greater")),
        ("pruner:\n  name: asha\n  options: {reduction_factor: 1}\n", ("s.yaml:3: pruner.options", "reduction_factor >= 2")),
        ("pruner:\n  name: ThresholdPruner\n", ("s.yaml:1: pruner.options", "lower or upper")),
    ],
    ids=["sequence", "population", "factor", "threshold"],
)
def test_what_optuna_refuses_is_told_before_anything_runs(tmp_path: Path, text: str, pieces: tuple[str, ...]) -> None:
    """The message names the line and holds Optuna's reason."""
    with pytest.raises(SpecError) as caught:
        check_search(read(tmp_path, text))
    assert [piece for piece in pieces if piece not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (GRID, "s-5d5a27e7ef"),
        (LR.format(method="tpe", trials=4), "s-50b8a1ebc0"),
        (CONDITIONAL.format(method="random", trials=4), "s-9ad6d200d1"),
        ("rows: [{id: 1, seed: 0}, {id: 2, label: two, epochs: 3}]\nseeds: [0, 1]\n", "s-61011880a9"),
        ("folds: 3\n", "s-49dae52c3e"),
    ],
)
def test_studies_of_earlier_versions_are_found_again(tmp_path: Path, text: str, name: str) -> None:
    """What a file says that could already be said comes to the name that it had."""
    assert study_name(read(tmp_path, text), FACTS) == name
    assert study_name(read(tmp_path, text + "pruner: {name: median}\n"), FACTS) != name


def test_a_pruner_has_one_study_by_either_name(tmp_path: Path) -> None:
    """A short name is the same pruner."""
    text = GRID + "pruner: {name: %s}\n"
    short, full = (study_name(read(tmp_path, text % name), FACTS) for name in ("asha", "SuccessiveHalvingPruner"))
    assert short == full
