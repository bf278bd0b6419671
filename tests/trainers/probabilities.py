"""Probabilities of many images by one model, batch after batch."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from trainers.device import choose_device
from trainers.prediction.predict import predict_batch


def predict_probabilities(
    model: nn.Module,
    images: NDArray[np.uint8],
    *,
    batch_size: int,
    device: str | None = None,
    precision: Literal["auto", "float32", "bf16"] = "auto",
) -> Iterator[NDArray[np.float32]]:
    """Yield probabilities (B, C, H, W) of images (N, H, W, C)."""
    chosen = choose_device(device, precision)
    model.to(chosen.torch).eval()
    for start in range(0, len(images), batch_size):
        yield predict_batch(model, images[start : start + batch_size], chosen).cpu().numpy()
