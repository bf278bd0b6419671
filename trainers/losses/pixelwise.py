"""Losses that are means over pixels: focal and (weighted) cross entropy."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import VOID


class Focal(nn.Module):
    """Mean over the valid pixels of -(1 - p)^gamma log p; p is the probability of the true class.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, eq. 4.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        surprise = F.nll_loss(F.log_softmax(logits, dim=1), target, ignore_index=VOID, reduction="none")
        # The floor keeps the power's derivative finite at p = 1 if gamma < 1.
        wrong = -torch.expm1(-surprise).clamp(max=-torch.finfo(logits.dtype).eps)
        return (wrong.pow(self.gamma) * surprise).sum() / count_valid(target)


class CrossEntropy(nn.Module):
    """Mean over the valid pixels, weighted by class, as in torch.nn.CrossEntropyLoss.

    weights: (C,) float, not negative. An empty batch has loss 0, where torch gives NaN.
    """

    weights: Tensor

    def __init__(self, weights: Tensor, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        weights = self.weights.to(logits.dtype)
        total = F.cross_entropy(
            logits, target, weight=weights, ignore_index=VOID, label_smoothing=self.label_smoothing, reduction="sum"
        )
        weight_of = F.pad(weights, (0, VOID + 1 - len(weights)))
        return total / weight_of[target].sum().clamp_min(torch.finfo(logits.dtype).tiny)


def inverse_frequency(class_counts: NDArray[np.int64], classes: Sequence[int]) -> Tensor:
    """Weights of the classes: inverse share of the training pixels, with mean 1 over the classes that occur.

    class_counts: (C,) pixels. Returns (C,) float32; 0 for classes that are ignored or do not occur.
    """
    counts = np.zeros(len(class_counts))
    counts[list(classes)] = class_counts[list(classes)]
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = counts.sum() / counts[present]
    return torch.tensor(weights / weights[present].mean() if present.any() else weights, dtype=torch.float32)


def count_valid(target: Tensor) -> Tensor:
    """Return the number of pixels that are not void, at least 1."""
    return (target != VOID).sum().clamp_min(1)
