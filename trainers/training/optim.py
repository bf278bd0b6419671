"""Configuration -> optimizer, learning rate of each step, and moving average of the weights."""

import math
from typing import Any, assert_never

import torch
from timm.optim.lion import Lion
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from trainers.config import OptimizerConfig
from trainers.config.train import EmaConfig, ScheduleConfig

START = 1 / 25
"""First rate of a warm-up, as a share of the peak."""
END = 1e-3
"""one_cycle, cosine: last rate, as a share of the peak."""


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer over the model's trainable parameters: torch's fused ones, or timm's Lion.

    Fused, one step of Unet/mobilenet_v2 takes 14 to 23 ms instead of 46 to 51 on one AVX2 core. timm's Lion is not fused.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    options: dict[str, Any] = {"lr": config.lr}
    if config.weight_decay is not None:
        options["weight_decay"] = config.weight_decay
    match config.name:
        case "adamw":
            return torch.optim.AdamW(parameters, fused=True, **options)
        case "adam":
            return torch.optim.Adam(parameters, fused=True, **options)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=config.momentum, fused=True, **options)
        case "lion":
            return Lion(parameters, **options)
        case _:
            assert_never(config.name)


def build_average(config: EmaConfig, model: nn.Module) -> ModelEmaV3:
    """Build the exponential moving average of ``model``, batch norm statistics included; it starts as a copy.

    Call ``update(model, step=...)`` after each step, from 1 over the whole training. The decay rises as 1 - step^(-2/3) to the
    configured one, so that a short training forgets its initial weights.
    Source: Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; the rise is timm's.
    """
    return ModelEmaV3(model, decay=config.decay, use_warmup=True)


class Schedule:
    """Sets the optimizer's learning rate: after each step; with plateau, after the warm-up, after each epoch by val/miou.

    A resumed training needs this state and the optimizer's, which holds the rate.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, steps: LambdaLR, *, num_rising: int, plateau: ReduceLROnPlateau | None
    ) -> None:
        self._optimizer = optimizer
        self._steps = steps
        self._num_rising = num_rising
        self._plateau = plateau

    @property
    def lr(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        if self._plateau is None or self._is_rising:  # a step sets the rate anew and would undo the plateau's reduction
            self._steps.step()

    def after_epoch(self, val_miou: float) -> None:
        if self._plateau is not None and not self._is_rising:
            self._plateau.step(val_miou)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps.state_dict(), "plateau": None if self._plateau is None else self._plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps.load_state_dict(state["steps"])
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])

    @property
    def _is_rising(self) -> bool:
        return self._steps.last_epoch < self._num_rising  # torch calls it an epoch; here it counts steps


def build_schedule(config: ScheduleConfig, optimizer: torch.optim.Optimizer, *, num_steps: int) -> Schedule:
    """Build the schedule; ``num_steps``: optimizer steps of the whole training."""

    def share(step: int) -> float:
        return lr_share(config, step, num_steps=num_steps)

    plateau = None
    if config.name == "plateau":
        plateau = ReduceLROnPlateau(optimizer, mode="max", factor=config.factor, patience=config.patience, threshold=0.0)
    num_rising = count_rising_steps(config, num_steps)
    return Schedule(optimizer, LambdaLR(optimizer, share), num_rising=num_rising, plateau=plateau)


def count_rising_steps(config: ScheduleConfig, num_steps: int) -> int:
    """Number of warm-up steps, out of ``num_steps``."""
    default = 0.25 if config.name == "one_cycle" else 0.0
    return round((default if config.warmup_fraction is None else config.warmup_fraction) * num_steps)


def lr_share(config: ScheduleConfig, step: int, *, num_steps: int) -> float:
    """Learning rate of ``step`` (from 0) as a share of the configured one, in (0, 1], before any plateau.

    Every schedule rises from START during its warm-up; one_cycle is a cosine with a warm-up by default.
    Source: Loshchilov and Hutter 2017, SGDR, eq. 5 (cosine); Smith and Topin 2018, Super-Convergence (one_cycle, here with
    cosines for rise and fall and constant Adam betas).
    """
    num_rising = count_rising_steps(config, num_steps)
    if step < num_rising:
        return START + (1 - START) * _ease(step / num_rising)
    if config.name in ("constant", "plateau"):
        return 1.0
    num_falling = num_steps - num_rising
    return 1 - (1 - END) * _ease(min(1.0, (step - num_rising) / max(1, num_falling)))


def _ease(part: float) -> float:
    """Half a cosine from 0 to 1."""
    return (1 - math.cos(math.pi * part)) / 2
