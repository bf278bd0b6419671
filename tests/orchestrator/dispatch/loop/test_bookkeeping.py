from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dispatch.loop.bookkeeping import Proposals
from orchestrator.planning.configuration import Configuration
from orchestrator.state.trial.records import TrialState
from trainers.config import DataConfig, TrainConfig

COMPLETE, FAILED, PRUNED = TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED


def point(id: str = "one") -> Configuration:
    """A configuration, as far as proposals look at it."""
    return Configuration(TrainConfig(), DataConfig(), {}, label=id, id=id)


@given(st.lists(st.tuples(st.sampled_from([COMPLETE, FAILED, PRUNED]), st.floats(0, 1)), min_size=1, max_size=6), st.randoms())
def test_a_configuration_is_ready_once_with_the_mean_or_the_worst_end(
    ends: list[tuple[TrialState, float]], random: Random
) -> None:
    """In any order of its folds."""
    proposals = Proposals()
    keys = [str(i) for i in range(len(ends))]
    assert proposals.add(point(), keys) == []
    order = list(range(len(ends)))
    random.shuffle(order)
    ready = [
        proposal for i in order for proposal in proposals.end(keys[i], ends[i][0], ends[i][1] if ends[i][0] is COMPLETE else None)
    ]
    assert len(ready) == 1
    value, state, reason = proposals.value_of(ready[0])
    states = {end for end, _ in ends}
    assert state is (FAILED if FAILED in states else PRUNED if PRUNED in states else COMPLETE)
    assert value == (pytest.approx(sum(v for _, v in ends) / len(ends)) if states == {COMPLETE} else None)
    assert (reason is None) == (state is COMPLETE)


def test_a_failed_fold_fails_the_configuration_with_its_reason() -> None:
    """The first failed trial's reason, and how many more there are."""
    proposals = Proposals()
    proposals.add(point(), ["a", "b", "c"])
    proposals.end("a", COMPLETE, 0.5)
    proposals.end("b", FAILED, None, reason="fold 2/3: out of memory")
    [ready] = proposals.end("c", FAILED, None, reason="fold 3/3: out of memory")
    assert proposals.value_of(ready) == (None, FAILED, "fold 2/3: out of memory; and 1 more of its 3 trials")


def test_a_trial_without_the_metric_fails_with_a_reason() -> None:
    """A missing value is no value."""
    proposals = Proposals()
    proposals.add(point(), ["a"])
    [ready] = proposals.end("a", COMPLETE, None)
    assert proposals.value_of(ready) == (None, FAILED, "complete, but without val/miou")


def test_a_given_up_configuration_needs_no_more_training() -> None:
    """All open trials of the configuration, and only they."""
    proposals = Proposals()
    proposals.add(point("one"), ["a", "b", "c"])
    proposals.add(point("two"), ["d"])
    proposals.end("a", COMPLETE, 0.5)
    assert proposals.give_up("a") == ["b", "c"]
    assert [proposals.is_unneeded(key) for key in "abcd"] == [False, True, True, False]


def test_a_pruned_trial_makes_its_siblings_unneeded() -> None:
    """Also after a restart, when only its state is known."""
    proposals = Proposals()
    proposals.end("a", PRUNED, None)
    proposals.add(point(), ["a", "b"])
    assert proposals.is_unneeded("b")
    [ready] = proposals.end("b", PRUNED, None)
    assert proposals.value_of(ready) == (None, PRUNED, "PRUNED; and 1 more of its 2 trials")


def test_a_trial_that_another_configuration_waits_for_is_needed() -> None:
    """The same training may belong to two proposals."""
    proposals = Proposals()
    proposals.add(point("one"), ["a", "b"])
    proposals.add(point("two"), ["b"])
    assert proposals.give_up("a") == ["a"]
    assert not proposals.is_unneeded("b")
