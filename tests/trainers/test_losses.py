from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from trainers.config import VOID, Loss
from trainers.errors import ConfigError
from trainers.losses import build_loss, inverse_frequency

NUM_CLASSES = 5
COUNTS = np.array([500, 300, 150, 40, 10])
EVERY = [
    {"name": "focal"},
    {"name": "focal", "gamma": 0.5},
    {"name": "cross_entropy"},
    {"name": "cross_entropy", "label_smoothing": 0.1},
    {"name": "weighted_cross_entropy"},
    {"name": "dice"},
    {"name": "jaccard"},
    {"name": "torch.nn:CrossEntropyLoss", "options": {"ignore_index": VOID}},
]
pytestmark = pytest.mark.usefixtures("one_thread")
each_loss = pytest.mark.parametrize("config", EVERY, ids=lambda c: "-".join(str(v) for v in c.values()))


def build(config: dict[str, Any], ignore_classes: tuple[int, ...] = (0,)) -> nn.Module:
    """Build the loss of five classes, of which 0 is ignored."""
    loss = TypeAdapter(Loss).validate_python(config)
    return build_loss(loss, num_classes=NUM_CLASSES, ignore_classes=ignore_classes, class_counts=COUNTS)


def make_batch(dtype: torch.dtype = torch.float32, size: int = 6) -> tuple[Tensor, Tensor]:
    """Logits and a target that holds every class and void."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, NUM_CLASSES, size, size, generator=generator, dtype=dtype)
    target = torch.randint(0, NUM_CLASSES, (3, size, size), generator=generator)
    target[:, 0, 0] = VOID
    return logits.requires_grad_(), target


@each_loss
def test_loss_is_finite_and_positive(config: dict[str, Any]) -> None:
    """A random prediction costs something."""
    logits, target = make_batch()
    value = build(config)(logits, target)
    assert value.shape == ()
    assert torch.isfinite(value)
    assert value > 0


@each_loss
def test_loss_falls_under_gradient_steps(config: dict[str, Any]) -> None:
    """Its gradient points where the loss is smaller."""
    logits, target = make_batch()
    loss, optimizer = build(config), torch.optim.Adam([logits], lr=0.3)
    before = loss(logits, target).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    assert loss(logits, target).item() < 0.7 * before


@each_loss
def test_ignored_pixels_have_exactly_zero_gradient(config: dict[str, Any]) -> None:
    """Class 0 and void leave no trace in the gradient; every other pixel does."""
    logits, target = make_batch()
    build(config)(logits, target).backward()
    ignored = (target == 0) | (target == VOID)
    size = logits.grad.abs().sum(dim=1)
    assert (size[ignored] == 0).all()
    assert (size[~ignored] > 0).all()


@each_loss
def test_value_does_not_depend_on_ignored_pixels(config: dict[str, Any]) -> None:
    """What the network says at ignored pixels does not matter."""
    logits, target = make_batch()
    ignored = ((target == 0) | (target == VOID)).unsqueeze(1)
    other = torch.where(ignored, 3 * logits + 1, logits)
    loss = build(config)
    torch.testing.assert_close(loss(other, target), loss(logits, target), rtol=0, atol=0)


@each_loss
def test_batch_without_valid_pixel_gives_zero(config: dict[str, Any]) -> None:
    """A batch of ignored pixels costs nothing and moves nothing."""
    logits, target = make_batch()
    value = build(config)(logits, torch.where(target == 1, 0, VOID))
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


@each_loss
def test_order_of_the_batch_does_not_matter(config: dict[str, Any]) -> None:
    """Permuted pictures have the same loss."""
    logits, target = make_batch(torch.float64)
    loss, order = build(config), [2, 0, 1]
    torch.testing.assert_close(loss(logits[order], target[order]), loss(logits, target))


@each_loss
def test_gradient_agrees_with_finite_differences(config: dict[str, Any]) -> None:
    """The analytic gradient is the numeric one."""
    logits, target = make_batch(torch.float64, size=3)
    loss = build(config)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,))


@each_loss
def test_sure_predictions_have_finite_gradients(config: dict[str, Any]) -> None:
    """Logits of +-200, right or wrong, give no NaN."""
    _, target = make_batch()
    right = nn.functional.one_hot(target.clamp(max=NUM_CLASSES - 1), NUM_CLASSES).permute(0, 3, 1, 2).float()
    for sign in (1, -1):
        logits = (sign * 200 * right).requires_grad_()
        value = build(config)(logits, target)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


@each_loss
def test_half_precision_logits_are_summed_in_float32(config: dict[str, Any]) -> None:
    """Under autocast the logits come as bfloat16; the loss does not."""
    logits, target = make_batch()
    assert build(config)(logits.bfloat16(), target.to(torch.uint8)).dtype == torch.float32


def test_own_ignore_classes_override_the_data() -> None:
    """``loss.ignore_classes: []`` trains on the background that is not scored."""
    logits, target = make_batch()
    build({"name": "focal", "ignore_classes": []}, ignore_classes=(0,))(logits, target).backward()
    assert (logits.grad.abs().sum(dim=1)[target == 0] > 0).all()


def test_focal_without_gamma_is_cross_entropy() -> None:
    """Lin et al.: gamma 0 gives the cross entropy."""
    logits, target = make_batch()
    torch.testing.assert_close(build({"name": "focal", "gamma": 0})(logits, target), build(EVERY[2])(logits, target))


def test_focal_equals_smp() -> None:
    """The softmax focal loss of smp, averaged over the valid pixels, is the same."""
    from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits

    logits, target = make_batch()
    valid = (target != 0) & (target != VOID)
    each = softmax_focal_loss_with_logits(logits, torch.where(valid, target, 0), gamma=2.0, reduction="none")
    torch.testing.assert_close(build({"name": "focal", "gamma": 2})(logits, target), each[valid].mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torch(smoothing: float) -> None:
    """The cross entropy of torch at the valid pixels is the same."""
    logits, target = make_batch()
    expected = nn.CrossEntropyLoss(ignore_index=VOID, label_smoothing=smoothing)(logits, target.masked_fill(target == 0, VOID))
    found = build({"name": "cross_entropy", "label_smoothing": smoothing})(logits, target)
    torch.testing.assert_close(found, expected)


def test_weighted_cross_entropy_equals_torch() -> None:
    """The weighted mean of torch, with the inverse shares as weights, is the same."""
    logits, target = make_batch()
    weight = torch.tensor([0, 500 / 300, 500 / 150, 500 / 40, 500 / 10])
    expected = nn.CrossEntropyLoss(weight=weight, ignore_index=VOID)(logits, target.masked_fill(target == 0, VOID))
    torch.testing.assert_close(build({"name": "weighted_cross_entropy"})(logits, target), expected)


@pytest.mark.parametrize(("name", "library"), [("dice", smp.losses.DiceLoss), ("jaccard", smp.losses.JaccardLoss)])
def test_overlap_equals_smp(name: str, library: Any) -> None:
    """The loss of smp over the classes trained on, all of which are present, is the same."""
    logits, target = make_batch()
    ignored = (target == 0) | (target == VOID)
    if name == "dice":
        expected = library("multiclass", classes=[1, 2, 3, 4], ignore_index=VOID)(logits, target.masked_fill(ignored, VOID))
    else:  # smp's Jaccard loss ignores no pixel: leave them out by hand, as one long picture
        kept = logits.permute(0, 2, 3, 1)[~ignored].T.reshape(1, NUM_CLASSES, -1)
        expected = library("multiclass", classes=[1, 2, 3, 4])(kept, target[~ignored].reshape(1, -1))
    torch.testing.assert_close(build({"name": name})(logits, target), expected)


def test_overlap_leaves_out_classes_that_the_batch_lacks() -> None:
    """With class 1 alone in the batch, the loss is that of class 1."""
    logits, _ = make_batch()
    p = logits.softmax(dim=1)[:, 1]
    expected = 1 - 2 * p.sum() / (p.sum() + p.numel())
    torch.testing.assert_close(build({"name": "dice"})(logits, torch.ones(3, 6, 6, dtype=torch.int64)), expected)


def test_weights_are_inverse_shares_with_mean_one() -> None:
    """Of the classes that are trained on and occur; the others weigh nothing."""
    weights = inverse_frequency(np.array([999, 30, 10, 0]), [1, 2, 3])
    torch.testing.assert_close(weights, torch.tensor([0, 0.5, 1.5, 0]))


def test_ignoring_every_class_is_refused() -> None:
    """A loss over nothing is a mistake in the configuration."""
    with pytest.raises(ConfigError, match="all 5 classes are ignored"):
        build({"name": "focal"}, ignore_classes=(0, 1, 2, 3, 4))


def test_custom_loss_with_wrong_options_is_refused() -> None:
    """The message names the path and the options."""
    with pytest.raises(ConfigError, match=r"torch.nn:CrossEntropyLoss.*'gama'"):
        build({"name": "torch.nn:CrossEntropyLoss", "options": {"gama": 1}})


def test_custom_loss_must_be_a_module() -> None:
    """A function's result is not a loss."""
    with pytest.raises(ConfigError, match=r"gave a dict; it must give a torch.nn.Module"):
        build({"name": "builtins:dict"})
