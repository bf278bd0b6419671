"""Prepared pictures -> batches of an epoch, in an order and with augmentations that depend on (seed, epoch, picture) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainers.augment import Augmentation
from trainers.data import SplitData

Request = tuple[int, NDArray[np.int64]]
"""An epoch and the indices of one batch."""


class TrainBatches:
    """Batches of the training part; a batch is (images (B, H, W, C) uint8, masks (B, H, W) uint8).

    Every picture is seen once an epoch: a last batch of one, which batch norm over 1x1 features cannot take, joins the one
    before. With ``num_loaders`` processes the result is the same as without.
    """

    def __init__(
        self, data: SplitData, augmentation: Augmentation | None, *, batch_size: int, seed: int, num_loaders: int
    ) -> None:
        self._requests = _Requests(np.asarray(data.split.train), batch_size, seed)
        self._loader: DataLoader[Any] = DataLoader(
            _Pictures(data, augmentation, seed),
            sampler=self._requests,
            batch_size=None,  # a request is a whole batch: one copy out of the memory map instead of one a picture
            num_workers=num_loaders,
            pin_memory=num_loaders > 0 and torch.cuda.is_available(),
            persistent_workers=num_loaders > 0,
            multiprocessing_context="fork" if num_loaders > 0 else None,  # nothing is imported or copied again
            generator=torch.Generator(),  # else each epoch would take a number from the global one
        )

    def __len__(self) -> int:
        return len(self._requests)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._requests.epoch = number
        return iter(self._loader)


class _Requests:
    """What the loader is asked for, batch by batch, in the current epoch."""

    def __init__(self, indices: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self._indices = indices
        self._batch_size = batch_size
        self._seed = seed
        self.epoch = 1

    def __len__(self) -> int:
        return len(split_batches(self._indices, self._batch_size))

    def __iter__(self) -> Iterator[Request]:
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._indices)
        return ((self.epoch, batch) for batch in split_batches(order, self._batch_size))


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, data: SplitData, augmentation: Augmentation | None, seed: int) -> None:
        self._images = data.data.images
        self._masks = data.data.masks
        self._augmentation = augmentation
        self._seed = seed

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        epoch, indices = request
        images, masks = self._images[indices], self._masks[indices]
        if self._augmentation is not None:
            for i, index in enumerate(indices):
                images[i], masks[i] = self._augmentation(images[i], masks[i], sample_seed(self._seed, epoch, int(index)))
        return torch.from_numpy(images), torch.from_numpy(masks)


def split_batches(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut (N,) indices into batches of ``batch_size``; a last one of a single index joins the one before it."""
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return np.split(order, starts[1:])


def sample_seed(*parts: int) -> int:
    """Mix integers >= 0 into one seed of 64 bits."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
