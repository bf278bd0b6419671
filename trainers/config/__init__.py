"""Configuration of a training as frozen pydantic models, with all defaults. Imports no torch.

base.py    constants, the base model, checks of names
names.py   architectures and encoders of segmentation_models_pytorch
data.py    DataConfig: source, size, split
loss.py    the losses
train.py   TrainConfig: everything else
"""

from trainers.config.base import (
    CHECKPOINT_INTERVAL_S,
    OBJECTIVE,
    TRAINER_VERSION,
    VOID,
    Config,
    check_known,
    describe_unknown,
    find_nearest,
    is_import_path,
    suggest,
)
from trainers.config.data import DataConfig, Fold, SplitLists, SyntheticConfig
from trainers.config.train import (
    FLIPPED_AXES,
    Augmentation,
    Flips,
    OptimizerConfig,
    SamplingConfig,
    TrainConfig,
    TransformConfig,
)

__all__ = [
    "CHECKPOINT_INTERVAL_S",
    "FLIPPED_AXES",
    "OBJECTIVE",
    "TRAINER_VERSION",
    "VOID",
    "Augmentation",
    "Config",
    "DataConfig",
    "Flips",
    "Fold",
    "OptimizerConfig",
    "SamplingConfig",
    "SplitLists",
    "SyntheticConfig",
    "TrainConfig",
    "TransformConfig",
    "check_known",
    "describe_unknown",
    "find_nearest",
    "is_import_path",
    "suggest",
]
