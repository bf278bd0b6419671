"""The training loop: configuration and data -> a trained model, its validation confusions and predictions."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.config import CHECKPOINT_INTERVAL_S, OBJECTIVE, TRAINER_VERSION, TrainConfig
from trainers.config.train import EarlyStoppingConfig
from trainers.data import SplitData
from trainers.data.checks import count_labels
from trainers.device import Compute, Device, choose_device, limited_threads, num_loaders, tuned_convolutions
from trainers.errors import ConfigError
from trainers.loader.batches import sample_seed
from trainers.loader.resident import choose_feed, make_batches
from trainers.losses import build_loss
from trainers.models.build import build_model, place_model
from trainers.prediction.predict import measure_latency_ms, predict_batch
from trainers.prediction.weights import ModelInfo, load_weights, read_info
from trainers.training.checkpoint import Progress, Trained, load_last, save_best, save_last
from trainers.training.evaluate import Evaluated, check_scored, evaluate, score
from trainers.training.optim import build_average, build_optimizer, build_schedule
from trainers.training.steps import Steps

_log = logging.getLogger(__name__)

KEPT_BYTES = 2**29
"""Largest predictions that stay in memory from epoch to epoch."""


@dataclass(frozen=True)
class EpochReport:
    """Results of an epoch (from 1); metrics: val/miou, val/iou/<class>, train/loss, lr, images_per_s, epoch_s.

    val_s: seconds of validating and of keeping the best weights; epoch_s is training alone. peak_memory_mb: so far.
    """

    epoch: int
    metrics: dict[str, float]
    is_best: bool
    val_s: float
    peak_memory_mb: float


class Continue(Enum):
    """Answer to an EpochReport. STOP ends the training with a checkpoint to resume from."""

    YES = "yes"
    STOP = "stop"


@dataclass(frozen=True)
class Callbacks:
    """Called by the training: on_epoch after each epoch; on_checkpoint after last.pt was written; on_step after each batch of
    training and evaluation.
    """

    on_epoch: Callable[[EpochReport], Continue] = lambda _report: Continue.YES
    on_checkpoint: Callable[[], None] = lambda: None
    on_step: Callable[[], None] = lambda: None


NO_CALLBACKS = Callbacks()


@dataclass(frozen=True)
class TrainResult:
    """Result of a training; ``metrics`` are the best epoch's.

    confusions: (V, C, C) int64, of the argmax; predictions: (V, C, H, W) uint8, quantized probabilities. Both are in the order
    of the validation images, and None if the training was stopped.
    """

    stopped: bool
    best_epoch: int
    epochs_run: int
    metrics: dict[str, float]
    confusions: NDArray[np.int64] | None
    predictions: NDArray[np.uint8] | None
    facts: dict[str, Any]


def train(
    config: TrainConfig,
    data: SplitData,
    *,
    seed: int,
    folder: Path,
    compute: Compute,
    checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    callbacks: Callbacks = NO_CALLBACKS,
) -> TrainResult:
    """Train, or resume from ``folder``/last.pt, and evaluate the best epoch's weights on the validation images.

    All randomness comes from (seed, epoch, image). On the CPU, with equal threads and precision, equal calls give equal bits,
    interrupted or not; on a GPU they give nearly equal results, as some of its sums have no fixed order. Writes
    best.safetensors, and last.pt at most every ``checkpoint_interval_s``, when stopped and after the last epoch. Another call
    only evaluates again until last.pt is removed, which is safe once the result is stored.

    Raises:
        ConfigError: the configuration cannot be built here.
        DataError: the validation images have no scored pixel.
        DivergedError: the loss is NaN or infinite.
        TrainerError: the folder holds another training's checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = choose_device(compute.device, config.precision)
    forked = torch.random.fork_rng(devices=[device.torch] if device.is_cuda else [])
    with limited_threads(compute.num_threads), tuned_convolutions(device), forked:
        training = _Training(config, data, seed=seed, folder=folder, device=device, compute=compute, callbacks=callbacks)
        return training.run(checkpoint_interval_s)


