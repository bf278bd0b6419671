"""trainers.training.train with batches made on the device, here the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from trainers.config import TrainConfig
from trainers.data import SplitData
from trainers.device import Compute
from trainers.training.train import TrainResult, train

pytestmark = pytest.mark.usefixtures("one_thread")
MakeConfig = Callable[..., TrainConfig]
Feed = Literal["auto", "loaders", "device"]


def run(config: TrainConfig, data: SplitData, folder: Path, feed: Feed) -> TrainResult:
    """Train on the CPU."""
    return train(config, data, seed=1, folder=folder, compute=Compute("cpu", 1, feed=feed))


def test_without_augmentation_both_feeds_train_the_same(
    tmp_path: Path, make_config: MakeConfig, make_data: Callable[..., SplitData]
) -> None:
    """Confusions and predictions, byte for byte; the facts say which was used, and auto means loaders on the CPU."""
    config, data = make_config(precision="float32"), make_data()
    first, second = (run(config, data, tmp_path / feed, feed) for feed in ("device", "auto"))
    assert (first.facts["feed"], second.facts["feed"]) == ("device", "loaders")
    assert np.array_equal(first.confusions, second.confusions)
    assert np.array_equal(first.predictions, second.predictions)


@pytest.mark.parametrize(
    ("augmentation", "feed"), [("mixed", "device"), ([{"name": "HorizontalFlip", "options": {"p": 0.5}}], "loaders")]
)
def test_named_augmentations_run_on_the_device(
    augmentation: Any, feed: str, tmp_path: Path, make_config: MakeConfig, make_data: Callable[..., SplitData]
) -> None:
    """Custom lists of transforms come from loaders, whatever is asked for."""
    result = run(make_config(augmentation=augmentation), make_data(channels=3), tmp_path, "device")
    assert result.facts["feed"] == feed
