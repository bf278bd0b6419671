from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
from torch import Tensor

from trainers.config import TrainConfig
from trainers.data import SplitData
from trainers.loader.batches import TrainBatches, sample_seed, split_batches

Make = Callable[..., SplitData]


def collect(batches: TrainBatches, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """All batches of an epoch."""
    return list(batches.epoch(epoch))


def make_batches(data: SplitData, *, seed: int = 0, num_loaders: int = 0, **fields: Any) -> TrainBatches:
    """Batches of four, with augmentation by default, so that they depend on every random source."""
    config = TrainConfig.model_validate({"batch_size": 4, "augmentation": "flip_brightness", **fields})
    return TrainBatches(data, config, seed=seed, num_loaders=num_loaders)


def is_same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether every batch is the same, bit for bit."""
    return all(a.equal(c) and b.equal(d) for (a, b), (c, d) in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(8, 4, [4, 4]), (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (3, 1, [1, 2])],
)
def test_no_last_batch_of_one(count: int, size: int, sizes: list[int]) -> None:
    """A last single image joins the batch before it, and every image is there once."""
    batches = split_batches(np.arange(count), size)
    assert [len(b) for b in batches] == sizes
    assert np.concatenate(batches).tolist() == list(range(count))


def test_every_image_is_seen_once_an_epoch(make_data: Make) -> None:
    """Without augmentation the epoch's masks are the training part's, in another order."""
    data = make_data(num_train=9)
    batches = make_batches(data, augmentation="none")
    seen = sorted(mask.numpy().tobytes() for _, masks in collect(batches, 1) for mask in masks)
    assert seen == sorted(data.data.masks[i].tobytes() for i in data.split.train)
    assert len(batches) == 2


def test_epochs_differ_and_repeat(make_data: Make) -> None:
    """Each epoch has its own order and augmentation, whenever it is asked for."""
    batches = make_batches(make_data())
    first, second = collect(batches, 1), collect(batches, 2)
    assert not is_same(first, second)
    assert is_same(first, collect(make_batches(make_data()), 1))


def test_seeds_differ(make_data: Make) -> None:
    """Another seed, another order."""
    assert not is_same(collect(make_batches(make_data()), 1), collect(make_batches(make_data(), seed=1), 1))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and later
def test_loader_processes_change_nothing(make_data: Make) -> None:
    """Two loaders over two epochs give what none gives."""
    alone, helped = make_batches(make_data()), make_batches(make_data(), num_loaders=2)
    for epoch in (1, 2):
        assert is_same(collect(alone, epoch), collect(helped, epoch))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 and later
def test_loaders_end_with_their_training_alone(make_data: Make) -> None:
    """SIGTERM of a stranger, as of a scheduler that ends a job, is ignored; the training's ends the loader."""
    others = psutil.Process().children()  # of earlier tests
    batches = make_batches(make_data(num_train=16), num_loaders=2)
    epoch = batches.epoch(1)
    first = [next(epoch)]
    loaders = [child for child in psutil.Process().children() if child not in others]
    assert len(loaders) == 2
    for loader in loaders:
        subprocess.run(["kill", "-TERM", str(loader.pid)], check=True)
    assert is_same([*first, *epoch], collect(make_batches(make_data(num_train=16)), 1))
    for loader in loaders:
        loader.terminate()
    assert psutil.wait_procs(loaders, timeout=10)[1] == []


def test_data_is_not_written_to(make_data: Make) -> None:
    """Augmentation works on copies: the prepared data may be a read-only memory map."""
    data = make_data()
    data.data.images.flags.writeable = False
    data.data.masks.flags.writeable = False
    collect(make_batches(data), 1)


def test_sample_seeds_differ() -> None:
    """Every (seed, epoch, image) has its own."""
    assert len({sample_seed(s, e, i) for s in range(5) for e in range(5) for i in range(20)}) == 500
