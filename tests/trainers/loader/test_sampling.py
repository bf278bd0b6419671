"""trainers.loader.sampling: which training images an epoch shows, and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.config import SamplingConfig, TrainConfig
from trainers.data import DataSet, Split, SplitData
from trainers.errors import ConfigError
from trainers.loader.batches import TrainBatches
from trainers.loader.sampling import count_occurrences, list_samples

CLASSES = (0, 0, 1, 1, 1, 2, 2, 3)
"""The one class of each image of ``data``; the last two are validated on, so that class 3 is not trained on."""


@pytest.fixture
def data() -> SplitData:
    """Eight images, each of one class; class 0 is ignored."""
    masks = np.array(CLASSES, np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    images = (masks * 60)[..., None]
    names = tuple(map(str, range(8)))
    whole = DataSet(images, masks, names, 4, ("none", "soil", "rock", "sand"), fingerprint="0" * 16, source="test")
    return SplitData(whole, Split(np.arange(6), np.arange(6, 8)), (0,), "1" * 16)


def count(data: SplitData, *repeat: dict[str, Any]) -> dict[int, int]:
    """Image -> how often an epoch shows it."""
    samples = list_samples(data, SamplingConfig.model_validate({"repeat": list(repeat)}))
    return dict(Counter(samples.indices.tolist()))


def test_nothing_asked_for_is_the_training_part(data: SplitData) -> None:
    """Each training image once."""
    assert count(data) == dict.fromkeys(range(6), 1)


def test_duplicating_a_class(data: SplitData) -> None:
    """D: images that hold one of the classes are there ``factor`` times, the others once."""
    assert count(data, {"classes": [2], "factor": 3}) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 3}
    assert count(data, {"classes": [1, 2]}) == {0: 1, 1: 1, 2: 2, 3: 2, 4: 2, 5: 2}


def test_duplicating_everything_after_a_class(data: SplitData) -> None:
    """DD: copies are copied again."""
    doubled = count(data, {"classes": [2]}, {"classes": "all"})
    assert doubled == {0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 4}


def test_the_rarest_class_is_a_scored_one_that_occurs(data: SplitData) -> None:
    """Class 2 is in one training image; class 3 is in none, and class 0 is ignored."""
    assert count(data, {"factor": 2}) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 2}


def test_validation_images_are_never_shown(data: SplitData) -> None:
    """Class 2 and 3 have validation images, which no repetition and no weight brings in."""
    config = SamplingConfig.model_validate({"repeat": [{"classes": [2, 3]}, {"classes": "all"}], "weight_power": 1})
    samples = list_samples(data, config)
    drawn = samples.indices[samples.draw(np.random.default_rng(0))]
    assert set(drawn.tolist()) <= set(data.split.train.tolist())


def test_unknown_class_is_rejected_with_the_known_ones(data: SplitData) -> None:
    """The message lists the classes."""
    with pytest.raises(ConfigError, match=r"\[7\] is not a class. Known: 0 \(none\), 1 \(soil\)"):
        count(data, {"classes": [2, 7]})


def test_class_without_training_images_is_reported(data: SplitData, caplog: pytest.LogCaptureFixture) -> None:
    """A limit may leave none; The training continues."""
    assert count(data, {"classes": [3]}) == dict.fromkeys(range(6), 1)
    assert "none of 6 training images holds a class of [3]" in caplog.text


def test_weights_follow_the_rarest_class(data: SplitData) -> None:
    """Shares: soil 3 of 6, rock 1 of 6; ignored background counts as common."""
    samples = list_samples(data, SamplingConfig(weight_power=0.5))
    expected = np.array([1, 1, 2**0.5, 2**0.5, 2**0.5, 6**0.5])
    assert samples.probabilities is not None
    np.testing.assert_allclose(samples.probabilities, expected / expected.sum())


def test_weighted_epochs_are_as_long_and_favour_the_rare(data: SplitData) -> None:
    """Over many epochs the share of draws is the probability."""
    samples = list_samples(data, SamplingConfig(weight_power=1))
    assert samples.probabilities is not None
    draws = np.concatenate([samples.draw(np.random.default_rng(epoch)) for epoch in range(2000)])
    assert len(draws) == 2000 * 6
    np.testing.assert_allclose(np.bincount(draws, minlength=6) / len(draws), samples.probabilities, atol=0.02)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_occurrences_count_what_stands_before(indices: list[int]) -> None:
    """As the plain loop counts."""
    expected = [indices[:i].count(index) for i, index in enumerate(indices)]
    assert count_occurrences(np.array(indices, np.int64)).tolist() == expected


def test_copies_are_augmented_differently_and_reproducibly(data: SplitData) -> None:
    """Two copies of an image in one epoch differ; the same epoch again is the same."""
    noise = [{"name": "GaussNoise", "options": {"std_range": [0.1, 0.2], "p": 1}}]
    only = replace(data, split=Split(np.array([5]), data.split.val))
    config = TrainConfig.model_validate({"augmentation": noise, "sampling": {"repeat": [{"classes": "all", "factor": 3}]}})
    batches = TrainBatches(only, config, seed=0, num_loaders=0)
    (images, _), (again, _) = next(batches.epoch(1)), next(batches.epoch(1))
    assert len({image.numpy().tobytes() for image in images}) == 3
    assert images.equal(again)


def test_copies_may_have_their_own_augmentation(data: SplitData) -> None:
    """The first of each image stays as it is, its copies are turned bright."""
    bright = [{"name": "RandomBrightnessContrast", "options": {"brightness_limit": [0.4, 0.4], "contrast_limit": [0, 0], "p": 1}}]
    only = replace(data, split=Split(np.array([2, 5]), data.split.val))
    config = TrainConfig.model_validate({"sampling": {"repeat": [{"classes": [2], "factor": 3, "augmentation": bright}]}})
    images, masks = next(TrainBatches(only, config, seed=0, num_loaders=0).epoch(1))
    shown = sorted((int(mask[0, 0]), bool((image == data.data.images[2 if mask[0, 0] == 1 else 5, 0, 0, 0]).all()))
                   for image, mask in zip(images, masks, strict=True))  # fmt: skip
    assert shown == [(1, True), (2, False), (2, False), (2, True)]


def test_images_are_brought_to_the_input_size(data: SplitData) -> None:
    """Areas are averaged, labels are picked, never mixed."""
    images = np.zeros((8, 8, 8, 1), np.uint8)
    images[:, :, ::2] = 100
    striped = replace(data, data=replace(data.data, images=images))
    config = TrainConfig.model_validate({"input_size": [4, 4]})
    small, masks = next(TrainBatches(striped, config, seed=0, num_loaders=0).epoch(1))
    assert small.shape == (6, 4, 4, 1)
    assert small.unique().tolist() == [50]
    assert masks.shape == (6, 4, 4)
    assert set(masks.unique().tolist()) == {0, 1, 2}
