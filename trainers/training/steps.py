"""The pass over an epoch's batches: forward, loss, backward, one optimizer step per batch; called by train.py."""

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from trainers.config import TrainConfig
from trainers.device import Device
from trainers.errors import ConfigError, DivergedError
from trainers.prediction.predict import to_input
from trainers.training.checkpoint import Trained

Batch = tuple[Tensor, Tensor]
"""Images (B, H, W, C) uint8 and masks (B, H, W) uint8."""


class Steps:
    """Updates the weights of ``trained``, one optimizer step per batch.

    accumulate: parts into which a batch is cut to fit into memory. Their gradients, weighted by number of images, add up. Batch
    norm and means over pixels see only a part, so results differ. on_step: called after each step.
    """

    def __init__(
        self,
        trained: Trained,
        loss: nn.Module,
        config: TrainConfig,
        *,
        device: Device,
        accumulate: int,
        on_step: Callable[[], None],
    ) -> None:
        self._trained, self._loss, self._config, self._device = trained, loss, config, device
        self._accumulate, self._on_step = accumulate, on_step

    def run(self, batches: Iterable[Batch], *, epoch: int, first_step: int) -> dict[str, float]:
        """Run one epoch; returns train/loss, lr (of the last step), images_per_s, epoch_s.

        epoch, first_step: from 1, over the whole training.

        Raises:
            ConfigError: the network cannot take such a batch.
            DivergedError: the loss is NaN or infinite.
        """
        started_s = time.perf_counter()
        trained, losses, num_images, lr = self._trained, [], 0, self._trained.schedule.lr
        trained.model.train()
        for step, (images, masks) in enumerate(batches, start=first_step):
            losses.append(self._add_gradients(images, masks) * len(images))
            if self._config.clip_grad_norm is not None:
                nn.utils.clip_grad_norm_(trained.model.parameters(), self._config.clip_grad_norm)
            trained.optimizer.step()
            trained.optimizer.zero_grad()
            if trained.average is not None:
                trained.average.update(trained.model, step=step)
            lr = trained.schedule.lr
            trained.schedule.after_step()
            num_images += len(images)
            self._on_step()
        values = torch.stack(losses).tolist()  # read at the end: reading each step would make a GPU wait
        for number, value in enumerate(values, start=1):
            if not math.isfinite(value):
                raise DivergedError(
                    f"epoch {epoch}, step {number} of {len(values)}: the loss is {value}. Lower optimizer.lr, or set precision: "
                    "float32"
                )
        epoch_s = time.perf_counter() - started_s
        return {
            "train/loss": sum(values) / num_images,
            "lr": lr,
            "images_per_s": num_images / epoch_s,
            "epoch_s": epoch_s,
        }

    def _add_gradients(self, images: Tensor, masks: Tensor) -> Tensor:
        """Add the batch's gradients to the parameters' gradients; returns its mean loss, detached."""
        mean = torch.zeros((), device=self._device.torch)
        for part, labels in _cut(images, masks, self._accumulate):
            with self._device.autocast():
                logits = self._forward(to_input(part, self._device.torch))
            loss = self._loss(logits, labels.to(self._device.torch, non_blocking=True)) * (len(part) / len(images))
            loss.backward()
            mean += loss.detach()
        return mean

    def _forward(self, images: Tensor) -> Tensor:
        try:
            logits: Tensor = self._trained.model(images)
        except ValueError as error:
            if len(images) == 1 and "more than 1 value per channel" in str(error):
                raise ConfigError(
                    f"batch_size: {self._config.arch} has batch norm over features of one pixel and needs batches of at least 2 "
                    "images; found 1"
                ) from error
            raise
        return logits


def _cut(images: Tensor, masks: Tensor, num_parts: int) -> Iterable[Batch]:
    """Cut a batch into at most ``num_parts`` parts of at least two images; batch norm may need two."""
    parts = max(1, min(num_parts, len(images) // 2))
    return zip(images.tensor_split(parts), masks.tensor_split(parts), strict=True)
