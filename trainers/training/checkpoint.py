"""State of a training <-> last.pt, to resume from; best weights -> best.safetensors. Files appear whole or not at all."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from trainers.errors import TrainerError
from trainers.prediction.weights import BEST, ModelInfo
from trainers.training.optim import Schedule

LAST = "last.pt"
SCHEMA_VERSION = 2

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Progress of a training; history: metrics of each epoch so far. Only the training loop changes it."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)

    @property
    def epochs_run(self) -> int:
        return len(self.history)


@dataclass(frozen=True)
class Trained:
    """The objects whose state a checkpoint saves and restores."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    average: ModelEmaV3 | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The model to validate and keep: the averaged one if there is an average."""
        if self.average is None:
            return self.model
        averaged: nn.Module = self.average.module
        return averaged


def save_last(folder: Path, trained: Trained, progress: Progress, *, identity: dict[str, Any]) -> None:
    """Write everything that the next epoch depends on; no random state, as each epoch seeds its own."""
    state = {
        "schema_version": SCHEMA_VERSION,
        "identity": json.dumps(identity, sort_keys=True),
        "progress": asdict(progress),
        "model": trained.model.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "schedule": trained.schedule.state_dict(),
        "average": None if trained.average is None else trained.average.module.state_dict(),
    }
    _replace(folder / LAST, lambda path: torch.save(state, path))


def load_last(folder: Path, trained: Trained, *, identity: dict[str, Any]) -> Progress:
    """Restore ``trained`` and return its progress; a new Progress if there is no checkpoint.

    A damaged checkpoint is logged and ignored: the training starts anew.

    Raises:
        TrainerError: the folder holds another training's checkpoint.
    """
    path = folder / LAST
    if not path.exists():
        return Progress()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, found, progress = state["schema_version"], json.loads(state["identity"]), Progress(**state["progress"])
    except Exception as error:  # a truncated zip raises any of half a dozen types
        logger.warning("%s: cannot be read (%s: %s); the training starts anew", path, type(error).__name__, error)
        return Progress()
    if version != SCHEMA_VERSION or not (folder / BEST).exists():
        why = f"has schema version {version}" if version != SCHEMA_VERSION else f"lacks its {BEST}"
        logger.warning("%s: %s; the training starts anew", path, why)
        return Progress()
    for name, value in identity.items():
        if found.get(name) != value:
            raise TrainerError(
                f"{path}: belongs to another training: its {name} is {found.get(name)!r}, expected {value!r}. "
                "Choose another folder, or delete the file to start anew."
            )
    trained.model.load_state_dict(state["model"])
    trained.optimizer.load_state_dict(state["optimizer"])
    trained.schedule.load_state_dict(state["schedule"])
    if trained.average is not None:
        trained.average.module.load_state_dict(state["average"])
    return progress


def save_best(folder: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write the model's weights, with ``info`` to rebuild it from."""
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"trainer": json.dumps(info.model_dump(mode="json"))}
    _replace(folder / BEST, lambda path: save_file(weights, path, metadata=metadata))


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    scratch = path.with_name(f".{path.name}.scratch")  # one process per folder; leftovers of a kill are overwritten
    write(scratch)
    with open(scratch, "rb") as file:
        os.fsync(file.fileno())
    os.replace(scratch, path)
