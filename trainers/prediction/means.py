"""Combines the members' quantized probabilities: what each adds to the sum of a class, in whole numbers; numpy only."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mean = Literal["arithmetic", "geometric", "vote"]

_LARGEST = 2**16 - 1


def make_table(mean: Mean) -> NDArray[np.int32]:
    """Return what a quantized probability, 0..255, adds to the sum of its class: (256,).

    The arithmetic mean adds the value itself. The geometric mean adds its logarithm, with 0 as half a step, scaled to 0..65535
    and rounded, so that sums are exact. Votes do not use the table.
    """
    if mean != "geometric":
        return np.arange(256, dtype=np.int32)
    span = math.log(255 / 0.5)
    return np.array([round(_LARGEST * (1 + math.log(max(p, 0.5) / 255) / span)) for p in range(256)], np.int32)


def to_addends(quantized: NDArray[np.uint8], mean: Mean) -> NDArray[np.integer]:
    """Return what a member with quantized probabilities (N, C, H, W) adds to the sums of the classes; the largest sum wins."""
    if mean == "vote":
        classes = np.arange(quantized.shape[1])[:, np.newaxis, np.newaxis]
        return np.asarray(classes == quantized.argmax(axis=1, keepdims=True), np.uint8)
    return make_table(mean)[quantized] if mean == "geometric" else quantized
