from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.config import VOID
from trainers.config.loss import LOSSES
from trainers.errors import ConfigError

Build = Callable[..., nn.Module]
MakeBatch = Callable[..., tuple[Tensor, Tensor]]

EVERY: dict[str, dict[str, Any]] = {
    "focal": {"name": "focal"},
    "focal-half": {"name": "focal", "gamma": 0.5},
    "cross_entropy": {"name": "cross_entropy"},
    "cross_entropy-smoothed": {"name": "cross_entropy", "label_smoothing": 0.1},
    "weighted_cross_entropy": {"name": "weighted_cross_entropy"},
    "dice": {"name": "dice"},
    "jaccard": {"name": "jaccard"},
    "tversky": {"name": "tversky"},
    "tversky-one_sided": {"name": "tversky", "alpha": 1, "beta": 0},
    "lovasz": {"name": "lovasz"},
    "boundary": {"name": "boundary"},
    "sum": {"name": "sum", "terms": [{"loss": {"name": "dice"}}, {"weight": 0.01, "loss": {"name": "boundary"}}]},
    "custom": {"name": "torch.nn:CrossEntropyLoss", "options": {"ignore_index": VOID}},
}
BACKGROUND = {f"{name}-background": {**config, "ignore_classes": []} for name, config in EVERY.items()}
pytestmark = pytest.mark.usefixtures("one_thread")
each_loss = pytest.mark.parametrize("config", [pytest.param(c, id=name) for name, c in {**EVERY, **BACKGROUND}.items()])


def test_every_loss_is_tested() -> None:
    """A new loss has to be added to the list above."""
    assert {config["name"] for config in EVERY.values()} >= set(LOSSES)


def find_ignored(config: dict[str, Any], target: Tensor) -> Tensor:
    """Void, and class 0 unless the loss takes the background in."""
    return (target == VOID) if config.get("ignore_classes") == [] else (target == VOID) | (target == 0)


@each_loss
def test_loss_is_finite_and_positive(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """A random prediction costs something."""
    logits, target = make_batch()
    value = build(config)(logits, target)
    assert value.shape == ()
    assert torch.isfinite(value)
    assert value > 0


@each_loss
def test_loss_falls_under_gradient_steps(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
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
def test_ignored_pixels_have_exactly_zero_gradient(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """What is ignored leaves no trace in the gradient; every other pixel does."""
    logits, target = make_batch()
    build(config)(logits, target).backward()
    ignored = find_ignored(config, target)
    size = logits.grad.abs().sum(dim=1)
    assert (size[ignored] == 0).all()
    assert (size[~ignored] > 0).all()


@each_loss
def test_value_does_not_depend_on_ignored_pixels(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """What the network says at ignored pixels does not matter."""
    logits, target = make_batch()
    other = torch.where(find_ignored(config, target).unsqueeze(1), 3 * logits + 1, logits)
    loss = build(config)
    torch.testing.assert_close(loss(other, target), loss(logits, target), rtol=0, atol=0)


@each_loss
def test_batch_without_valid_pixel_gives_zero(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """A batch of ignored pixels costs nothing and moves nothing."""
    logits, target = make_batch()
    empty = torch.full_like(target, VOID) if config.get("ignore_classes") == [] else torch.where(target == 1, 0, VOID)
    value = build(config)(logits, empty)
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


@each_loss
def test_order_of_the_batch_does_not_matter(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """Permuted images have the same loss."""
    logits, target = make_batch(torch.float64)
    loss, order = build(config), [2, 0, 1]
    torch.testing.assert_close(loss(logits[order], target[order]), loss(logits, target))


@each_loss
@pytest.mark.parametrize("axis", [-1, -2])
def test_mirrored_images_have_the_same_loss(config: dict[str, Any], axis: int, build: Build, make_batch: MakeBatch) -> None:
    """No loss knows left from right or up from down."""
    logits, target = make_batch(torch.float64)
    loss = build(config)
    torch.testing.assert_close(loss(logits.flip(axis), target.flip(axis)), loss(logits, target))


@each_loss
def test_gradient_agrees_with_finite_differences(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """The analytic gradient is the numeric one; smp's Lovász, which computes in float32, takes wider steps."""
    logits, target = make_batch(torch.float64, size=3)
    loss = build(config)
    steps = {"eps": 1e-3, "atol": 2e-4, "rtol": 1e-3} if config["name"] == "lovasz" else {}
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (logits,), **steps)


@each_loss
def test_sure_predictions_have_finite_gradients(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """Logits of +-200, right or wrong, give no NaN."""
    logits, target = make_batch()
    right = nn.functional.one_hot(target.clamp(max=logits.shape[1] - 1), logits.shape[1]).permute(0, 3, 1, 2).float()
    for sign in (1, -1):
        logits = (sign * 200 * right).requires_grad_()
        value = build(config)(logits, target)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


@each_loss
@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_loss_is_computed_in_float32_or_better(
    config: dict[str, Any], given: torch.dtype, computed: torch.dtype, build: Build, make_batch: MakeBatch
) -> None:
    """Under autocast the logits come as bfloat16; the loss does not. Masks come as uint8."""
    logits, target = make_batch()
    assert build(config)(logits.to(given), target.to(torch.uint8)).dtype == computed


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_the_cpu(config: dict[str, Any], build: Build, make_batch: MakeBatch) -> None:
    """Value and gradient do not depend on the device, and stay on it."""
    logits, target = make_batch()
    build(config)(logits, target).backward()
    there = logits.detach().cuda().requires_grad_()
    value = build(config).cuda()(there, target.cuda())
    value.backward()
    assert value.is_cuda
    torch.testing.assert_close(there.grad.cpu(), logits.grad)


def test_own_ignore_classes_override_the_data(build: Build, make_batch: MakeBatch) -> None:
    """``loss.ignore_classes: []`` trains on the background that is not scored."""
    logits, target = make_batch()
    build({"name": "focal", "ignore_classes": []})(logits, target).backward()
    assert (logits.grad.abs().sum(dim=1)[target == 0] > 0).all()


def test_ignoring_every_class_is_rejected(build: Build) -> None:
    """A loss over nothing is a mistake in the configuration."""
    with pytest.raises(ConfigError, match=r"'focal': all 5 classes are ignored"):
        build({"name": "focal"}, ignore_classes=(0, 1, 2, 3, 4))


def test_term_that_ignores_every_class_is_rejected(build: Build) -> None:
    """The message names the term."""
    terms = [{"loss": {"name": "focal"}}, {"loss": {"name": "dice", "ignore_classes": [0, 1, 2, 3, 4]}}]
    with pytest.raises(ConfigError, match=r"'dice': all 5 classes are ignored"):
        build({"name": "sum", "terms": terms})


def test_custom_loss_with_wrong_options_is_rejected(build: Build) -> None:
    """The message names the path and the options."""
    with pytest.raises(ConfigError, match=r"torch.nn:CrossEntropyLoss.*'gama'"):
        build({"name": "torch.nn:CrossEntropyLoss", "options": {"gama": 1}})


def test_custom_loss_must_be_a_module(build: Build) -> None:
    """A function's result is not a loss."""
    with pytest.raises(ConfigError, match=r"gave a dict; it must give a torch.nn.Module"):
        build({"name": "builtins:dict"})
