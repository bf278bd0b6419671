from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import nn

from trainers.config import VOID
from trainers.config.loss import BoundaryLoss
from trainers.losses import build_loss
from trainers.losses.boundary import _distance_to_zero, signed_distances

pytestmark = pytest.mark.usefixtures("one_thread")

masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.sampled_from([0, 1, 2, VOID]))


def brute_force(mask: NDArray[np.uint8], c: int) -> NDArray[np.float64]:
    """The map of one class of one image from all pairs of pixels."""
    inside = mask == c
    if inside.all() or not inside.any():
        return np.zeros(mask.shape)
    places = np.argwhere(np.ones_like(inside)).reshape(*mask.shape, 1, 2)
    to_inside = np.linalg.norm(places - np.argwhere(inside), axis=-1).min(axis=-1)
    to_outside = np.linalg.norm(places - np.argwhere(~inside), axis=-1).min(axis=-1)
    return np.where(inside, 0.5 - to_outside, to_inside - 0.5)


@settings(max_examples=50, deadline=None)
@given(masks)
def test_distances_are_those_between_all_pairs(mask: NDArray[np.uint8]) -> None:
    """To the nearest pixel on the other side, less half a pixel, for every image and class."""
    found = signed_distances(torch.from_numpy(mask), [1, 2]).numpy()
    expected = np.stack([[brute_force(image, c) for c in (1, 2)] for image in mask])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_loss_by_hand(build: Callable[..., nn.Module]) -> None:
    """Four pixels in a row, [1, 1, 2, void]: the mean of probability times distance over three pixels and two classes."""
    probability = torch.tensor([[0.2, 0.1, 0.3, 0.5], [0.5, 0.7, 0.2, 0.4], [0.3, 0.2, 0.5, 0.1]])
    loss = build({"name": "boundary"}, num_classes=3, counts=(1, 1, 1))
    of_class_1 = 0.5 * -1.5 + 0.7 * -0.5 + 0.2 * 0.5
    of_class_2 = 0.3 * 1.5 + 0.2 * 0.5 + 0.5 * -0.5
    found = loss(probability.log().reshape(1, 3, 1, 4), torch.tensor([[[1, 1, 2, VOID]]]))
    torch.testing.assert_close(found, torch.tensor((of_class_1 + of_class_2) / 6))


def test_class_that_a_image_lacks_or_is_filled_by_has_no_boundary() -> None:
    """Its map is zero; the other images of the batch do not matter."""
    images = torch.tensor([[[1, 1], [1, 1]], [[1, 1], [1, 2]]])
    distances = signed_distances(images, [1, 2, 3])
    assert (distances[0] == 0).all()
    assert (distances[1, :2] != 0).all()
    assert (distances[1, 2] == 0).all()


def test_ignored_pixels_are_outside(build: Callable[..., nn.Module]) -> None:
    """An image of one class and background teaches its class, most of all far from the background."""
    logits = torch.zeros(1, 5, 1, 5, requires_grad=True)
    build({"name": "boundary"})(logits, torch.tensor([[[0, 3, 3, 3, 3]]])).backward()
    pull = -logits.grad[0, 3, 0]
    assert pull[0] == 0
    assert (pull.diff() > 0).all()


@settings(max_examples=50, deadline=None)
@given(masks, st.randoms(use_true_random=False))
def test_loss_is_smallest_where_each_pixel_has_its_own_class(mask: NDArray[np.uint8], random: Random) -> None:
    """No other prediction costs less, so that the loss can be used alone."""
    counts = np.ones(3, np.int64)
    loss = build_loss(BoundaryLoss(name="boundary"), num_classes=3, ignore_classes=(0,), class_counts=counts)
    target = torch.from_numpy(mask)
    right = torch.where(target == VOID, 0, target).long()
    other = torch.tensor(np.array([random.randrange(3) for _ in range(mask.size)])).reshape(target.shape)
    best, found = (loss(200.0 * nn.functional.one_hot(x, 3).permute(0, 3, 1, 2), target) for x in (right, other))
    assert best <= found + 1e-5


def test_distances_do_not_depend_on_where_the_mask_lies_in_memory() -> None:
    """OpenCV's do, in their last bits; a training with this loss could then not be repeated."""
    random = np.random.default_rng(0)
    for _ in range(40):
        coarse = random.integers(0, 2, (4, 6), dtype=np.uint8)
        mask = coarse.repeat(5, axis=0).repeat(7, axis=1)
        if coarse.min() == coarse.max():
            continue
        exact = distance_transform_edt(mask).astype(np.float32)
        for offset in range(4):
            room = np.empty(mask.size + offset, np.uint8)[offset:].reshape(mask.shape)
            room[:] = mask
            assert np.array_equal(_distance_to_zero(room == 1), exact)
