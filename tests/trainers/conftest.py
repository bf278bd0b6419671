from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from trainers.config import VOID, TrainConfig
from trainers.data import DataSet, Split, SplitData


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch: the cores are shared, and sums of one order are repeatable."""
    from trainers.device import (
        limited_threads,  # imports torch; not above: the tests of trainers.data live below this folder and need no torch
    )

    with limited_threads(1):
        yield


@pytest.fixture
def make_data() -> Callable[..., SplitData]:
    """Build a small set whose classes are bands of brightness, with noise, a void border and class 0 ignored."""

    def make(
        *, num_train: int = 6, num_val: int = 3, size: int = 32, channels: int = 1, num_classes: int = 4, seed: int = 0
    ) -> SplitData:
        rng = np.random.default_rng(seed)
        count = num_train + num_val
        coarse = rng.integers(0, num_classes, (count, size // 8, size // 8), dtype=np.uint8)
        masks = coarse.repeat(8, axis=1).repeat(8, axis=2)
        noise = rng.integers(0, 40, (count, size, size, channels))
        images = (masks[..., np.newaxis] * 50 + noise).astype(np.uint8)
        masks[:, 0, :] = VOID
        names = tuple(f"tile{i}" for i in range(count))
        classes = tuple(f"class{c}" for c in range(num_classes))
        data = DataSet(images, masks, names, num_classes, classes, fingerprint="0" * 16, source="test", split=None)
        return SplitData(data, Split(np.arange(num_train), np.arange(num_train, count)), (0,), "1" * 16)

    return make


@pytest.fixture
def make_config() -> Callable[..., TrainConfig]:
    """Build a configuration that trains in seconds; arguments override its fields."""

    def make(**fields: Any) -> TrainConfig:
        small = {
            "arch_options": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
            "encoder": "mobilenet_v2",
            "epochs": 2,
            "batch_size": 3,
            "optimizer": {"lr": 0.003},
        }
        return TrainConfig.model_validate({**small, **fields})

    return make
