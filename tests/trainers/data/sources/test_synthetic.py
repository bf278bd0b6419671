"""The built-in data: what the generator guarantees."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.config import DataConfig, SyntheticConfig
from trainers.data import load_dataset, make_split
from trainers.data.sources.synthetic import SyntheticSource, make_synthetic
from trainers.data.sources.terrain import COLUMNS, ROWS


@pytest.fixture(scope="module")
def default_set():
    """Thirty-four scenes of the default size: enough for shares to come close to those of a large set."""
    return make_synthetic(SyntheticConfig(num_images=300))


@pytest.mark.parametrize(("num_images", "height", "width"), [(8, 16, 16), (13, 17, 31), (9, 64, 128), (10, 200, 90)])
def test_any_number_and_size(num_images: int, height: int, width: int) -> None:
    """Every number and size gives arrays of that number and size."""
    made = make_synthetic(SyntheticConfig(num_images=num_images, height=height, width=width))
    assert made.images.shape == made.masks.shape == (num_images, height, width)
    assert made.images.dtype == made.masks.dtype == np.uint8
    assert made.masks.max() <= 4


def test_same_seed_same_tiles() -> None:
    """The configuration alone decides every pixel."""
    config = SyntheticConfig(num_images=12, height=24, width=24, seed=5, outlier_fraction=0.2)
    one, other = make_synthetic(config), make_synthetic(config)
    for field in ("images", "masks", "scene", "row", "col", "outliers"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize("seed", [-1, 1, 2**70])
def test_other_seed_other_tiles(seed: int) -> None:
    """Any whole number is a seed, and gives images of its own."""
    tiles = make_synthetic(SyntheticConfig(num_images=8, height=16, width=16))
    others = make_synthetic(SyntheticConfig(num_images=8, height=16, width=16, seed=seed))
    assert (tiles.images != others.images).any(axis=(1, 2)).all()


def test_layout_is_a_grid_of_each_scene(default_set) -> None:
    """No two tiles lie at the same place, and places lie within their scene."""
    places = set(zip(default_set.scene.tolist(), default_set.row.tolist(), default_set.col.tolist(), strict=True))
    assert len(places) == 300
    assert default_set.row.max() == ROWS - 1
    assert default_set.col.max() == COLUMNS - 1
    assert default_set.scene.max() == 33


def test_neighbours_continue_each_other() -> None:
    """The layout is true: a tile's right edge fits the left edge of its neighbour, better than any other tile's."""
    made = make_synthetic(SyntheticConfig(num_images=18))
    for index in np.flatnonzero(made.col < COLUMNS - 1):
        edge = made.images[index][:, -1].astype(float)
        distances = np.abs(made.images[:, :, 0] - edge).mean(axis=1)
        fits = (made.scene == made.scene[index]) & (made.row == made.row[index]) & (made.col == made.col[index] + 1)
        assert distances[fits].item() < np.median(distances)


def test_pixel_shares_are_near_the_real_ones(default_set) -> None:
    """Background, soil, bedrock, sand and rock have about the shares of the real set."""
    shares = np.bincount(default_set.masks.ravel(), minlength=5) / default_set.masks.size
    np.testing.assert_allclose(shares[:4], [0.41, 0.25, 0.26, 0.073], atol=0.06)
    assert 0.003 < shares[4] < 0.009


def test_big_rocks_cluster(default_set) -> None:
    """About a twelfth of the tiles hold big rocks, and they lie in a quarter of the scenes."""
    holds_rock = (default_set.masks == 4).any(axis=(1, 2))
    assert 0.05 < holds_rock.mean() < 0.13
    assert len(np.unique(default_set.scene[holds_rock])) / len(np.unique(default_set.scene)) < 0.3


def test_gray_level_alone_tells_little(default_set) -> None:
    """The best label by gray level alone is right on less than two thirds of the labelled pixels."""
    labelled = default_set.masks > 0
    joint = np.zeros((256, 5), np.int64)
    np.add.at(joint, (default_set.images[labelled], default_set.masks[labelled]), 1)
    assert joint.max(axis=1).sum() / joint.sum() < 0.66


def test_smallest_set_can_be_split() -> None:
    """Every class is found on the training side even of eight tiles."""
    for seed in range(5):
        config = DataConfig(synthetic=SyntheticConfig(num_images=8, height=16, width=32, seed=seed), ignore_classes=(0,))
        assert len(make_split(load_dataset(config), config, None).val) == 1


def test_outliers_are_reported() -> None:
    """The tiles that differ from the clean set are the outliers, and they all have one untouched tile's mask."""
    clean = make_synthetic(SyntheticConfig(num_images=40, height=32, width=64))
    made = make_synthetic(SyntheticConfig(num_images=40, height=32, width=64, outlier_fraction=0.1))
    changed = np.flatnonzero((clean.images != made.images).any(axis=(1, 2)))
    np.testing.assert_array_equal(changed, made.outliers)
    assert len(made.outliers) == 4
    masks = made.masks[made.outliers]
    assert (masks == masks[0]).all()
    assert (np.delete(made.masks, made.outliers, axis=0) == masks[0]).all(axis=(1, 2)).any()


def test_clean_set_has_no_outliers() -> None:
    """Without a fraction there are none."""
    assert len(make_synthetic(SyntheticConfig(num_images=8, height=16, width=16)).outliers) == 0


def test_fingerprint_is_of_the_configuration() -> None:
    """Every field changes the fingerprint."""
    configs = [{}, {"seed": 1}, {"num_images": 8}, {"width": 64}, {"outlier_fraction": 0.1}]
    assert len({SyntheticSource(SyntheticConfig(**config)).fingerprint() for config in configs}) == len(configs)
