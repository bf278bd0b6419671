"""Every pruner decides as in plain Optuna for the same reports in the same order."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.planning.plan import plan_trials
from orchestrator.search.pruning import build_pruner
from orchestrator.search.search import study_name
from orchestrator.spec.sections import PrunerName, class_name
from orchestrator.state.trial.records import TrialState
from tests.orchestrator.search.conftest import COMPLETE, FACTS, build, read

BY_EPOCHS = [
    {"name": "median", "options": {"n_startup_trials": 1, "n_warmup_steps": 2}},
    {"name": "PercentilePruner", "options": {"percentile": 30, "n_startup_trials": 2, "interval_steps": 2}},
    {"name": "asha", "options": {"min_resource": 1, "reduction_factor": 2}},
    {"name": "SuccessiveHalvingPruner"},
    {"name": "hyperband", "options": {"max_resource": 9, "reduction_factor": 2}},
    {"name": "HyperbandPruner"},
    {"name": "ThresholdPruner", "options": {"lower": 0.2, "n_warmup_steps": 2}},
    {"name": "PatientPruner", "options": {"patience": 1, "wrapped_pruner": None}},
    {
        "name": "PatientPruner",
        "options": {"patience": 0, "wrapped_pruner": {"name": "median", "options": {"n_startup_trials": 1}}},
    },
    {"name": "NopPruner"},
]
EPOCHS = 8
mious = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, float("nan")])
curves = st.lists(st.lists(mious, min_size=EPOCHS, max_size=EPOCHS), min_size=3, max_size=6)
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sweep_of(pruner: dict[str, Any], num_configurations: int, *, seeds: int = 1) -> str:
    """A grid of configurations that have more epochs than are reported."""
    sizes, numbers = list(range(2, 2 + num_configurations)), list(range(seeds))
    space = f"{{method: grid, space: {{batch_size: {sizes}}}}}"
    return f"search: {space}\nseeds: {numbers}\npruner: {json.dumps(pruner)}\nbase: {{epochs: 50}}\n"


def end_of(curve: Sequence[float]) -> float:
    """The value of a whole training."""
    return max((miou for miou in curve if miou == miou), default=0.0)


def decide_plainly(
    name: str, pruner: optuna.pruners.BasePruner, curves: Sequence[Sequence[float]], turns: Iterable[int]
) -> list[tuple[int, int]]:
    """Which curve a plain Optuna study prunes at which step."""
    study = optuna.create_study(study_name=name, direction="maximize", pruner=pruner)
    trials = [study.ask() for _ in curves]
    pruned, steps = [], [0] * len(curves)
    for i in turns:
        if steps[i] < len(curves[i]) and i not in dict(pruned):
            trials[i].report(curves[i][steps[i]], step=steps[i] + 1)
            steps[i] += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of NaN
                is_pruned = trials[i].should_prune()
            if is_pruned:
                pruned.append((i, steps[i]))
                study.tell(trials[i], state=optuna.trial.TrialState.PRUNED)
            elif steps[i] == len(curves[i]):
                study.tell(trials[i], end_of(curves[i]))
    return pruned


@pytest.mark.parametrize("pruner", BY_EPOCHS, ids=lambda pruner: pruner["name"])
@few
@given(curves=curves, data=st.data())
def test_epochs_are_compared_as_optuna_compares_them(
    pruner: dict[str, Any], curves: list[list[float]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Parallel trainings, each reporting epoch after epoch, in any order."""
    folder = tmp_path_factory.mktemp("study")
    spec = read(folder, sweep_of(pruner, len(curves)))
    turns = data.draw(st.permutations([i for i in range(len(curves)) for _ in range(EPOCHS)]))
    search = build(spec, folder / "journal")
    configurations = [search.propose() for _ in curves]
    pruned: list[tuple[int, int]] = []
    steps = [0] * len(curves)
    for i in turns:
        configuration = configurations[i]
        assert configuration is not None
        if steps[i] < len(curves[i]) and i not in dict(pruned):
            [trial] = (planned.spec for planned in plan_trials(configuration, spec, FACTS))
            steps[i] += 1
            if search.report(trial, steps[i], curves[i][steps[i] - 1]):
                pruned.append((i, steps[i]))
                search.tell(configuration, None, TrialState.PRUNED)
            elif steps[i] == len(curves[i]):
                search.tell(configuration, end_of(curves[i]), COMPLETE)

    assert spec.pruner is not None
    assert pruned == decide_plainly(study_name(spec, FACTS), build_pruner(spec.pruner), curves, turns)


@few
@given(curves=st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=2, max_size=4))
def test_finished_trials_are_compared_as_optuna_compares_them(
    curves: list[list[float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Wilcoxon's over seeds: a step is a trial. After the last trial, pruning saves nothing."""
    folder = tmp_path_factory.mktemp("study")
    pruner = {"name": "wilcoxon", "options": {"p_threshold": 0.2}}
    spec = read(folder, sweep_of(pruner, len(curves), seeds=len(curves[0])))
    search = build(spec, folder / "journal")
    pruned = []
    for i, curve in enumerate(curves):
        configuration = search.propose()
        assert configuration is not None
        state, value = COMPLETE, sum(curve) / len(curve)
        for step, trial in enumerate(planned.spec for planned in plan_trials(configuration, spec, FACTS)):
            if search.report_end(trial, curve[step]):
                pruned.append((i, step))
                state = TrialState.PRUNED
                break
        search.tell(configuration, value if state is COMPLETE else None, state)

    assert pruned == _decide_over_trials(build_pruner(spec.pruner), curves)  # type: ignore[arg-type]


def _decide_over_trials(pruner: optuna.pruners.BasePruner, curves: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    pruned = []
    for i, curve in enumerate(curves):
        trial = study.ask()
        for step, value in enumerate(curve):
            trial.report(value, step)
            if step < len(curve) - 1 and trial.should_prune():
                pruned.append((i, step))
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, sum(curve) / len(curve))
    return pruned


def test_every_pruner_is_tried() -> None:
    """The tests above cover every pruner that a file can name."""
    assert {class_name(pruner["name"]) for pruner in BY_EPOCHS} | {"WilcoxonPruner"} == {
        class_name(name) for name in get_args(PrunerName)
    }
