"""Selection is greedy as brute force would be, then never worse; order, copies and ignored pixels change nothing."""

from __future__ import annotations

from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.analysis.stats import compute_miou
from orchestrator.ensemble.selection import blocks
from orchestrator.ensemble.selection.pool import Limit, Pool, SelectionRules
from orchestrator.ensemble.selection.strategies import SearchName, choose
from orchestrator.errors import EnsembleError
from trainers.metrics import confusion_per_image
from trainers.prediction.means import Mean, to_addends

IGNORED = (0,)
Case = tuple[list[str], list[np.ndarray], np.ndarray]


def make_case(seed: int, *, num_candidates: int = 6, levels: int = 256) -> Case:
    """Candidates that see the truth through noise, so that means of them are better."""
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), (7, 4, 5))
    truth = np.stack([(labels == c) for c in range(4)], axis=1) * (levels / 3)
    noise = random.uniform(0, levels * 2 / 3, (num_candidates, *truth.shape))
    return [f"k{i}" for i in range(num_candidates)], list((truth + noise).astype(np.uint8)), labels


def pool_of(case: Case) -> Pool:
    """The candidates of a case."""
    return Pool(*case, IGNORED)


def score_naively(members: list[np.ndarray], labels: np.ndarray, mean: Mean = "arithmetic") -> float:
    """MIoU of the mean of some predictions, in plain numpy."""
    predicted = np.sum([to_addends(m, mean).astype(np.int64) for m in members], axis=0).argmax(axis=1)
    return compute_miou(confusion_per_image(predicted, labels, num_classes=4, ignore_classes=IGNORED), IGNORED)


def choose_naively(case: Case, k: int) -> tuple[list[str], list[float]]:
    """Greedy selection as a plain loop: keys and the score after each."""
    keys, predictions, labels = case
    by_key = dict(sorted(zip(keys, predictions, strict=True)))
    chosen: list[str] = []
    trajectory: list[float] = []
    while len(chosen) < k:
        scores = {key: score_naively([by_key[c] for c in chosen] + [by_key[key]], labels) for key in by_key if key not in chosen}
        chosen.append(max(scores, key=scores.__getitem__))  # the first of equals
        trajectory.append(scores[chosen[-1]])
    return chosen, trajectory


@given(st.integers(0, 2**32), st.sampled_from([4, 256]))
@settings(max_examples=25, deadline=None)
def test_greedy_equals_brute_force(seed: int, levels: int) -> None:
    """Members and trajectory are those of a plain numpy loop, ties included, and by default its best prefix; auto is no worse."""
    case = make_case(seed, levels=levels)
    pool = pool_of(case)
    if len(pool.keys) < len(case[0]):
        return  # copies count once here, not in the plain loop
    members, trajectory = choose_naively(case, 4)
    for exactly, size in ((True, 4), (False, 1 + int(np.argmax(trajectory)))):
        selection = pool.select(np.arange(7), k=4, exactly=exactly, rules=SelectionRules("greedy"))
        assert [pool.keys[i] for i in selection.members] == members[:size]
        assert (list(selection.trajectory), selection.miou) == (trajectory, trajectory[size - 1])
    assert pool.select(np.arange(7), k=4).miou >= max(trajectory)


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_the_result_scores_what_it_says_and_lies_between_single_and_exhaustive(seed: int) -> None:
    """Never below the best single, never above the best of all subsets, and its score is numpy's."""
    case = make_case(seed)
    pool = pool_of(case)
    selection = pool.select(np.arange(7), k=3)
    members = [case[1][case[0].index(pool.keys[i])] for i in selection.members]
    assert selection.miou == score_naively(members, case[2])
    subsets = [s for size in (1, 2, 3) for s in combinations(case[1], size)]
    best = max(score_naively(list(subset), case[2]) for subset in subsets)
    assert max(pool.rank_singles(np.arange(7))) <= selection.miou <= best


