"""Losses on the overlap of regions: Dice, Jaccard, Tversky and Lovász."""

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
    """Lovász extension of 1 - Jaccard over the batch's valid pixels, averaged over the classes with a true pixel.

    smp's on the CPU, ``lovasz_softmax`` elsewhere. Computed in float32; float64 is converted.
    Source: Berman et al. 2018, The Lovász-Softmax Loss, section 3 and algorithm 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.criterion = smp.losses.LovaszLoss("multiclass", ignore_index=VOID)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        criterion = self.criterion if logits.is_cpu else lovasz_softmax
        loss: Tensor = criterion(logits.float(), target)
        return loss.to(logits.dtype)


def lovasz_softmax(logits: Tensor, target: Tensor) -> Tensor:
    """Compute smp's Lovász loss without boolean indexing, for which a GPU would have to wait.

    logits: (N, C, H, W) float32; target: (N, H, W) int64, class or VOID. Void pixels get error 0, so they come last and add 0.
    """
    probability = logits.softmax(dim=1).transpose(0, 1).flatten(1)
    labels = target.flatten()
    truth = (labels == torch.arange(len(probability), device=labels.device).unsqueeze(1)).to(probability.dtype)
    errors, order = ((truth - probability).abs() * (labels != VOID)).sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    num_true = truth.sum(dim=1, keepdim=True)
    # Of a class without true pixels the first union may be 0; such classes do not count.
    union = (num_true + (1 - truth).cumsum(dim=1)).clamp_min(1)
    jaccard = 1 - (num_true - truth.cumsum(dim=1)) / union
    steps = jaccard.diff(dim=1, prepend=torch.zeros_like(num_true))
    present = (num_true > 0).squeeze(1).to(errors.dtype)
    return ((errors * steps).sum(dim=1) * present).sum() / present.sum().clamp_min(1)
