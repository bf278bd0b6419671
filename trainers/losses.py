"""Loss configuration -> module that takes logits and a mask; the one place where pixels are left out of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import (
    VOID,
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


def build_loss(config: Loss, *, num_classes: int, ignore_classes: Sequence[int], class_counts: NDArray[np.int64]) -> nn.Module:
    """Build the loss that ``config`` names.

    ignore_classes: the data's, overridden by ``config.ignore_classes``; class_counts: (C,) pixels of each class in the
    training part. The module maps logits (N, C, H, W) float and target (N, H, W) integer (class or VOID) to a scalar. Ignored
    and void pixels have exactly zero gradient; a batch without any other pixel has zero loss. Each term of a sum has its own
    ignored classes, or else the sum's, or else the data's.

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
    """Losses added up by their weights."""

    def __init__(self, terms: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.weights = tuple(weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        weighted = [weight * term(logits, target) for weight, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(weighted).sum()


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
    """1 - soft Tversky index of the batch's valid pixels, averaged over those classes that are present among them.

    alpha, beta: weights of the probability wrongly given to a class and of that missing where it is; both 0.5 is Dice, both 1
    is Jaccard. Probabilities are the softmax over all classes. A class without a true pixel has no overlap to raise and is
    left out.
    Source: Salehi et al. 2017, Tversky Loss Function, eq. 2; Milletari et al. 2016, V-Net, section 3 (Dice, without the
    squares); Rahman and Wang 2016 (intersection over union).
    """

    classes: Tensor

    def __init__(self, classes: Sequence[int], *, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.register_buffer("classes", torch.tensor(list(classes)), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = (target != VOID).unsqueeze(1)
        probability = logits.softmax(dim=1)[:, self.classes] * valid
        truth = (target.unsqueeze(1) == self.classes.view(1, -1, 1, 1)).to(logits.dtype)
        common = (probability * truth).sum(dim=(0, 2, 3))
        num_true = truth.sum(dim=(0, 2, 3))
        wrong, missed = probability.sum(dim=(0, 2, 3)) - common, num_true - common
        score = common / (common + self.alpha * wrong + self.beta * missed).clamp_min(1e-7)
        present = (num_true > 0).to(logits.dtype)
        return ((1 - score) * present).sum() / present.sum().clamp_min(1)


class Lovasz(nn.Module):
    """Lovász extension of 1 - Jaccard over the batch's valid pixels, averaged over the classes present among them, by smp.

    smp computes it in float32 only; float64 is brought there and back.
    Source: Berman et al. 2018, The Lovász-Softmax Loss, section 3 and algorithm 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.criterion = smp.losses.LovaszLoss("multiclass", ignore_index=VOID)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.criterion(logits.float(), target)
        return loss.to(logits.dtype)


class Boundary(nn.Module):
    """Mean over the valid pixels and the classes trained on of probability times signed distance to the class's boundary.

    Probabilities are the softmax over all classes, distances those of ``signed_distances`` in pixels: alone the loss is of the
    size of the regions, may be negative, and is smallest where each pixel has its own class; its authors add it to a loss over
    regions with weights from 0.01 on. The distances are computed on the CPU from every batch's target, and a GPU waits for them.
    Source: Kervadec et al. 2019, Boundary Loss for Highly Unbalanced Segmentation, eq. 5.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = list(classes)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        distances = signed_distances(target, self.classes).to(logits.dtype) * (target != VOID).unsqueeze(1)
        total = (logits.softmax(dim=1)[:, self.classes] * distances).sum()
        return total / (_count_valid(target) * len(self.classes))


class External(nn.Module):
    """A loss written elsewhere, held to the promise that an invalid pixel has no gradient and an empty batch no loss."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = (target != VOID).unsqueeze(1)
        if not valid.any():
            return (logits * 0).sum()
        loss: Tensor = self.criterion(torch.where(valid, logits, logits.detach()), target)
        return loss


def signed_distances(target: Tensor, classes: Sequence[int]) -> Tensor:
    """Euclidean distance in pixels from each pixel's centre to the boundary of each class, negative inside the class.

    target: (N, H, W) integer. Returns (N, len(classes), H, W) float32 on the target's device. The boundary runs half-way between
    pixels, so that no distance is below 0.5: the map of the authors' code less 0.5, with which a thin region's pixels, at 0
    there, also prefer their class to one that is absent. Every other value of the target, VOID too, is outside: an image that
    holds one class and ignored pixels has a boundary to learn from, and weighs little what lies near the ignored. A class that a
    image lacks has distance 0 everywhere, as in the authors' code, and so has one that fills it.
    """
    masks = target.cpu().numpy()
    distances = np.zeros((len(masks), len(classes), *masks.shape[1:]), np.float32)
    for n, mask in enumerate(masks):
        for k, c in enumerate(classes):
            inside = mask == c
            if inside.any() and not inside.all():
                distances[n, k] = np.where(inside, 0.5 - _distance_to_zero(inside), _distance_to_zero(~inside) - 0.5)
    return torch.from_numpy(distances).to(target.device)


def _distance_to_zero(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


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
