"""Which images are found to be outliers, and which are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trainers.config import SyntheticConfig
from trainers.data.quality.duplicates import group_images
from trainers.data.quality.outliers import Outlier, find_outliers
from trainers.data.sources.synthetic import SyntheticSet, make_synthetic


def find(images: np.ndarray, masks: np.ndarray) -> tuple[Outlier, ...]:
    """Outliers of gray images (N, H, W) and their masks."""
    images = images[..., None] if images.ndim == 3 else images
    return find_outliers(images, masks, group_images(images))


def indices(images: np.ndarray, masks: np.ndarray) -> list[int]:
    """Where outliers were found."""
    return [outlier.index for outlier in find(images, masks)]


@pytest.fixture(scope="module")
def terrain() -> SyntheticSet:
    """Sixty clean tiles of 64x128."""
    return make_synthetic(SyntheticConfig(num_images=60, seed=3))


@pytest.fixture(scope="module")
def donor(terrain: SyntheticSet) -> int:
    """A tile whose mask is intricate."""
    return int(np.argmax([np.count_nonzero(np.diff(mask.astype(int))) for mask in terrain.masks]))


def give_mask(terrain: SyntheticSet, donor: int, others: list[int]) -> np.ndarray:
    """Masks of the tiles, those of ``others`` replaced by the donor's."""
    masks = terrain.masks.copy()
    masks[others] = masks[donor]
    return masks


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.2, 0.45])
@pytest.mark.parametrize("size", [(64, 128), (32, 64)])
def test_planted_outliers_are_found(size: tuple[int, int], fraction: float, seed: int) -> None:
    """Precision and recall are at least 0.95 on generated sets of several sizes, shares and seeds."""
    config = SyntheticConfig(num_images=150, height=size[0], width=size[1], seed=seed, outlier_fraction=fraction)
    tiles = make_synthetic(config)
    found, planted = set(indices(tiles.images, tiles.masks)), set(tiles.outliers.tolist())
    assert len(found & planted) >= 0.95 * len(found)
    assert len(found & planted) >= 0.95 * len(planted)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_in_clean_sets(seed: int) -> None:
    """At most 0.5 % of a set that nobody tampered with."""
    tiles = make_synthetic(SyntheticConfig(num_images=200, seed=seed))
    assert len(indices(tiles.images, tiles.masks)) <= 0.005 * 200


def test_is_deterministic() -> None:
    """The same set gives the same answer, reasons included."""
    tiles = make_synthetic(SyntheticConfig(num_images=64, outlier_fraction=0.1))
    assert find(tiles.images, tiles.masks) == find(tiles.images, tiles.masks)


def test_a_pasted_photograph_is_found_by_itself(terrain: SyntheticSet) -> None:
    """Content with texture that returns in other images is enough, whatever the masks say."""
    images = terrain.images.copy()
    figure = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (30, 20), np.uint8), (3, 3), 0)
    for number, index in enumerate([4, 9, 20, 33]):
        images[index, number : number + 30, 20 * number : 20 * number + 20] = figure
    assert indices(images, terrain.masks) == [4, 9, 20, 33]


def test_pasted_colour_is_found(terrain: SyntheticSet) -> None:
    """Images of three channels are searched as gray ones are."""
    images = np.repeat(terrain.images[..., None], 3, axis=3)
    for index, x in ((4, 0), (9, 30), (20, 60)):
        images[index, 10:40, x : x + 30] = np.random.default_rng(0).integers(0, 256, (30, 30, 3))
    assert indices(images, terrain.masks) == [4, 9, 20]


def test_the_original_of_a_copy_stays(terrain: SyntheticSet, donor: int) -> None:
    """A copy under a foreign mask goes; neither its original nor the mask's owner does."""
    original = 7 if donor != 7 else 8
    images = np.concatenate([terrain.images, terrain.images[[original]]])
    masks = np.concatenate([terrain.masks, terrain.masks[[donor]]])
    found = find(images, masks)
    assert [outlier.index for outlier in found] == [60]
    assert f"a copy of image {original} with another mask" in found[0].reasons


def test_one_mask_on_many_images_is_wrong_somewhere(terrain: SyntheticSet, donor: int) -> None:
    """Of differing images under one intricate mask at most one can be right."""
    others = [index for index in (3, 14, 15, 41) if index != donor]
    assert indices(terrain.images, give_mask(terrain, donor, others)) == sorted([donor, *others])


def test_of_two_images_under_one_mask_nothing_says_which(terrain: SyntheticSet, donor: int) -> None:
    """Both stay."""
    assert indices(terrain.images, give_mask(terrain, donor, [14 if donor != 14 else 15])) == []


def test_simple_masks_may_repeat(terrain: SyntheticSet) -> None:
    """One class all over, a frame, a straight horizon: nobody copied these."""
    masks = np.zeros_like(terrain.masks)
    masks[:30, 2:-2, 2:-2] = 1
    masks[30:, 25:] = 2
    assert indices(terrain.images, masks) == []


def test_a_fixed_camera_repeats_its_masks(terrain: SyntheticSet) -> None:
    """Where many masks repeat, that is how the set was labelled."""
    masks = terrain.masks.copy()
    intricate = np.argsort([-np.count_nonzero(np.diff(mask.astype(int))) for mask in masks])[:10]
    for number, owner in enumerate(intricate):
        masks[number * 5 : number * 5 + 5] = terrain.masks[owner]
    assert indices(terrain.images, masks) == []


def test_what_most_images_share_is_no_outlier(terrain: SyntheticSet) -> None:
    """A time stamp in every image is how the set looks."""
    images = terrain.images.copy()
    images[:, 2:14, 4:60] = np.random.default_rng(0).integers(0, 256, (12, 56))
    assert indices(images, terrain.masks) == []


def test_repeated_images_are_no_pasted_content(terrain: SyntheticSet) -> None:
    """Copies of whole images, as an augmented set holds them, are duplicates and nothing else."""
    images, masks = (np.concatenate([array, array[:20], array[:20]]) for array in (terrain.images, terrain.masks))
    assert indices(images, masks) == []


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (4, 3, 300, 3), (4, 300, 4, 1), (4, 5, 5, 1)])
def test_images_too_small_to_judge(shape: tuple[int, ...]) -> None:
    """Sets of any size are looked through without a complaint."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert indices(images, np.zeros(shape[:3], np.uint8)) == []
