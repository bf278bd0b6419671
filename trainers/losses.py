"""Loss configuration -> module that takes logits and a mask; the one place where pixels are left out of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import (
    VOID,
    CrossEntropyLoss,
    CustomLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    Loss,
    WeightedCrossEntropyLoss,
)
from trainers.errors import ConfigError
from trainers.imports import import_object


def build_loss(config: Loss, *, num_classes: int, ignore_classes: Sequence[int], class_counts: NDArray[np.int64]) -> nn.Module:
    """Build the loss that ``config`` names.

    ignore_classes: the data's, overridden by ``config.ignore_classes``; class_counts: (C,) pixels of each class in the
    training part. The module maps logits (N, C, H, W) float and target (N, H, W) integer (class or VOID) to a scalar. Ignored
    and void pixels have exactly zero gradient; a batch without any other pixel has zero loss.

    Raises:
        ConfigError: no class is left to train on, or a custom loss cannot be built.
    """
    ignored = ignore_classes if config.ignore_classes is None else config.ignore_classes
    classes = [c for c in range(num_classes) if c not in ignored]
    if not classes:
        raise ConfigError(f"loss: all {num_classes} classes are ignored ({sorted(ignored)}); leave at least one to train on")
    return PixelLoss(_build_criterion(config, num_classes, classes, class_counts), classes)


def _build_criterion(config: Loss, num_classes: int, classes: list[int], class_counts: NDArray[np.int64]) -> nn.Module:
    match config:
        case FocalLoss():
            return Focal(config.gamma)
        case CrossEntropyLoss():
            return CrossEntropy(torch.ones(num_classes), label_smoothing=config.label_smoothing)
        case WeightedCrossEntropyLoss():
            return CrossEntropy(inverse_frequency(class_counts, classes))
        case DiceLoss():
            return Overlap(classes, is_jaccard=False)
        case JaccardLoss():
            return Overlap(classes, is_jaccard=True)
        case CustomLoss():
            return Custom(_build_custom(config))
    raise AssertionError(config)


class PixelLoss(nn.Module):
    """Sets the target of ignored pixels to VOID and computes ``criterion`` in float32 or better."""

    target_of: Tensor

    def __init__(self, criterion: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.criterion = criterion
        target_of = torch.full((256,), VOID)
        target_of[list(classes)] = torch.tensor(list(classes))
        self.register_buffer("target_of", target_of, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.dtype != torch.float64:
            logits = logits.float()  # sums over 10^5 pixels need more than bfloat16's 8 bits
        loss: Tensor = self.criterion(logits, self.target_of[target.long()])
        return loss


class Focal(nn.Module):
    """Mean over the valid pixels of -(1 - p)^gamma log p, where p is the probability of the true class.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, eq. 4.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        surprise = F.nll_loss(F.log_softmax(logits, dim=1), target, ignore_index=VOID, reduction="none")
        # The floor keeps the power's derivative finite at p = 1, where gamma < 1 would make it infinite.
        wrong = -torch.expm1(-surprise).clamp(max=-torch.finfo(logits.dtype).eps)
        return (wrong.pow(self.gamma) * surprise).sum() / _count_valid(target)


class CrossEntropy(nn.Module):
    """Mean over the valid pixels, weighted by the weight of their class, as torch.nn.CrossEntropyLoss computes it.

    weights: (C,) float, not negative. Only the empty batch differs from torch's, which gives NaN.
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


class Overlap(nn.Module):
    """1 - soft Dice or soft Jaccard, summed over the batch's valid pixels, averaged over those classes that are present in it.

    Probabilities are the softmax over all classes. A class without a true pixel has no overlap to raise and is left out.
    Source: Milletari et al. 2016, V-Net, section 3 (Dice, without the squares); Rahman and Wang 2016 (intersection over union).
    """

    classes: Tensor

    def __init__(self, classes: Sequence[int], *, is_jaccard: bool) -> None:
        super().__init__()
        self.is_jaccard = is_jaccard
        self.register_buffer("classes", torch.tensor(list(classes)), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = (target != VOID).unsqueeze(1)
        probability = logits.softmax(dim=1)[:, self.classes] * valid
        truth = (target.unsqueeze(1) == self.classes.view(1, -1, 1, 1)).to(logits.dtype)
        common = (probability * truth).sum(dim=(0, 2, 3))
        num_true = truth.sum(dim=(0, 2, 3))
        both = probability.sum(dim=(0, 2, 3)) + num_true
        score = common / (both - common).clamp_min(1e-7) if self.is_jaccard else 2 * common / both.clamp_min(1e-7)
        present = (num_true > 0).to(logits.dtype)
        return ((1 - score) * present).sum() / present.sum().clamp_min(1)


class Custom(nn.Module):
    """A loss of the user's own, held to the promise that an invalid pixel has no gradient and an empty batch no loss."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = (target != VOID).unsqueeze(1)
        if not valid.any():
            return (logits * 0).sum()
        loss: Tensor = self.criterion(torch.where(valid, logits, logits.detach()), target)
        return loss


def inverse_frequency(class_counts: NDArray[np.int64], classes: Sequence[int]) -> Tensor:
    """Weights of the classes: one over their share of the pixels trained on, with mean 1 over those that occur.

    class_counts: (C,) pixels. Returns (C,) float32; 0 for classes that are not trained on or do not occur.
    """
    counts = np.zeros(len(class_counts))
    counts[list(classes)] = class_counts[list(classes)]
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = counts.sum() / counts[present]
    return torch.tensor(weights / weights[present].mean() if present.any() else weights, dtype=torch.float32)


def _count_valid(target: Tensor) -> Tensor:
    return (target != VOID).sum().clamp_min(1)


def _build_custom(config: CustomLoss) -> nn.Module:
    try:
        criterion: Any = import_object(config.name)(**config.options)
    except TypeError as error:
        raise ConfigError(f"loss {config.name!r} cannot be called with options {config.options}: {error}") from error
    if not isinstance(criterion, nn.Module):
        found = type(criterion).__name__
        raise ConfigError(f"loss {config.name!r} gave a {found}; it must give a torch.nn.Module that takes (logits, target)")
    return criterion