@pytest.mark.parametrize("mean", ["arithmetic", "geometric", "vote"])
@given(seed=st.integers(0, 2**32), exactly=st.booleans())
@settings(max_examples=8, deadline=None)
def test_searches_stand_in_their_order(mean: Mean, seed: int, exactly: bool) -> None:
    """Exhaustive is the best of all subsets by numpy, beam is not above it, greedy not above beam, nor above swaps."""
    case = make_case(seed, num_candidates=7, levels=64)
    pool = Pool(*case, IGNORED, mean=mean)
    found = {
        name: pool.select(np.arange(7), k=3, exactly=exactly, rules=SelectionRules(name))
        for name in ("greedy", "swap", "beam", "exhaustive")
    }
    assert found["exhaustive"].miou >= found["beam"].miou >= found["greedy"].miou
    assert found["exhaustive"].miou >= found["swap"].miou >= found["greedy"].miou
    arrays = [case[1][case[0].index(key)] for key in pool.keys]
    sizes = (3,) if exactly else (1, 2, 3)
    assert found["exhaustive"].miou == max(
        score_naively(list(subset), case[2], mean) for size in sizes for subset in combinations(arrays, size)
    )
    for selection in found.values():
        assert selection.miou == score_naively([arrays[i] for i in selection.members], case[2], mean)


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_weights_are_what_repeated_members_come_to(seed: int) -> None:
    """With replacement: at most k distinct members, whose weights are multiples of one over the additions; numpy agrees."""
    case = make_case(seed, num_candidates=8)
    pool = pool_of(case)
    selection = pool.select(np.arange(7), k=3, rules=SelectionRules("weighted"))
    assert len(selection.members) <= 3
    assert sum(selection.weights) == pytest.approx(1)
    num_additions = len(selection.repeated)
    assert [weight * num_additions for weight in selection.weights] == [selection.repeated.count(m) for m in selection.members]
    members = [case[1][case[0].index(pool.keys[i])] for i in selection.repeated]
    assert selection.miou == score_naively(members, case[2]) == max(selection.trajectory)
    assert np.array_equal(
        pool.count(selection.repeated, np.arange(7)),
        confusion_per_image(
            np.sum([m.astype(np.int64) for m in members], axis=0).argmax(axis=1), case[2], num_classes=4, ignore_classes=IGNORED
        ),
    )


