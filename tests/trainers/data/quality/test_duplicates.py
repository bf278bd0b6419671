"""What counts as nearly identical."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trainers.config import SyntheticConfig
from trainers.data.quality.duplicates import find_copies, group_images
from trainers.data.sources.synthetic import make_synthetic


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Sixty tiles of 64x128, among them sky and images of one scene."""
    return make_synthetic(SyntheticConfig(num_images=60)).images[..., None]


def changed(images: np.ndarray, change: str) -> np.ndarray:
    """Return copies that were changed a little."""
    rng = np.random.default_rng(0)
    if change == "brightness":
        return np.clip(images * 1.1 + 5, 0, 255).astype(np.uint8)
    if change == "noise":
        return np.clip(np.round(images + rng.normal(0, 1, images.shape)), 0, 255).astype(np.uint8)
    if change == "jpeg":
        return np.stack([cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0) for image in images])[
            ..., None
        ]
    return images


def test_different_images_stay_apart(images: np.ndarray) -> None:
    """Hardly any of sixty different images are put together."""
    assert len(np.unique(group_images(images))) >= 58


@pytest.mark.parametrize("change", ["none", "brightness", "noise", "jpeg"])
def test_changed_copies_join_their_original(images: np.ndarray, change: str) -> None:
    """A copy, plain or slightly changed, has its original's group."""
    groups = group_images(np.concatenate([images, changed(images, change)]))
    assert (groups[:60] == groups[60:]).mean() >= 0.98


def test_pasted_object_does_not_join_images(images: np.ndarray) -> None:
    """The same bright object on differing ground does not make images alike."""
    pasted = images.copy()
    pasted[:, 8:60, 40:90] = 240
    assert len(np.unique(group_images(pasted))) >= 55


@pytest.mark.parametrize("gray", [0, 128, 255])
def test_a_copy_that_was_pasted_over_joins_its_original(images: np.ndarray, gray: int) -> None:
    """Whatever was pasted over a quarter of a copy, it must not be parted from its original."""
    pasted = images.copy()
    pasted[:, 16:, 20:65] = gray
    groups = group_images(np.concatenate([images, pasted]))
    assert (groups[:60] == groups[60:]).all()


def test_copies_are_found_exactly(images: np.ndarray) -> None:
    """Pairs of an image and its copies, the smaller index first, and no others."""
    copies = np.concatenate([images, images[[3, 3, 10]]])
    copies[61, :20, :50] = 0
    pairs = {tuple(pair) for pair in find_copies(copies).tolist()}
    assert {(3, 60), (10, 62)} <= pairs <= {(3, 60), (3, 61), (60, 61), (10, 62)}
    assert len(pairs) >= 3


def test_flat_images_are_no_copies() -> None:
    """What is equally black or white all over shows nothing that could have been copied."""
    flat = np.zeros((4, 64, 128, 1), np.uint8)
    flat[2:] = 255
    assert len(find_copies(flat)) == 0


def test_colour_images(images: np.ndarray) -> None:
    """Images of three channels are grouped like their gray ones."""
    twice = np.concatenate([images, images])
    np.testing.assert_array_equal(group_images(np.repeat(twice, 3, axis=3)), group_images(twice))


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 2, 300, 1), (3, 300, 2, 3)])
def test_featureless_images_of_any_shape(shape: tuple[int, ...]) -> None:
    """Constant images join where they are equal, of whatever size."""
    images = np.zeros(shape, np.uint8)
    images[2] = 200
    assert group_images(images).tolist() == [0, 0, 2]
