"""What counts as nearly identical."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trainers.config import SyntheticConfig
from trainers.data.quality.duplicates import find_copies, group_images
from trainers.data.sources.synthetic import make_synthetic


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Sixty tiles of 64x128, among them sky and pictures of one scene."""
    return make_synthetic(SyntheticConfig(num_images=60)).images[..., None]


def changed(pictures: np.ndarray, change: str) -> np.ndarray:
    """Return copies that were changed a little."""
    rng = np.random.default_rng(0)
    if change == "brightness":
        return np.clip(pictures * 1.1 + 5, 0, 255).astype(np.uint8)
    if change == "noise":
        return np.clip(np.round(pictures + rng.normal(0, 1, pictures.shape)), 0, 255).astype(np.uint8)
    if change == "jpeg":
        return np.stack(
            [cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0) for picture in pictures]
        )[..., None]
    return pictures


def test_different_pictures_stay_apart(pictures: np.ndarray) -> None:
    """Hardly any of sixty different pictures are put together."""
    assert len(np.unique(group_images(pictures))) >= 58


@pytest.mark.parametrize("change", ["none", "brightness", "noise", "jpeg"])
def test_changed_copies_join_their_original(pictures: np.ndarray, change: str) -> None:
    """A copy, plain or slightly changed, has its original's group."""
    groups = group_images(np.concatenate([pictures, changed(pictures, change)]))
    assert (groups[:60] == groups[60:]).mean() >= 0.98


def test_pasted_object_does_not_join_pictures(pictures: np.ndarray) -> None:
    """The same bright object on differing ground does not make pictures alike."""
    pasted = pictures.copy()
    pasted[:, 8:60, 40:90] = 240
    assert len(np.unique(group_images(pasted))) >= 55


@pytest.mark.parametrize("gray", [0, 128, 255])
def test_a_copy_that_was_pasted_over_joins_its_original(pictures: np.ndarray, gray: int) -> None:
    """Whatever was pasted over a quarter of a copy, it must not be parted from its original."""
    pasted = pictures.copy()
    pasted[:, 16:, 20:65] = gray
    groups = group_images(np.concatenate([pictures, pasted]))
    assert (groups[:60] == groups[60:]).all()


def test_copies_are_found_exactly(pictures: np.ndarray) -> None:
    """Pairs of a picture and its copies, the smaller index first, and no others."""
    copies = np.concatenate([pictures, pictures[[3, 3, 10]]])
    copies[61, :20, :50] = 0
    pairs = {tuple(pair) for pair in find_copies(copies).tolist()}
    assert {(3, 60), (10, 62)} <= pairs <= {(3, 60), (3, 61), (60, 61), (10, 62)}
    assert len(pairs) >= 3


def test_flat_pictures_are_no_copies() -> None:
    """What is equally black or white all over shows nothing that could have been copied."""
    flat = np.zeros((4, 64, 128, 1), np.uint8)
    flat[2:] = 255
    assert len(find_copies(flat)) == 0


def test_colour_pictures(pictures: np.ndarray) -> None:
    """Pictures of three channels are grouped like their gray ones."""
    twice = np.concatenate([pictures, pictures])
    np.testing.assert_array_equal(group_images(np.repeat(twice, 3, axis=3)), group_images(twice))


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 2, 300, 1), (3, 300, 2, 3)])
def test_featureless_pictures_of_any_shape(shape: tuple[int, ...]) -> None:
    """Constant pictures join where they are equal, of whatever size."""
    pictures = np.zeros(shape, np.uint8)
    pictures[2] = 200
    assert group_images(pictures).tolist() == [0, 0, 2]
