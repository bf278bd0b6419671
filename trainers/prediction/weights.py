"""Reads best.safetensors: trained weights and, in the metadata, what the model is rebuilt from."""

import json
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import nn

from trainers.config import Config, TrainConfig
from trainers.errors import ConfigError
from trainers.models.build import build_model, place_model

BEST = "best.safetensors"


class ModelInfo(Config, extra="ignore"):
    """Metadata of best.safetensors; epoch and metrics are those of the weights."""

    schema_version: int = 2
    config: TrainConfig
    in_channels: int
    num_classes: int
    epoch: int = 0
    metrics: dict[str, float] = Field(default={})
    normalisation: str = "divide by 255"


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> nn.Module:
    """Rebuild the model saved at ``path`` (best.safetensors, or its folder), in evaluation mode.

    Raises:
        ConfigError: the file is missing, damaged, or not from this trainer.
    """
    info = read_info(path)
    config = info.config.model_copy(update={"encoder_weights": None})
    model = build_model(config, in_channels=info.in_channels, num_classes=info.num_classes)
    load_weights(model, path)
    return place_model(model, torch.device(device)).eval()


def read_info(path: Path) -> ModelInfo:
    """Read the metadata of the checkpoint at ``path``.

    Raises:
        ConfigError: as ``load_checkpoint``.
    """
    file = _find_file(path)
    try:
        with safe_open(file, framework="pt") as weights:
            return ModelInfo.model_validate(json.loads(weights.metadata()["trainer"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file}: not a checkpoint of this trainer: {error}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint's weights into a model of the same configuration.

    Raises:
        ConfigError: the file cannot be read, or the weights do not fit.
    """
    file = _find_file(path)
    try:
        with safe_open(file, framework="pt") as weights:
            model.load_state_dict({name: weights.get_tensor(name) for name in weights.keys()})  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{file}: weights do not fit the model: {error}") from error


def _find_file(path: Path) -> Path:
    return path / BEST if path.is_dir() else path
