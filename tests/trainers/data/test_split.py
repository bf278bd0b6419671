"""The laws of splitting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.config import VOID, DataConfig, Fold
from trainers.data import DataSet, Split, make_split, split_dataset
from trainers.data.split import fingerprint_scored
from trainers.errors import DataError

few = settings(max_examples=30, deadline=None)


def data_set(groups: list[int], labels: list[int] | None = None, num_classes: int = 3) -> DataSet:
    """Tiny noise images with the given groups, filled with their label; their first pixels hold every class but the last."""
    num_images = len(groups)
    rng = np.random.default_rng(num_images)
    masks = np.zeros((num_images, 4, 4), np.uint8)
    masks[:] = np.array(labels or [0] * num_images, np.uint8)[:, None, None]
    masks[:, 0, : num_classes - 1] = np.arange(num_classes - 1)
    images = rng.integers(0, 256, (num_images, 4, 4, 1), np.uint8)
    names = tuple(map(str, range(num_images)))
    return DataSet(images, masks, names, num_classes, names[:num_classes], "0" * 16, "made up", groups=np.array(groups, np.int64))


groupings = st.lists(st.integers(0, 12), min_size=8, max_size=40).filter(lambda groups: len(set(groups)) >= 4)
plain = DataConfig(ignore_classes=(2,))


@few
@given(groupings, st.floats(0.05, 0.6), st.integers(-5, 5))
def test_sides_are_disjoint_and_cover(groups: list[int], fraction: float, seed: int) -> None:
    """Every image stands on exactly one side, in ascending order, and no group on both."""
    split = make_split(data_set(groups), plain.model_copy(update={"val_fraction": fraction, "split_seed": seed}), None)
    assert sorted([*split.train, *split.val]) == list(range(len(groups)))
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.val) > 0).all()
    assert split.train.dtype == split.val.dtype == np.int64
    assert not {groups[index] for index in split.train} & {groups[index] for index in split.val}


@few
@given(groupings, st.integers(2, 4), st.integers(0, 5))
def test_every_image_is_validated_once(groups: list[int], count: int, seed: int) -> None:
    """Over the folds, the validation sides cover the images once, and keep groups whole."""
    config = plain.model_copy(update={"split_seed": seed})
    splits = [make_split(data_set(groups), config, Fold(index=index, count=count)) for index in range(count)]
    assert sorted(np.concatenate([split.val for split in splits])) == list(range(len(groups)))
    for split in splits:
        assert not {groups[index] for index in split.train} & {groups[index] for index in split.val}


@few
@given(groupings, st.integers(0, 5))
def test_split_depends_on_nothing_else(groups: list[int], seed: int) -> None:
    """Source, cache and limit have no part in the validation side; the same call gives the same split."""
    config = plain.model_copy(update={"split_seed": seed, "val_fraction": 0.3})
    data = data_set(groups)
    first = make_split(data, config, None)
    again = make_split(
        replace(data, source="elsewhere", fingerprint="f" * 16, names=data.names[::-1]),
        config.model_copy(update={"limit": 2}),
        None,
    )
    np.testing.assert_array_equal(first.val, again.val)
    np.testing.assert_array_equal(first.train[:2], again.train)


@few
@given(st.integers(10, 60), st.floats(0.02, 0.9))
def test_size_is_exact_where_images_differ(num_images: int, fraction: float) -> None:
    """Without duplicates the validation side has the asked share, and at least one image."""
    split = make_split(data_set(list(range(num_images))), plain.model_copy(update={"val_fraction": fraction}), None)
    assert len(split.val) == max(1, round(num_images * fraction))


def test_seed_changes_the_split() -> None:
    """Another split seed chooses other images."""
    data = data_set(list(range(60)))
    vals = {tuple(make_split(data, plain.model_copy(update={"split_seed": seed}), None).val) for seed in range(4)}
    assert len(vals) == 4


def test_rarest_class_is_spread() -> None:
    """Both sides get their share of the images that hold the rarest scored class."""
    labels = [2] * 20 + [0] * 180
    data = data_set(list(range(200)), labels)
    for seed in range(5):
        split = make_split(data, DataConfig(val_fraction=0.25, split_seed=seed), None)
        assert (split.val < 20).sum() == 5


def test_folds_spread_the_rarest_class() -> None:
    """Each of four folds validates a quarter of them."""
    data = data_set(list(range(200)), [2] * 20 + [0] * 180)
    vals = [make_split(data, DataConfig(), Fold(index=index, count=4)).val for index in range(4)]
    assert [len(val) for val in vals] == [50] * 4
    assert [int((val < 20).sum()) for val in vals] == [5] * 4


def test_only_group_of_a_class_is_trained_on() -> None:
    """A class that a single group holds goes to the training side, whatever the seed."""
    data = data_set([0, 0, *range(2, 30)], [2, 2] + [0] * 28)
    for seed in range(8):
        assert {0, 1} <= set(make_split(data, DataConfig(val_fraction=0.5, split_seed=seed), None).train.tolist())


def test_limit_keeps_the_first_training_images() -> None:
    """The limit comes after splitting, in index order; validation stays whole."""
    data = data_set(list(range(30)))
    whole = make_split(data, plain, None)
    limited = make_split(data, plain.model_copy(update={"limit": 5}), None)
    np.testing.assert_array_equal(limited.train, whole.train[:5])
    np.testing.assert_array_equal(limited.val, whole.val)


def test_groups_are_found_where_nobody_has_looked() -> None:
    """A data set made by hand, without groups, is searched for duplicates."""
    data = data_set([0] * 12)
    twice = replace(data, images=np.concatenate([data.images[:6]] * 2), groups=None)
    split = make_split(twice, plain.model_copy(update={"val_fraction": 0.5}), None)
    assert not {index % 6 for index in split.train.tolist()} & {index % 6 for index in split.val.tolist()}


def test_one_group_leaves_a_side_empty() -> None:
    """Images that are all alike cannot be split."""
    with pytest.raises(DataError, match="side is empty, all 9 images are on the other"):
        make_split(data_set([0] * 9), plain, None)


def test_more_folds_than_groups() -> None:
    """The number of groups is the most folds there can be."""
    with pytest.raises(DataError, match=r"4 folds of 3 groups of images .*at most 3 folds"):
        make_split(data_set([0, 0, 1, 1, 2, 2]), plain, Fold(index=0, count=4))


def test_class_absent_from_training() -> None:
    """A scored class that training lacks is named, with where it was found."""
    data = replace(data_set(list(range(10)), [2] + [0] * 9), split=Split(np.arange(1, 10), np.arange(1)))
    with pytest.raises(DataError, match=r"absent from the 9 training images: class 2 \(2\), found in 1 of 10 images, 1 of them"):
        make_split(data, DataConfig(), None)


def test_class_that_does_not_exist() -> None:
    """A declared class without a pixel is an error until it is ignored; limiting training is not."""
    data = data_set(list(range(10)))
    with pytest.raises(DataError, match=r"class 2 \(2\), found in 0 of 10 images"):
        make_split(data, DataConfig(), None)
    make_split(data, DataConfig(ignore_classes=(2,), limit=1), None)


def test_void_is_no_class() -> None:
    """Void pixels neither make a class present nor stand in the way."""
    data = data_set(list(range(10)))
    data.masks[:, 2:] = VOID
    make_split(data, plain, None)


def test_lists_and_folds_contradict() -> None:
    """Folds of a fixed split would all be equal: rejected."""
    data = replace(data_set(list(range(10))), split=Split(np.arange(5), np.arange(5, 10)))
    with pytest.raises(DataError, match="all folds would be equal"):
        make_split(data, plain, Fold(index=0, count=2))


def test_ignored_class_must_exist() -> None:
    """An ignored class beyond the last is rejected here too, for data made by hand."""
    with pytest.raises(DataError, match="7 is not a class"):
        make_split(data_set(list(range(10))), DataConfig(ignore_classes=(7,)), None)


def test_scored_fingerprint_ignores_what_is_trained_on() -> None:
    """Limit and source do not change it."""
    data = data_set(list(range(30)))
    whole = split_dataset(data, plain, None)
    other = split_dataset(replace(data, source="x", fingerprint="y"), plain.model_copy(update={"limit": 3}), None)
    assert whole.scored_fingerprint == other.scored_fingerprint


def test_scored_fingerprint_sees_all_that_is_scored() -> None:
    """A pixel, a label, the order, the classes and the ignore rule each change it."""
    data = data_set(list(range(10)))
    val = np.array([1, 4, 6])
    images, masks = data.images.copy(), data.masks.copy()
    images[4, 0, 0] ^= 1
    masks[4, 3, 3] = 1
    prints = {
        fingerprint_scored(data, val, (2,)),
        fingerprint_scored(data, val, ()),
        fingerprint_scored(data, val[::-1], (2,)),
        fingerprint_scored(data, val[:2], (2,)),
        fingerprint_scored(replace(data, images=images), val, (2,)),
        fingerprint_scored(replace(data, masks=masks), val, (2,)),
        fingerprint_scored(replace(data, num_classes=4), val, (2,)),
    }
    assert len(prints) == 7


def test_scored_fingerprint_is_of_sets() -> None:
    """The order in which ignored classes are written does not matter, nor how indices and arrays are stored."""
    data = data_set(list(range(10)))
    one = fingerprint_scored(data, np.array([1, 4]), (0, 2))
    assert one == fingerprint_scored(replace(data, images=np.asfortranarray(data.images)), np.array([1, 4], np.int32), (2, 0))
