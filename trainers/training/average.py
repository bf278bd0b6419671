"""Exponential moving average of a model's weights; train.py evaluates and keeps it instead of the weights."""

from __future__ import annotations

from timm.utils.model_ema import ModelEmaV3
from torch import nn

from trainers.config import EmaConfig


def build_average(config: EmaConfig | None, model: nn.Module) -> ModelEmaV3 | None:
    """Build the average of ``model``, batch norm statistics included; it starts as a copy. None if ``config`` is None.

    Call ``update(model, step=...)`` after each step, from 1 over the whole training. The decay rises as 1 - step^(-2/3) to the
    configured one, so that a short training forgets its initial weights.
    Source: Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; the rise is timm's.
    """
    return None if config is None else ModelEmaV3(model, decay=config.decay, use_warmup=True)
