"""What counts as nearly identical."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trainers.config import SyntheticConfig
from trainers.data.duplicates import group_pictures
from trainers.data.synthetic import make_synthetic


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
    assert len(np.unique(group_pictures(pictures))) >= 58


@pytest.mark.parametrize("change", ["none", "brightness", "noise", "jpeg"])
def test_changed_copies_join_their_original(pictures: np.ndarray, change: str) -> None:
    """A copy, plain or slightly changed, has its original's group."""
    groups = group_pictures(np.concatenate([pictures, changed(pictures, change)]))
    assert (groups[:60] == groups[60:]).mean() >= 0.98


def test_pasted_object_does_not_join_pictures(pictures: np.ndarray) -> None:
    """The same bright object on differing ground does not make pictures alike."""
    pasted = pictures.copy()
    pasted[:, 8:60, 40:90] = 240
    assert len(np.unique(group_pictures(pasted))) >= 55


def test_colour_pictures(pictures: np.ndarray) -> None:
    """Pictures of three channels are grouped like their gray ones."""
    twice = np.concatenate([pictures, pictures])
    np.testing.assert_array_equal(group_pictures(np.repeat(twice, 3, axis=3)), group_pictures(twice))


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 2, 300, 1), (3, 300, 2, 3)])
def test_featureless_pictures_of_any_shape(shape: tuple[int, ...]) -> None:
    """Constant pictures join where they are equal, of whatever size."""
    pictures = np.zeros(shape, np.uint8)
    pictures[2] = 200
    assert group_pictures(pictures).tolist() == [0, 0, 2]