@pytest.mark.parametrize("name", ["greedy", "weighted", "swap", "beam", "exhaustive"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_limits_hold_for_every_search(name: SearchName, seed: int) -> None:
    """Members never exceed the limit together, and a limit that no candidate meets is reported."""
    case = make_case(seed, num_candidates=7)
    costs = dict(zip(case[0], np.random.default_rng(seed).integers(1, 10, 7).tolist(), strict=True))
    pool = pool_of(case)
    selection = pool.select(np.arange(7), k=4, rules=SelectionRules(name, (Limit(10, costs),)))
    assert sum(costs[pool.keys[i]] for i in selection.members) <= 10
    with pytest.raises(EnsembleError, match="within the limits"):
        pool.select(np.arange(7), k=4, rules=SelectionRules(name, (Limit(0, costs),)))


@pytest.mark.parametrize("name", ["greedy", "weighted", "swap", "beam", "exhaustive"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_of_a_model_one_set_of_predictions_is_a_member_at_most(name: SearchName, seed: int) -> None:
    """In every search; trying every set finds the best that remain, and more members than models are reported."""
    case = make_case(seed, num_candidates=6, levels=64)
    pool, models = pool_of(case), {key: f"m{i // 2}" for i, key in enumerate(case[0])}
    selection = pool.select(np.arange(7), k=3, exactly=True, rules=SelectionRules(name, models=models))
    assert len({models[pool.keys[i]] for i in selection.members}) == 3
    if name == "exhaustive":
        sets = combinations(zip(case[0], case[1], strict=True), 3)
        allowed = [[array for _, array in one] for one in sets if len({models[key] for key, _ in one}) == 3]
        assert selection.miou == max(score_naively(members, case[2]) for members in allowed)
    with pytest.raises(EnsembleError, match=r"exactly 4 .* of 3 models"):
        pool.select(np.arange(7), k=4, exactly=True, rules=SelectionRules(name, models=models))


def test_exactly_k_within_limits_is_found_or_reported() -> None:
    """Where the best alone leaves no room for another, trying every set finds a pair; greedy says that it has none."""
    case = make_case(1, num_candidates=4)
    best = pool_of(case).select(np.arange(7), k=1).members[0]
    pool, costs = pool_of(case), {key: 9.0 if i == best else 4.0 for i, key in enumerate(case[0])}
    limit = (Limit(10, costs),)
    assert len(pool.select(np.arange(7), k=2, exactly=True, rules=SelectionRules("exhaustive", limit)).members) == 2
    with pytest.raises(EnsembleError, match="only 1 fit the limits"):
        pool.select(np.arange(7), k=2, exactly=True, rules=SelectionRules("greedy", limit))


def test_auto_tries_all_sets_only_where_they_are_few() -> None:
    """It says which search it took, and why."""
    small = pool_of(make_case(0)).select(np.arange(7), k=3)
    assert (small.search, small.reason) == ("exhaustive", "auto: all 41 sets of up to 3 of 6 candidates can be tried")
    assert choose("auto", num_candidates=256, k=4, num_bytes=7 * 10**6)[0] == "swap"
    assert choose("auto", num_candidates=40, k=4, num_bytes=64)[0] == "swap"  # small images, but ten thousand questions


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_order_of_images_changes_nothing(seed: int, random: Random) -> None:
    """Any order of the images gives the same members and scores."""
    keys, predictions, labels = make_case(seed)
    order = random.sample(range(7), 7)
    shuffled = pool_of((keys, [p[order] for p in predictions], labels[order]))
    assert shuffled.select(np.arange(7), k=3) == pool_of((keys, predictions, labels)).select(np.arange(7), k=3)


def test_many_candidates_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large for memory is mapped, with the same result."""
    case = make_case(3)
    expected = pool_of(case).select(np.arange(7), k=3)
    monkeypatch.setattr(blocks, "_MAX_IN_MEMORY", 1)
    pool = pool_of(case)
    assert isinstance(pool.predictions.blocks[0].base, np.memmap)
    assert pool.select(np.arange(7), k=3) == expected


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_one_member_is_the_best_single(seed: int) -> None:
    """With k = 1 the confusion matrices are the best trial's own."""
    case = make_case(seed)
    pool = pool_of(case)
    selection = pool.select(np.arange(7), k=1)
    best = max(range(6), key=lambda i: score_naively([case[1][i]], case[2]))
    assert [pool.keys[i] for i in selection.members] == [f"k{best}"]
    own = confusion_per_image(case[1][best].argmax(axis=1), case[2], num_classes=4, ignore_classes=IGNORED)
    assert np.array_equal(pool.count(selection.members, np.arange(7)), own)


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_copies_change_nothing(seed: int) -> None:
    """A candidate given twice counts once, under the first key."""
    keys, predictions, labels = make_case(seed)
    copies = Pool([*keys, *(f"z{key}" for key in keys)], predictions * 2, labels, IGNORED)
    assert copies.keys == tuple(keys)


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_edits_where_nothing_is_scored_change_nothing(seed: int) -> None:
    """Predictions on void and ignored pixels do not count, not even for finding copies."""
    keys, predictions, labels = make_case(seed)
    is_free = np.broadcast_to(((labels == 0) | (labels == 255))[:, None], predictions[0].shape)
    edited = [np.where(is_free, np.random.default_rng(i).integers(0, 256, is_free.shape), p).astype(np.uint8)
              for i, p in enumerate(predictions)]  # fmt: skip
    before = pool_of((keys, predictions, labels)).select(np.arange(7), k=3)
    assert pool_of((keys, edited, labels)).select(np.arange(7), k=3) == before
    assert len(Pool(["a", "b"], [predictions[0], edited[0]], labels, IGNORED).keys) == 1


def test_exactly_takes_k_where_fewer_would_score_better() -> None:
    """By default the best prefix, with ``exactly`` all k."""
    labels = np.array([[[1, 2], [1, 2]]] * 2, np.uint8)
    right = np.stack([labels == c for c in range(3)], axis=1).astype(np.uint8) * 200
    wrong = np.roll(right, 1, axis=1)
    wrong[..., 0] = 255
    pool = Pool(["a", "b"], [right, wrong], labels, IGNORED)
    every = np.arange(2)
    assert pool.select(every, k=2).members == (0,)
    assert pool.select(every, k=2, exactly=True).members == (0, 1)


@pytest.mark.parametrize("damage", ["shape", "type", "keys", "labels", "classes", "none"])
def test_what_does_not_fit_is_refused(damage: str) -> None:
    """Shapes, types, keys and labels are checked, with what was found in the message."""
    keys, predictions, labels = make_case(0)
    if damage == "shape":
        predictions[2] = predictions[2][:5]
    elif damage == "type":
        predictions[2] = predictions[2].astype(np.float32)
    elif damage == "keys":
        keys[1] = keys[0]
    elif damage == "labels":
        labels = np.where(labels == 3, np.uint8(9), labels)
    elif damage == "classes":
        predictions = [np.repeat(p, 64, axis=1) for p in predictions]
    else:
        keys, predictions = [], []
    with pytest.raises(EnsembleError, match=r"expected|Expected|no candidates"):
        Pool(keys, predictions, labels, IGNORED)
