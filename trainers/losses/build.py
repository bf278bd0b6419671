"""Loss configuration -> module of logits and mask; leaves ignored and void pixels out of the loss."""

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import VOID
from trainers.config.loss import (
    BoundaryLoss,
    CrossEntropyLoss,
    CustomLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    Loss,
    LovaszLoss,
    SingleLoss,
    SumLoss,
    TverskyLoss,
    WeightedCrossEntropyLoss,
)
from trainers.errors import ConfigError
from trainers.imports import import_object
from trainers.losses.boundary import Boundary
from trainers.losses.pixelwise import CrossEntropy, Focal, inverse_frequency
from trainers.losses.region import Lovasz, Overlap


def build_loss(config: Loss, *, num_classes: int, ignore_classes: Sequence[int], class_counts: NDArray[np.int64]) -> nn.Module:
    """Build the loss that ``config`` names.

    ignore_classes: the data's; ``config.ignore_classes`` overrides them, and a term's override the sum's. class_counts: (C,)
    pixels per class in the training images. The module maps logits (N, C, H, W) float and target (N, H, W) integer (class or
    VOID) to a scalar. Ignored and void pixels have exactly zero gradient; a batch of such pixels has zero loss.

    Raises:
        ConfigError: no class is left to train on, or a custom loss cannot be built.
    """
    ignored = ignore_classes if config.ignore_classes is None else config.ignore_classes
    if isinstance(config, SumLoss):
        terms = [
            build_loss(term.loss, num_classes=num_classes, ignore_classes=ignored, class_counts=class_counts)
            for term in config.terms
        ]
        return Sum(terms, [term.weight for term in config.terms])
    classes = [c for c in range(num_classes) if c not in ignored]
    if not classes:
        raise ConfigError(
            f"loss {config.name!r}: all {num_classes} classes are ignored ({sorted(ignored)}); leave at least one to train on"
        )
    return PixelLoss(_build_criterion(config, num_classes, classes, class_counts), classes)


def _build_criterion(config: SingleLoss, num_classes: int, classes: list[int], class_counts: NDArray[np.int64]) -> nn.Module:
    match config:
        case FocalLoss():
            return Focal(config.gamma)
        case CrossEntropyLoss():
            return CrossEntropy(torch.ones(num_classes), label_smoothing=config.label_smoothing)
        case WeightedCrossEntropyLoss():
            return CrossEntropy(inverse_frequency(class_counts, classes))
        case DiceLoss():
            return Overlap(classes, alpha=0.5, beta=0.5)
        case JaccardLoss():
            return Overlap(classes, alpha=1.0, beta=1.0)
        case TverskyLoss():
            return Overlap(classes, alpha=config.alpha, beta=config.beta)
        case LovaszLoss():
            return External(Lovasz())
        case BoundaryLoss():
            return Boundary(classes)
        case CustomLoss():
            return External(_build_custom(config))
        case _:
            assert_never(config)


def _build_custom(config: CustomLoss) -> nn.Module:
    try:
        criterion: Any = import_object(config.name)(**config.options)
    except TypeError as error:
        raise ConfigError(f"loss {config.name!r} cannot be called with options {config.options}: {error}") from error
    if not isinstance(criterion, nn.Module):
        found = type(criterion).__name__
        raise ConfigError(f"loss {config.name!r} gave a {found}; it must give a torch.nn.Module called with (logits, target)")
    return criterion


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


class Sum(nn.Module):
    """Weighted sum of losses."""

    def __init__(self, terms: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        weighted = [weight * term(logits, target) for weight, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(weighted).sum()


class External(nn.Module):
    """Wraps a loss from elsewhere so that invalid pixels have no gradient and an empty batch no loss.

    On a GPU the loss is also called for an empty batch, and its result dropped: checking first would make the host wait.
    """

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = (target != VOID).unsqueeze(1)
        if logits.is_cpu and not valid.any():
            return (logits * 0).sum()
        loss: Tensor = self.criterion(torch.where(valid, logits, logits.detach()), target)
        return loss if logits.is_cpu else loss.masked_fill(~valid.any(), 0)
