"""Training images that stay on the device: batches are gathered and augmented there, and the host only names them."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainers.config import TrainConfig
from trainers.data import SplitData
from trainers.loader.batches import Batches, Requests, TrainBatches, list_augmentations, read_images, split_batches
from trainers.loader.device_augment import augment, draw, is_supported, make_keys, upload
from trainers.loader.sampling import list_samples

Feed = Literal["auto", "loaders", "device"]
"""Where batches are made. auto: on a GPU if the data fits and the augmentation is supported, else by loaders."""

SHARE_OF_FREE = 8
"""The training images may take one part in this many of the GPU's free memory."""


def choose_feed(feed: Feed, data: SplitData, config: TrainConfig, device: torch.device) -> Literal["loaders", "device"]:
    """Choose by ``auto`` where ``feed`` leaves it open; what cannot be augmented on the device comes from loaders."""
    size = config.input_size or data.data.images.shape[1:3]
    can = all(is_supported(augmentation, size) for augmentation in list_augmentations(config))
    if feed != "auto" or device.type != "cuda":
        return "device" if feed == "device" and can else "loaders"
    num_bytes = len(data.split.train) * (data.data.images.shape[-1] + 1) * size[0] * size[1]
    return "device" if can and num_bytes * SHARE_OF_FREE <= torch.cuda.mem_get_info(device)[0] else "loaders"


def make_batches(
    feed: Literal["loaders", "device"],
    data: SplitData,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    num_loaders: int,
) -> Batches:
    """Make the batches where ``choose_feed`` says.

    Raises:
        ConfigError: as ``TrainBatches``.
    """
    if feed == "device":
        return ResidentBatches(data, config, seed=seed, device=device)
    return TrainBatches(data, config, seed=seed, num_loaders=num_loaders)


class ResidentBatches:
    """Shows the samples of ``TrainBatches`` in its order; without augmentation the same batches.

    Augmentation has the same distribution, from other random numbers: they depend on (seed, epoch, image, occurrence) only.

    Raises:
        ConfigError: sampling names a class that does not exist.
    """

    def __init__(self, data: SplitData, config: TrainConfig, *, seed: int, device: torch.device) -> None:
        samples = list_samples(data, config.sampling)
        self.num_samples = len(samples.indices)
        self._requests = Requests(samples, config.batch_size, seed)
        self._batch_size, self._seed, self._device = config.batch_size, seed, device
        self._names = [str(augmentation) for augmentation in list_augmentations(config)]
        self._train = np.asarray(data.split.train)
        self._images, self._masks = (
            upload(torch.from_numpy(values), device) for values in read_images(data.data, self._train, config.input_size)
        )

    def __len__(self) -> int:
        return len(self._requests)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._requests.epoch = number
        shown = self._requests.whole()
        places = upload(torch.from_numpy(np.searchsorted(self._train, shown.indices)), self._device)
        keys = make_keys(self._seed, number, shown.indices, shown.occurrences)
        height, width = self._masks.shape[1:]
        draws = draw(self._names, shown.augmentations, keys, size=(height, width)).to(self._device)
        for batch in split_batches(np.arange(len(keys)), self._batch_size):
            part = slice(int(batch[0]), int(batch[-1]) + 1)
            images, masks = self._images.index_select(0, places[part]), self._masks.index_select(0, places[part])
            yield augment(images, masks, draws.part(part))
