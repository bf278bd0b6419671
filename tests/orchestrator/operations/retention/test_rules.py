"""Whose checkpoints stay."""

from __future__ import annotations

import pytest

from orchestrator.operations.retention.checkpoints import choose_removable, read_rule
from orchestrator.spec.sections import Rule
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.checkpoints.retention import CheckpointRun


def run(key: str, sweep: str, miou: float | None, scored: str | None) -> CheckpointRun:
    """Of a trial that is COMPLETE, or PRUNED if it has no score."""
    state = TrialState.PRUNED if miou is None else TrialState.COMPLETE
    return CheckpointRun("id", sweep, key, state, miou, scored, holds_files=True, files=None)


FOUR = [run(key, "s", miou, "images") for key, miou in [("a", 0.5), ("b", 0.7), ("c", 0.6), ("d", 0.7)]]


def gone(runs: list[CheckpointRun], rules: dict[str, Rule], *, members: tuple[str, ...] = (), **sweeps_of: set[str]) -> set[str]:
    """Keys whose checkpoints go."""
    return set(choose_removable(runs, rules, members=members, sweeps_of=sweeps_of))


def test_the_best_stay() -> None:
    """By val/miou; of equal ones the smaller key."""
    assert gone(FOUR, {"s": 1}) == {"a", "c", "d"}
    assert gone(FOUR, {"s": 2}) == {"a", "c"}
    assert gone(FOUR, {"s": 9}) == gone(FOUR, {"s": "all"}) == gone(FOUR, {}) == set()
    assert gone(FOUR, {"s": "none"}) == {"a", "b", "c", "d"}


def test_what_cannot_be_compared_is_ranked_apart() -> None:
    """The best of each set of images."""
    assert gone([*FOUR, run("e", "s", 0.1, "other images")], {"s": 1}) == {"a", "c", "d"}


def test_a_pruned_trial_is_not_among_the_best() -> None:
    """Even where there are fewer finished ones."""
    assert gone([*FOUR, run("e", "s", None, None)], {"s": 9}) == {"e"}


def test_a_member_of_an_ensemble_stays() -> None:
    """In addition to the best."""
    assert gone(FOUR, {"s": 1}, members=("a",)) == {"c", "d"}


def test_a_shared_trial_stays_while_one_sweep_keeps_it() -> None:
    """Also a sweep that has no run of it yet; the reason names all sweeps that do not keep it."""
    shared = [*FOUR, run("a", "t", 0.5, "images")]
    assert gone(shared, {"s": 1, "t": "all"}) == gone(shared, {"s": 1}) == {"c", "d"}
    assert gone(FOUR, {"s": 1, "t": "none"}, a={"u"}, c={"t"}) == {"c", "d"}
    reasons = choose_removable(shared, {"s": 1, "t": "none"}, members=(), sweeps_of={})
    assert reasons["a"] == "`keep: {checkpoints: 1}` of sweep s and `keep: {checkpoints: none}` of sweep t"


@pytest.mark.parametrize("rule", ["all", "none", 1, 12])
def test_a_rule_is_read_back(rule: Rule) -> None:
    """As it was recorded."""
    assert read_rule(str(rule)) == rule


@pytest.mark.parametrize("text", [None, "", "0", "-1", "the best", "1.5"])
def test_what_is_not_understood_keeps_everything(text: str | None) -> None:
    """Such as what a later version recorded."""
    assert read_rule(text) == "all"
