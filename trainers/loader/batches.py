"""Training images -> batches of an epoch; order and augmentation depend on (seed, epoch, image) only."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainers.config import Augmentation, TrainConfig
from trainers.data import DataSet, SplitData
from trainers.data.images import resize_image, resize_mask
from trainers.loader.augment import build_augmentation
from trainers.loader.sampling import Samples, count_occurrences, list_samples

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """A batch of B images, or a whole epoch in the order in which it is shown.

    indices: (B,) into the data set; occurrences: (B,) earlier showings in this epoch; augmentations: (B,) as in ``Samples``.
    """

    epoch: int
    indices: Indices
    occurrences: Indices
    augmentations: Indices

    def part(self, batch: Indices) -> Request:
        return Request(self.epoch, self.indices[batch], self.occurrences[batch], self.augmentations[batch])


class Batches(Protocol):
    """The batches of an epoch: images (B, H, W, C) uint8, masks (B, H, W) uint8.

    num_samples: images shown per epoch.
    """

    num_samples: int

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]: ...


class TrainBatches:
    """Batches of the training images: images (B, H, W, C) uint8, masks (B, H, W) uint8.

    H and W are ``input_size`` if it is set. An epoch shows every sample once, or draws samples by weight. A last batch of one,
    which batch norm over 1x1 features cannot take, joins the previous batch. ``num_loaders`` does not change the result.

    Raises:
        ConfigError: sampling names a class that does not exist, or an augmentation cannot be built.
    """

    def __init__(self, data: SplitData, config: TrainConfig, *, seed: int, num_loaders: int) -> None:
        samples = list_samples(data, config.sampling)
        self.num_samples = len(samples.indices)
        self._requests = Requests(samples, config.batch_size, seed)
        self._loader: DataLoader[Any] = DataLoader(
            _ImageDataset(data, config, seed),
            sampler=self._requests,
            batch_size=None,  # a request is a whole batch: one copy from the memory map instead of one per image
            num_workers=num_loaders,
            pin_memory=num_loaders > 0 and torch.cuda.is_available(),
            persistent_workers=num_loaders > 0,
            worker_init_fn=_ignore_foreign_sigterm if num_loaders > 0 else None,
            multiprocessing_context="fork" if num_loaders > 0 else None,  # nothing is imported or copied again
            generator=torch.Generator(),  # otherwise each epoch would draw from the global one
        )

    def __len__(self) -> int:
        return len(self._requests)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._requests.epoch = number
        return iter(self._loader)


class Requests:
    """The requests of the current epoch, one per batch."""

    def __init__(self, samples: Samples, batch_size: int, seed: int) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._seed = seed
        self.epoch = 1

    def __len__(self) -> int:
        return len(split_batches(self._samples.indices, self._batch_size))

    def __iter__(self) -> Iterator[Request]:
        whole = self.whole()
        for batch in split_batches(np.arange(len(whole.indices)), self._batch_size):
            yield whole.part(batch)

    def whole(self) -> Request:
        order = self._samples.draw(np.random.default_rng([self._seed, self.epoch]))
        indices, augmentations = self._samples.indices[order], self._samples.augmentations[order]
        return Request(self.epoch, indices, count_occurrences(indices), augmentations)


class _ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, data: SplitData, config: TrainConfig, seed: int) -> None:
        self._data = data.data
        self._size = config.input_size
        named = list_augmentations(config)
        self._augmentations = [None if name == "none" else build_augmentation(name) for name in named]
        self._seed = seed

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        images, masks = read_images(self._data, request.indices, self._size)
        for i, (index, occurrence, number) in enumerate(
            zip(request.indices.tolist(), request.occurrences.tolist(), request.augmentations.tolist(), strict=True)
        ):
            augmentation = self._augmentations[number]
            if augmentation is not None:
                again = (occurrence,) if occurrence else ()
                seed = sample_seed(self._seed, request.epoch, index, *again)
                images[i], masks[i] = augmentation(images[i], masks[i], seed)
        return torch.from_numpy(images), torch.from_numpy(masks)


def list_augmentations(config: TrainConfig) -> list[Augmentation]:
    """List the augmentations that the numbers in ``Samples`` stand for."""
    return [config.augmentation, *(repeat.augmentation or "none" for repeat in config.sampling.repeat)]


def read_images(data: DataSet, indices: Indices, size: tuple[int, int] | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Copy images and masks out of the data set, resized to ``size`` (height, width) if it is set."""
    images, masks = data.images[indices], data.masks[indices]
    if size is not None:
        images = np.stack([resize_image(image, size) for image in images])
        masks = np.stack([resize_mask(mask, size) for mask in masks])
    return images, masks


def _ignore_foreign_sigterm(_loader: int) -> None:
    """Exit on SIGTERM only if the parent process sent it (Linux).

    A scheduler sends SIGTERM to all processes of a job, but the training needs its loaders to finish the epoch.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def end() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=end, name="sigterm", daemon=True).start()


def split_batches(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut (N,) indices into batches of ``batch_size``; a last batch of one index joins the previous batch."""
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return np.split(order, starts[1:])


def sample_seed(*parts: int) -> int:
    """Mix integers >= 0 into one 64-bit seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
