from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.planning.configuration import Configuration
from orchestrator.search import read_known
from orchestrator.search.options import PACKAGES
from orchestrator.search.search import study_name
from orchestrator.spec.sections import Method, class_name
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
INSTALLED = [
    name
    for name in sorted({class_name(name) for name in get_args(Method)} - {"grid"})
    if all(importlib.util.find_spec(package) is not None for package in PACKAGES.get(name, ()))
]
QUICK = {"GPSampler": "{n_startup_trials: 5}", "CmaEsSampler": "{n_startup_trials: 2}", "TPESampler": "{n_startup_trials: 3}"}


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name == "GPSampler" else []) for name in INSTALLED]
)
def test_an_interrupted_search_proposes_the_same_points(tmp_path: Path, method: str) -> None:
    """With any sampler, interrupted after every proposal, it proposes the same points as in one run, and nothing twice."""
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


def test_conditional_parameters_work_with_any_sampler(tmp_path: Path) -> None:
    """A sampler samples them independently if it must, without a warning."""
    for method in ("QMCSampler", "NSGAIISampler", "TPESampler"):
        done = run(build(read(tmp_path, CONDITIONAL.format(method=method, trials=15)), tmp_path / method), batch_share)
        assert all(("loss.gamma" in c.params) == (c.train.loss.name == "focal") for c in done)
        assert len(done) == 15


def batch_share(configuration: Configuration) -> float:
    """An arbitrary value."""
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
    ("text", "name"),
    [
        (GRID, "s-5d5a27e7ef"),
        (LR.format(method="tpe", trials=4), "s-50b8a1ebc0"),
        (CONDITIONAL.format(method="random", trials=4), "s-9ad6d200d1"),
        ("rows: [{id: 1, seed: 0}, {id: 2, label: two, epochs: 3}]\nseeds: [0, 1]\n", "s-61011880a9"),
        ("folds: 3\n", "s-49dae52c3e"),
        (GRID + "pruner: {name: hyperband}\n", "s-149462f462"),
        (GRID + "pruner: {name: asha, options: {min_resource: auto, reduction_factor: 3}}\n", "s-4b51296154"),
        (GRID + "pruner: {name: ThresholdPruner, options: {lower: 0.45, upper: null}}\n", "s-082eae0417"),
        (
            GRID + "pruner: {name: PatientPruner, options: {patience: 1, min_delta: 1.0e-5, wrapped_pruner: {name: median}}}\n",
            "s-c4097b0259",
        ),
        (GRID + "seeds: [0, 1]\npruner: {name: wilcoxon}\n", "s-76626b2abb"),
    ],
)
def test_studies_of_earlier_versions_are_found_again(tmp_path: Path, text: str, name: str) -> None:
    """A file that an earlier version could read gives its study the same name."""
    assert study_name(read(tmp_path, text), FACTS) == name


def test_a_changed_pruner_starts_a_new_study(tmp_path: Path) -> None:
    """Reports mean something else under another pruner."""
    names = {study_name(read(tmp_path, GRID + f"pruner: {{name: {name}}}\n"), FACTS) for name in ("median", "asha", "NopPruner")}
    assert len({*names, study_name(read(tmp_path, GRID), FACTS)}) == 4


def test_a_pruner_has_one_study_by_either_name(tmp_path: Path) -> None:
    """A short name is the same pruner."""
    text = GRID + "pruner: {name: %s}\n"
    short, full = (study_name(read(tmp_path, text % name), FACTS) for name in ("asha", "SuccessiveHalvingPruner"))
    assert short == full
