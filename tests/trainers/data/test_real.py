"""The real set, where it lies beside the checkout."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from trainers.config import DataConfig
from trainers.data import DataSet, open_dataset, prepare_dataset, split_dataset
from trainers.data.quality.outliers import find_outliers
from trainers.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
MARS = SHARED / "mars_train.npz"

pytestmark = pytest.mark.skipif(not MARS.exists(), reason="the real set is not beside this checkout: ../shared/data")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def mars(cache: Path) -> DataSet:
    """The real set, prepared."""
    return open_dataset(prepare_dataset(DataConfig(source=str(MARS)), cache))


def test_is_read_as_described(mars: DataSet) -> None:
    """Number, classes and shares are those of its description."""
    assert mars.images.shape == (2615, 64, 128, 1)
    assert mars.num_classes == 5
    shares = np.bincount(mars.masks.ravel()) / mars.masks.size
    np.testing.assert_allclose(shares, [0.411, 0.250, 0.261, 0.073, 0.0055], atol=0.001)


def test_second_preparation_reads_nothing(mars: DataSet, cache: Path) -> None:
    """An unchanged file is recognised by its size and modification time."""
    start = time.perf_counter()
    prepare_dataset(DataConfig(source=str(MARS)), cache)
    assert time.perf_counter() - start < 0.25


def test_different_images_are_not_chained(mars: DataSet) -> None:
    """There are near duplicates, and 109 copies with something pasted over them, in small groups only."""
    sizes = np.bincount(mars.groups)
    assert 20 + 109 - 15 <= (sizes > 1).sum() <= 80 + 109
    assert sizes.max() <= 15


@pytest.mark.slow
def test_outliers_are_removed(mars: DataSet, cache: Path) -> None:
    """As many are found as were planted; without planted ones none is found, and all classes are still there."""
    cleaned = open_dataset(prepare_dataset(DataConfig(source=str(MARS), clean="auto"), cache))
    assert 104 <= len(cleaned.removed) <= 114
    assert cleaned.num_classes == 5
    val = split_dataset(cleaned, DataConfig(ignore_classes=(0,)), None).split.val
    assert (cleaned.masks[val] == 4).any(axis=(1, 2)).sum() == pytest.approx(21.9, abs=3)
    assert find_outliers(cleaned.images, cleaned.masks, cleaned.groups) == ()


def test_splits_by_share_and_class(mars: DataSet) -> None:
    """A tenth is validated, and with it a tenth of the 219 tiles with rock, as far as groups can be dealt out whole."""
    split = split_dataset(mars, DataConfig(ignore_classes=(0,)), None).split
    assert len(split.val) == 262
    assert (mars.masks[split.val] == 4).any(axis=(1, 2)).sum() == pytest.approx(21.9, abs=2)


def test_test_file_is_recognised() -> None:
    """The file without masks is rejected with the reason."""
    with pytest.raises(DataError, match="images without masks"):
        prepare_dataset(DataConfig(source=str(SHARED / "mars_test.npz")), Path())
