"""Exponential moving average of a model's weights, which train.py evaluates and keeps instead of the weights themselves."""

from __future__ import annotations

from timm.utils.model_ema import ModelEmaV3
from torch import nn

from trainers.config import EmaConfig


def build_average(config: EmaConfig | None, model: nn.Module) -> ModelEmaV3 | None:
    """Build the average of ``model``, batch norm's statistics included, which starts as a copy; None where none is asked for.

    ``update(model, step=...)`` after each step, counted from 1 over the whole training: the decay rises as 1 - step^(-2/3) to the
    configured one, so that a short training does not remember its initial weights.
    Source: Polyak and Juditsky 1992, Acceleration of Stochastic Approximation by Averaging; the rise is timm's.
    """
    return None if config is None else ModelEmaV3(model, decay=config.decay, use_warmup=True)
