"""Selection is greedy as brute force would be, then never worse; order, copies and ignored pixels change nothing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.selection import Pool
from orchestrator.errors import EnsembleError
from orchestrator.stats import compute_miou
from trainers.metrics import confusion_per_image

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


def score_naively(members: list[np.ndarray], labels: np.ndarray) -> float:
    """MIoU of the mean of some predictions, in plain numpy."""
    predicted = np.sum([m.astype(np.int64) for m in members], axis=0).argmax(axis=1)
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
    """The trajectory is that of a plain numpy loop, ties included; the result is at least its best prefix."""
    case = make_case(seed, levels=levels)
    pool = pool_of(case)
    if len(pool.keys) < len(case[0]):
        return  # copies count once here, not in the plain loop
    selection = pool.select(np.arange(7), k=4)
    _, trajectory = choose_naively(case, 4)
    assert list(selection.trajectory) == trajectory
    assert selection.miou >= max(trajectory)


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_the_result_scores_what_it_says_and_lies_between_single_and_exhaustive(seed: int) -> None:
    """Never below the best single, never above the best of all subsets, and its figure is numpy's."""
    case = make_case(seed)
    pool = pool_of(case)
    selection = pool.select(np.arange(7), k=3)
    members = [case[1][case[0].index(pool.keys[i])] for i in selection.members]
    assert selection.miou == score_naively(members, case[2])
    subsets = [s for size in (1, 2, 3) for s in combinations(case[1], size)]
    best = max(score_naively(list(subset), case[2]) for subset in subsets)
    assert max(pool.rank_singles(np.arange(7))) <= selection.miou <= best


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
    """Predictions on void and ignored pixels take no part, not even in telling copies apart."""
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


@pytest.mark.parametrize("damage", ["shape", "type", "keys", "labels", "none"])
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
    else:
        keys, predictions = [], []
    with pytest.raises(EnsembleError, match=r"expected|Expected|no candidates"):
        Pool(keys, predictions, labels, IGNORED)