class _Training:
    """One training on one device, with its progress."""

    def __init__(
        self,
        config: TrainConfig,
        data: SplitData,
        *,
        seed: int,
        folder: Path,
        device: Device,
        compute: Compute,
        callbacks: Callbacks,
    ) -> None:
        torch.manual_seed(seed)
        self.config, self.data, self.seed, self.folder, self.device = config, data, seed, folder, device
        self.batch_size, self.callbacks = max(1, config.batch_size // compute.accumulate), callbacks
        check_scored(data)
        channels, classes = data.data.images.shape[-1], data.data.num_classes
        self.info = ModelInfo(config=config, in_channels=channels, num_classes=classes)
        model = build_model(config, in_channels=channels, num_classes=classes)
        self.model = place_model(model, device.torch)
        self._check_takes(data.data.images[data.split.train[:1]])
        counts = count_labels((data.data.masks[index] for index in data.split.train), classes).sum(axis=0)
        loss = build_loss(config.loss, num_classes=classes, ignore_classes=data.ignore_classes, class_counts=counts)
        self.feed = choose_feed(compute.feed, data, config, device.torch)
        loaders = num_loaders(device, torch.get_num_threads())
        self.batches = make_batches(self.feed, data, config, seed=seed, device=device.torch, num_loaders=loaders)
        optimizer = build_optimizer(config.optimizer, self.model)
        schedule = build_schedule(config.schedule, optimizer, num_steps=config.epochs * len(self.batches))
        average = None if config.ema is None else build_average(config.ema, self.model)
        self.trained = Trained(self.model, optimizer, schedule, average)
        self.steps = Steps(
            self.trained, loss.to(device.torch), config, device=device, accumulate=compute.accumulate, on_step=callbacks.on_step
        )
        self.identity = {
            "config": config.model_dump(mode="json", exclude_defaults=True),  # as in a trial's key: a new field changes nothing
            "seed": seed,
            "data": data.scored_fingerprint,
            "num_train": len(data.split.train),
            "trainer_version": TRAINER_VERSION,
        }
        self.progress = load_last(folder, self.trained, identity=self.identity)

    def run(self, checkpoint_interval_s: float) -> TrainResult:
        saved_s = time.monotonic()
        best: Evaluated | None = None  # of the best epoch, if it ran in this call and is small enough to keep
        while not self._is_done():
            epoch = self.progress.epochs_run + 1
            torch.manual_seed(sample_seed(self.seed, epoch))  # dropout
            first_step = 1 + self.progress.epochs_run * len(self.batches)
            metrics = self.steps.run(self.batches.epoch(epoch), epoch=epoch, first_step=first_step)
            trained_s = time.monotonic()
            evaluated = self._evaluate(keep_predictions=self._num_values <= KEPT_BYTES)
            metrics.update(score(evaluated.confusions, self.data))
            self.trained.schedule.after_epoch(metrics[OBJECTIVE])
            is_best = self._record(epoch, metrics)
            if is_best:
                best = evaluated
            report = EpochReport(
                epoch,
                dict(metrics),
                is_best=is_best,
                val_s=time.monotonic() - trained_s,
                peak_memory_mb=self.device.peak_memory_mb(),
            )
            stop = self.callbacks.on_epoch(report) is Continue.STOP
            if stop or self._is_done() or time.monotonic() - saved_s >= checkpoint_interval_s:
                save_last(self.folder, self.trained, self.progress, identity=self.identity)
                saved_s = time.monotonic()
                self.callbacks.on_checkpoint()
            if stop:
                return self._result(None)
        if best is None or best.predictions is None:
            best = self._evaluate_best()
        return self._result(best)

    def _check_takes(self, images: NDArray[np.uint8]) -> None:
        """Raise ConfigError if the network cannot take images of this size, or its logits have the wrong shape."""
        expected = (len(images), self.data.data.num_classes, *images.shape[1:3])
        try:
            found = tuple(predict_batch(self.model.eval(), images, self.device).shape)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device, not the configuration
        except (RuntimeError, ValueError, AssertionError) as error:
            size = f"{images.shape[1]}x{images.shape[2]}"
            raise ConfigError(f"arch {self.config.arch!r} cannot take images of {size}: {error}") from error
        if found != expected:
            raise ConfigError(f"arch {self.config.arch!r} gave logits of shape {found}; they must be {expected}")

    @property
    def _num_values(self) -> int:
        """Of the predictions of all validation images, one byte each."""
        return len(self.data.split.val) * self.data.data.num_classes * math.prod(self.data.data.masks.shape[1:])

    def _evaluate(self, *, keep_predictions: bool) -> Evaluated:
        return evaluate(
            self.trained.evaluated,
            self.data,
            device=self.device,
            batch_size=self.batch_size,
            keep_predictions=keep_predictions,
            flips=self.config.test_time_flips,
            on_batch=self.callbacks.on_step,
        )

    def _evaluate_best(self) -> Evaluated:
        """Evaluate best.safetensors; its metadata says which epoch it holds."""
        stored = read_info(self.folder)
        load_weights(self.trained.evaluated, self.folder)
        evaluated = self._evaluate(keep_predictions=True)
        if stored.epoch != self.progress.best_epoch:
            # Killed after a better epoch than last.pt knew of, which on a GPU was not reached again: its weights stay.
            self.progress.best_epoch, self.progress.best_metrics = stored.epoch, dict(stored.metrics)
        scores = score(evaluated.confusions, self.data)
        if scores[OBJECTIVE] != stored.metrics[OBJECTIVE]:  # other hardware, threads or precision than in training
            _log.warning("%s of epoch %s: %s then, %s now", OBJECTIVE, stored.epoch, stored.metrics[OBJECTIVE], scores[OBJECTIVE])
        self.progress.best_metrics.update(scores)
        return evaluated

    def _record(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Add the epoch to the history; keep its weights if it is better than all before."""
        self.progress.history.append(metrics)
        is_best = self.progress.best_epoch == 0 or metrics[OBJECTIVE] > self.progress.best_metrics[OBJECTIVE]
        if is_best:
            self.progress.best_epoch, self.progress.best_metrics = epoch, metrics
            info = self.info.model_copy(update={"epoch": epoch, "metrics": metrics})
            save_best(self.folder, self.trained.evaluated, info)
        return is_best

    def _is_done(self) -> bool:
        return self.progress.epochs_run >= self.config.epochs or is_stale(self.config.early_stopping, self.progress)

    def _result(self, best: Evaluated | None) -> TrainResult:
        """Build the result; ``best`` is None if the training was stopped."""
        rates = [metrics["images_per_s"] for metrics in self.progress.history]
        facts = {
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "latency_ms": measure_latency_ms(self.model, self.data.data.images[self.data.split.val[:1]], self.device),
            "images_per_s": float(np.median(rates)),
            "device": self.device.name,
            "precision": self.device.precision,
            "feed": self.feed,
            "num_threads": torch.get_num_threads(),
            "peak_memory_mb": self.device.peak_memory_mb(),
            "num_train": len(self.data.split.train),
            "num_samples": self.batches.num_samples,
            "num_val": len(self.data.split.val),
        }
        return TrainResult(
            stopped=best is None,
            best_epoch=self.progress.best_epoch,
            epochs_run=self.progress.epochs_run,
            metrics=dict(self.progress.best_metrics),
            confusions=None if best is None else best.confusions,
            predictions=None if best is None else best.predictions,
            facts=facts,
        )


def is_stale(config: EarlyStoppingConfig | None, progress: Progress) -> bool:
    """Whether val/miou has not risen by more than ``min_delta`` for ``patience`` epochs."""
    if config is None:
        return False
    best, waited = -math.inf, 0
    for metrics in progress.history:
        risen = metrics[OBJECTIVE] > best + config.min_delta
        best, waited = (metrics[OBJECTIVE], 0) if risen else (best, waited + 1)
    return waited >= config.patience
