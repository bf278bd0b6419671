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
from trainers.config.loss import (
    LOSSES,
    BoundaryLoss,
    CrossEntropyLoss,
    CustomLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    Loss,
    LossConfig,
    LossTerm,
    LovaszLoss,
    SingleLoss,
    SumLoss,
    TverskyLoss,
    WeightedCrossEntropyLoss,
)
from trainers.config.train import (
    AUGMENTATIONS,
    FLIPPED_AXES,
    Augmentation,
    EarlyStoppingConfig,
    EmaConfig,
    Flips,
    OptimizerConfig,
    RepeatConfig,
    SamplingConfig,
    ScheduleConfig,
    TrainConfig,
    TransformConfig,
)

__all__ = [
    "AUGMENTATIONS",
    "CHECKPOINT_INTERVAL_S",
    "FLIPPED_AXES",
    "LOSSES",
    "OBJECTIVE",
    "TRAINER_VERSION",
    "VOID",
    "Augmentation",
    "BoundaryLoss",
    "Config",
    "CrossEntropyLoss",
    "CustomLoss",
    "DataConfig",
    "DiceLoss",
    "EarlyStoppingConfig",
    "EmaConfig",
    "Flips",
    "FocalLoss",
    "Fold",
    "JaccardLoss",
    "Loss",
    "LossConfig",
    "LossTerm",
    "LovaszLoss",
    "OptimizerConfig",
    "RepeatConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "SingleLoss",
    "SplitLists",
    "SumLoss",
    "SyntheticConfig",
    "TrainConfig",
    "TransformConfig",
    "TverskyLoss",
    "WeightedCrossEntropyLoss",
    "check_known",
    "describe_unknown",
    "find_nearest",
    "is_import_path",
    "suggest",
]
