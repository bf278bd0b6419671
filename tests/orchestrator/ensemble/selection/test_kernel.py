"""Counting candidates equals naive integer numpy, whatever the sizes, ties, classes, tiles and threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.selection import counting
from orchestrator.ensemble.selection.blocks import make_blocks, make_layout
from orchestrator.ensemble.selection.counting import CandidateCounter
from orchestrator.ensemble.selection.kernel import LANES, MAX_RUN, UNSCORED
from trainers.prediction.means import Mean, to_addends

MEANS: list[Mean] = ["arithmetic", "geometric", "vote"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray, list[int]]:
    """(candidates (V, C, P), labels (V, P), members): few different values for many ties, absent classes, sizes around 64."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_images, num_classes = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3, 5, 8]))
    num_pixels = draw(st.sampled_from([1, 63, 64, 65, 300]))
    values = draw(st.sampled_from([[0], [0, 255], [0, 1, 254, 255], list(range(256))]))
    shape = (num_images, num_classes, num_pixels)
    candidates = [random.choice(np.array(values, np.uint8), shape) for _ in range(4)]
    present = random.choice([*range(num_classes), UNSCORED], draw(st.integers(1, num_classes)))
    labels = random.choice(present.astype(np.uint8), (num_images, num_pixels))
    return candidates, labels, draw(st.lists(st.integers(0, 3), max_size=5))


def count_naively(candidates: list[np.ndarray], labels: np.ndarray, members: list[int], mean: Mean) -> np.ndarray:
    """(M, V, C, C) in plain numpy: of every candidate added to the members."""
    num_images, num_classes, _ = candidates[0].shape
    addends = [to_addends(candidate[..., None], mean)[..., 0].astype(np.int64) for candidate in candidates]
    sums = np.sum([np.zeros_like(addends[0]), *(addends[member] for member in members)], axis=0)
    confusions = np.zeros((len(candidates), num_images, num_classes, num_classes), np.int64)
    for found, addend in zip(confusions, addends, strict=True):
        predicted = (sums + addend).argmax(axis=1)
        for image in range(num_images):
            scored = labels[image] != UNSCORED
            np.add.at(found[image], (labels[image][scored], predicted[image][scored]), 1)
    return confusions


@pytest.mark.parametrize("mean", MEANS)
@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_counts_equal_numpy(mean: Mean, case: tuple[list[np.ndarray], np.ndarray, list[int]]) -> None:
    """Exact for every kind of mean, number of classes, size, tie, absent class and repeated member; summed over images too."""
    candidates, labels, members = case
    layout = make_layout(labels, candidates[0].shape[1])
    counter = CandidateCounter(layout, make_blocks(layout, candidates, num_candidates=len(candidates)), mean)
    counts = counter.count_additions(tuple(members))
    expected = count_naively(candidates, labels, members, mean)
    assert np.array_equal(counter.split_by_image(counts), expected)
    some = np.arange(0, len(labels), 2)
    assert np.array_equal(counter.add_up(counts, some), expected[:, some].sum(axis=1))


def test_tiles_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread with the whole at once counts what eight with a run each count, of runs that are full to the last byte too."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.array([[1], [2], [2]], np.uint8), LANES * MAX_RUN + 70, axis=1)
    candidates = [random.integers(0, 256, (3, 3, labels.shape[1]), dtype=np.uint8) for _ in range(3)]
    layout = make_layout(labels, 3)
    blocks = make_blocks(layout, candidates, num_candidates=len(candidates))
    found = []
    for num_threads, tile in ((1, 2**30), (8, 1)):
        monkeypatch.setattr(counting, "count_cores", lambda num=num_threads: num)
        monkeypatch.setattr(counting, "_TILE", tile)
        found.append(CandidateCounter(layout, blocks, "arithmetic").count_additions((0, 2)))
    assert np.array_equal(*found)
    assert found[0].sum() == 3 * labels.size


@given(cases())
@settings(max_examples=20, deadline=None)
def test_blocks_give_the_predictions_back(case: tuple[list[np.ndarray], np.ndarray, list[int]]) -> None:
    """Every scored pixel comes back where it was, others as 0."""
    candidates, labels, _ = case
    layout = make_layout(labels, candidates[0].shape[1])
    is_scored = (labels != UNSCORED)[:, None]
    for candidate, blocks in zip(candidates, make_blocks(layout, candidates, num_candidates=len(candidates)), strict=True):
        assert np.array_equal(layout.restore(blocks), np.where(is_scored, candidate, 0))


def test_a_single_member_predicts_its_stored_argmax() -> None:
    """With nothing added the winner is argmax, the lowest class on ties."""
    candidate = np.array([[[5, 9, 0], [5, 9, 0], [1, 9, 7]]], np.uint8)
    layout = make_layout(np.array([[1, 1, 1]], np.uint8), 3)
    counter = CandidateCounter(layout, make_blocks(layout, [candidate], num_candidates=1), "arithmetic")
    assert counter.count_additions(()).tolist() == [[[2, 0, 1]]]
