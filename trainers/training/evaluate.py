"""Model and validation images -> confusion matrices, predictions and metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainers.config import OBJECTIVE, Flips, TrainConfig
from trainers.data import SplitData
from trainers.device import Compute, Device, choose_device, limited_threads
from trainers.errors import DataError
from trainers.metrics import class_iou, confusion_per_image, mean_iou
from trainers.prediction.predict import predict_batch, quantize
from trainers.prediction.weights import load_checkpoint


@dataclass(frozen=True)
class Evaluated:
    """Results of the V validation images, in order.

    confusions: (V, C, C), of the argmax; predictions: (V, C, H, W) quantized probabilities, None if they were not kept.
    """

    confusions: NDArray[np.int64]
    predictions: NDArray[np.uint8] | None = None


def evaluate(
    model: nn.Module,
    data: SplitData,
    *,
    device: Device,
    batch_size: int,
    keep_predictions: bool,
    flips: Flips = "none",
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Predict every validation image. Confusions do not depend on ``keep_predictions``.

    flips: as in ``predict_batch``; on_batch: called after each batch. The model must be on the device.
    """
    model.eval()
    images, masks, num_classes = data.data.images, data.data.masks, data.data.num_classes
    indices = np.asarray(data.split.val)
    confusions = np.empty((len(indices), num_classes, num_classes), dtype=np.int64)
    shape = (len(indices), num_classes, *masks.shape[1:])
    predictions = np.empty(shape, np.uint8) if keep_predictions else None
    for start in range(0, len(indices), batch_size):
        part = slice(start, start + batch_size)
        probabilities = predict_batch(model, images[indices[part]], device, flips=flips)
        if predictions is None:
            labels = probabilities.argmax(dim=1).cpu().numpy()
        else:
            predictions[part] = quantize(probabilities.cpu().numpy())
            labels = predictions[part].argmax(axis=1)
        confusions[part] = confusion_per_image(
            labels, masks[indices[part]], num_classes=num_classes, ignore_classes=data.ignore_classes
        )
        on_batch()
    return Evaluated(confusions, predictions)


def evaluate_checkpoint(
    folder: Path,
    config: TrainConfig,
    data: SplitData,
    *,
    flips: Flips,
    compute: Compute,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Evaluate the checkpoint that ``train`` wrote to ``folder`` again, with other flips.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    device = choose_device(compute.device, config.precision)
    with limited_threads(compute.num_threads):
        return evaluate(
            load_checkpoint(folder, device.torch),
            data,
            device=device,
            batch_size=max(1, config.batch_size // compute.accumulate),
            keep_predictions=True,
            flips=flips,
            on_batch=on_batch,
        )


def score(confusions: NDArray[np.int64], data: SplitData) -> dict[str, float]:
    """Return val/miou, and val/iou/<class name> of the classes with a defined IoU."""
    total = confusions.sum(axis=0)
    iou = class_iou(total, data.ignore_classes)
    per_class = {f"val/iou/{name}": float(v) for name, v in zip(data.data.class_names, iou, strict=True) if not np.isnan(v)}
    return {OBJECTIVE: float(mean_iou(total, data.ignore_classes)), **per_class}


def check_scored(data: SplitData) -> None:
    """Check that the validation images have something to score.

    Raises:
        DataError: they have no pixel of a scored class.
    """
    if not any(np.isin(data.data.masks[i], data.scored_classes).any() for i in data.split.val):
        raise DataError(f"{data.data.source}: the {len(data.split.val)} validation images have no pixel of a scored class")
