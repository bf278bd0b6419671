"""trainers.training.steps: one optimizer step per batch, whatever its parts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trainers.config import OptimizerConfig, TrainConfig
from trainers.config.train import ScheduleConfig
from trainers.device import choose_device
from trainers.errors import DivergedError
from trainers.training.checkpoint import Trained
from trainers.training.optim import build_optimizer, build_schedule
from trainers.training.steps import Steps


def make_steps(model: nn.Module, *, accumulate: int = 1, lr: float = 0.1, counted: list[int] | None = None) -> Steps:
    """Plain gradient descent on cross entropy; each step adds an entry to ``counted``."""
    optimizer = build_optimizer(OptimizerConfig(name="sgd", lr=lr, momentum=0), model)
    schedule = build_schedule(ScheduleConfig(name="constant"), optimizer, num_steps=10)
    steps = [] if counted is None else counted
    return Steps(
        Trained(model, optimizer, schedule),
        nn.CrossEntropyLoss(),
        TrainConfig(),
        device=choose_device("cpu", "float32"),
        accumulate=accumulate,
        on_step=lambda: steps.append(1),
    )


def make_batches(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of ``size`` images, 4x4, whose labels are their brightness."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, 4, 4, 1), dtype=torch.uint8, generator=random)
    return [(image, (image[..., 0] > 128).long()) for image in images]


@pytest.mark.parametrize("accumulate", [2, 3, 4, 100])
def test_a_batch_in_parts_moves_the_weights_as_the_whole_one_does(accumulate: int) -> None:
    """Without batch norm, and with as many scored pixels in each image, accumulated gradients are the batch's."""
    torch.manual_seed(0)
    whole = nn.Conv2d(1, 2, 1)
    parts = copy.deepcopy(whole)
    first = make_steps(whole).run(make_batches(3, 8), epoch=1, first_step=1)
    second = make_steps(parts, accumulate=accumulate).run(make_batches(3, 8), epoch=1, first_step=1)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())
    assert first["train/loss"] == pytest.approx(second["train/loss"])


def test_on_step_is_called_once_a_batch() -> None:
    """However many parts a batch has."""
    counted: list[int] = []
    make_steps(nn.Conv2d(1, 2, 1), accumulate=2, counted=counted).run(make_batches(3, 8), epoch=1, first_step=1)
    assert len(counted) == 3


def test_no_part_is_a_single_image() -> None:
    """Batch norm over one pixel needs two: five images in four parts become two parts."""
    sizes: list[int] = []
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    make_steps(model, accumulate=4).run(make_batches(1, 5), epoch=1, first_step=1)
    assert sizes == [3, 2]


def test_a_loss_that_is_not_finite_is_reported() -> None:
    """With epoch and step."""
    with pytest.raises(DivergedError, match="epoch 7, step 2 of 3"):
        make_steps(nn.Conv2d(1, 2, 1), lr=float("inf")).run(make_batches(3, 8), epoch=7, first_step=1)
