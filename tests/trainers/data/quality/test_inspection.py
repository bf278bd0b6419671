"""Findings of a data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainers.config import VOID, DataConfig, SyntheticConfig
from trainers.data import DataSet, load_dataset
from trainers.data.quality.inspection import find_odd_intensities, inspect_dataset


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Thirty-two tiles of terrain."""
    return load_dataset(DataConfig(synthetic=SyntheticConfig(num_images=32, height=48, width=64)))


def changed(data: DataSet, *, images: np.ndarray | None = None, masks: np.ndarray | None = None) -> DataSet:
    """The set with other images or masks, ungrouped."""
    return replace(
        data, images=data.images if images is None else images, masks=data.masks if masks is None else masks, groups=None
    )


def test_classes_are_counted(data: DataSet) -> None:
    """Shares are of labelled pixels and sum to one; a class counts once an image."""
    masks = np.zeros_like(data.masks)
    masks[:8, :, :32] = 3
    masks[:, :12] = VOID
    found = inspect_dataset(changed(data, masks=masks), ())
    assert found.class_shares == pytest.approx((0.875, 0, 0, 0.125, 0))
    assert found.images_per_class == (32, 0, 0, 8, 0)


def test_a_clean_set_has_no_findings(data: DataSet) -> None:
    """Nothing is made up."""
    found = inspect_dataset(data, ())
    assert (found.outliers, found.repeated_masks, found.all_ignored) == ((), (), ())


def test_images_without_a_scored_pixel_are_reported(data: DataSet) -> None:
    """Void and ignored classes alike."""
    masks = np.ones_like(data.masks)
    masks[3], masks[5], masks[7, 0] = VOID, 0, 0
    found = inspect_dataset(changed(data, masks=masks), (0,))
    assert found.all_ignored == (3, 5)


def test_duplicates_are_reported_with_the_difference_of_their_masks(data: DataSet) -> None:
    """Identical and nearly identical images, as groups."""
    images, masks = np.concatenate([data.images, data.images[[1, 2]]]), np.concatenate([data.masks, data.masks[[1, 2]]])
    images[33] = np.clip(images[33].astype(int) + 3, 0, 255)
    masks[33] = (masks[2] + 1) % 5
    whole = replace(changed(data, images=images, masks=masks), names=tuple(map(str, range(34))))
    one, two = (group for group in inspect_dataset(whole, ()).duplicates if max(group.indices) > 31)
    assert (one.indices, one.identical, one.disagreement, one.contradicts) == ((1, 32), True, 0, False)
    assert (two.indices, two.identical, two.disagreement, two.contradicts) == ((2, 33), False, 1, True)


def test_odd_intensities_are_reported_with_the_reason(data: DataSet) -> None:
    """Constant, saturated, far from the others in mean or in contrast."""
    images = np.clip(data.images, 40, 200)
    images[1] = 90
    images[2, :, ::2] = 255
    images[3] = np.clip(images[3].astype(int) // 8 + 240, 0, 254)
    reasons = {odd.index: odd.reason for odd in find_odd_intensities(images)}
    assert set(reasons) >= {1, 2, 3}
    assert reasons[1] == "constant, gray level 90"
    assert reasons[2].startswith("saturated, 50% of it")
    assert reasons[3].startswith(("mean gray level 2", "contrast "))


def test_equal_images_are_not_odd() -> None:
    """Where there is no spread, nothing is far from the others."""
    image = np.random.default_rng(0).integers(60, 90, (1, 16, 16, 1), np.uint8)
    assert find_odd_intensities(image.repeat(25, axis=0)) == []


def test_few_images_are_not_compared() -> None:
    """Among a handful, each differs from the others; constant ones are reported all the same."""
    images = np.random.default_rng(0).integers(60, 90, (6, 16, 16, 1), np.uint8)
    images[4], images[5] = images[4] + 120, 7
    assert [odd.index for odd in find_odd_intensities(images)] == [5]
