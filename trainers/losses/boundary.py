"""Boundary loss, from the signed distances of pixels to the boundaries of classes."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import VOID
from trainers.losses.pixelwise import count_valid


class Boundary(nn.Module):
    """Probability times signed distance to the class's boundary, averaged over valid pixels and trained classes.

    Probabilities are the softmax over all classes, distances those of ``signed_distances``. The loss may be negative and grows
    with the size of regions; its authors add it to a region loss with weights from 0.01 on. The CPU computes the distances from
    every batch's target, and a GPU waits for them.
    Source: Kervadec et al. 2019, Boundary Loss for Highly Unbalanced Segmentation, eq. 5.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = list(classes)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        distances = signed_distances(target, self.classes).to(logits.dtype) * (target != VOID).unsqueeze(1)
        total = (logits.softmax(dim=1)[:, self.classes] * distances).sum()
        return total / (count_valid(target) * len(self.classes))


def signed_distances(target: Tensor, classes: Sequence[int]) -> Tensor:
    """Euclidean distance in pixels from each pixel's centre to the boundary of each class, negative inside the class.

    target: (N, H, W) integer. Returns (N, len(classes), H, W) float32 on the target's device. The boundary runs half-way between
    pixels: distances are at least 0.5, unlike in the authors' code, where pixels of thin regions have 0. Every other value of
    the target, VOID too, is outside, so that an image with one class and ignored pixels has a boundary. A class that is absent
    from an image, or fills it, has distance 0 everywhere.
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
    """Distances are roots of whole numbers. OpenCV's last bits depend on where the mask lies in memory, so they are restored.

    Exact up to about 1,000 pixels, beyond which float32 cannot tell neighbouring squares apart.
    """
    found = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(np.square(found, dtype=np.float64))).astype(np.float32)
