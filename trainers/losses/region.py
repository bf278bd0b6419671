"""Losses on the overlap of regions: Dice, Jaccard, Tversky and Lovász."""

from __future__ import annotations

from collections.abc import Sequence

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from trainers.config import VOID


class Overlap(nn.Module):
    """1 - soft Tversky index of the batch's valid pixels, averaged over the classes with a true pixel.

    alpha, beta: weights of false positive and false negative probability; both 0.5 is Dice, both 1 is Jaccard. Probabilities
    are the softmax over all classes.
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
    """smp's Lovász extension of 1 - Jaccard over the batch's valid pixels, averaged over the classes with a true pixel.

    smp computes in float32 only; float64 is converted.
    Source: Berman et al. 2018, The Lovász-Softmax Loss, section 3 and algorithm 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.criterion = smp.losses.LovaszLoss("multiclass", ignore_index=VOID)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self.criterion(logits.float(), target)
        return loss.to(logits.dtype)
