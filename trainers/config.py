"""What a training is, as frozen pydantic models; the one place where a default lives. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from trainers.names import ARCHITECTURES, ENCODER_PREFIXES, ENCODERS

TRAINER_VERSION = 2
"""Part of every trial's key; raised by hand whenever the same configuration would give another result."""

VOID = 255
"""The mask value of pixels that are never trained on and never scored (padding, unlabelled)."""


class Config(BaseModel):
    """Immutable; refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def check_known(name: str, known: Iterable[str], what: str) -> str:
    """Return ``name`` if it is known; otherwise raise ValueError naming the nearest known one."""
    names = list(known)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names) if len(names) <= 24 else f"{', '.join(names[:20])}, ... ({len(names)} in all)"
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name!r} is not a known {what}. Known: {listed}.{hint}")


def is_import_path(name: str) -> bool:
    """Whether ``name`` names something of the user's own, as ``package.module:attribute``."""
    return ":" in name


# ---------------------------------------------------------------------------------------------- data


class SyntheticConfig(Config):
    """The embedded data: tiles cut out of generated scenes of terrain."""

    num_images: int = Field(default=768, ge=8)
    height: int = Field(default=64, ge=16)
    width: int = Field(default=128, ge=16)
    seed: int = 0
    outlier_fraction: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the tiles that get a pasted object and a copied mask, as the report's outliers."""


class SplitLists(Config):
    """Text files with one stem a line, relative to the data set's folder, that fix the split."""

    train: str
    val: str


class DataConfig(Config):
    """Where the pictures come from, how they become tiles of one size, and how they are split."""

    source: str = "synthetic"
    """``synthetic``, a .npz with ``training_set`` (N, 2, H, W), or a folder with images/ and masks/."""
    synthetic: SyntheticConfig = SyntheticConfig()
    num_classes: int | None = Field(default=None, ge=2, le=255)
    """Default: one more than the largest label found, or the largest target of ``id_map``."""
    class_names: tuple[str, ...] = ()
    id_map: dict[int, int] | None = None
    """Value in the mask file -> class; 255 means void. A value that the map lacks is an error."""
    size: tuple[int, int] | None = None
    """(height, width) that every picture is brought to; needed only where sizes differ."""
    fit: Literal["resize", "pad"] = "resize"
    """How ``size`` is reached. ``pad`` keeps the scale, pads with void and refuses larger pictures."""
    color: Literal["auto", "gray", "rgb"] = "auto"
    split_lists: SplitLists | None = None
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    split_seed: int = 0
    ignore_classes: tuple[int, ...] = ()
    """Classes whose pixels are neither trained on nor scored."""
    limit: int | None = Field(default=None, ge=1)
    """Train on the first N training images after splitting; validation stays whole."""

    @field_validator("size")
    @classmethod
    def _positive_size(cls, size: tuple[int, int] | None) -> tuple[int, int] | None:
        if size is not None and min(size) < 1:
            raise ValueError(f"{list(size)} is not a size: [height, width] in pixels, both positive")
        return size

    @field_validator("ignore_classes")
    @classmethod
    def _sorted_classes(cls, classes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(classes)))


class Fold(Config):
    """One part of a k-fold split: ``index`` of ``count`` is validated on, the others are trained on."""

    index: int = Field(ge=0)
    count: int = Field(ge=2)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"fold {self.index} of {self.count} does not exist")
        return self


# -------------------------------------------------------------------------------------------- losses


class LossConfig(Config):
    """Fields that every loss has."""

    ignore_classes: tuple[int, ...] | None = None
    """Overrides ``data.ignore_classes`` for the loss alone; [] trains on every class."""


class FocalLoss(LossConfig):
    """Focal loss. Source: Lin et al. 2017, Focal Loss for Dense Object Detection, eq. 4."""

    name: Literal["focal"]
    gamma: float = Field(default=2.0, ge=0)


class CrossEntropyLoss(LossConfig):
    """Cross entropy, every pixel alike."""

    name: Literal["cross_entropy"]
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class WeightedCrossEntropyLoss(LossConfig):
    """Cross entropy weighted by the inverse pixel frequency of the training part's classes."""

    name: Literal["weighted_cross_entropy"]


class DiceLoss(LossConfig):
    """1 - soft Dice, averaged over the classes trained on. Source: Milletari et al. 2016, V-Net."""

    name: Literal["dice"]


class JaccardLoss(LossConfig):
    """1 - soft intersection over union, averaged over the classes trained on."""

    name: Literal["jaccard"]


class CustomLoss(LossConfig):
    """A loss of the user's own: ``package.module:callable``, called with ``options`` to build it."""

    name: str
    options: dict[str, Any] = {}


LOSSES = ("focal", "cross_entropy", "weighted_cross_entropy", "dice", "jaccard")


def _check_loss_name(value: Any) -> Any:
    """Answer a missing or unknown name with the known ones, before the union chooses by it."""
    if isinstance(value, dict):
        name = value.get("name")
        if not isinstance(name, str):
            raise ValueError(f"a loss needs a 'name'. Known: {', '.join(LOSSES)}, or package.module:attribute")
        if not is_import_path(name):
            check_known(name, LOSSES, "loss")
    elif not isinstance(value, LossConfig):
        raise ValueError(f"{value!r} is not a loss; write it as {{name: focal, gamma: 2}}. Known: {', '.join(LOSSES)}")
    return value


def _loss_tag(value: Any) -> str:
    name: str = value["name"] if isinstance(value, dict) else value.name
    return "custom" if is_import_path(name) else name


Loss = Annotated[
    Annotated[FocalLoss, Tag("focal")]
    | Annotated[CrossEntropyLoss, Tag("cross_entropy")]
    | Annotated[WeightedCrossEntropyLoss, Tag("weighted_cross_entropy")]
    | Annotated[DiceLoss, Tag("dice")]
    | Annotated[JaccardLoss, Tag("jaccard")]
    | Annotated[CustomLoss, Tag("custom")],
    Discriminator(_loss_tag),
    BeforeValidator(_check_loss_name),
]


# -------------------------------------------------------------------------- optimisation, augmentation


class OptimizerConfig(Config):
    """``lr`` is the peak learning rate; ``weight_decay`` None takes the optimizer's own default in torch."""

    name: Literal["adamw", "adam"] = "adamw"
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)


class ScheduleConfig(Config):
    """How the learning rate moves: per step (one_cycle, cosine) or on val/miou (plateau)."""

    name: Literal["constant", "cosine", "plateau", "one_cycle"] = "one_cycle"
    warmup_fraction: float = Field(default=0.25, ge=0, lt=1)
    """one_cycle: share of the steps that rise to ``lr``."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """plateau: what the rate is multiplied with."""
    patience: int = Field(default=5, ge=0)
    """plateau: epochs without improvement before the rate falls."""


class EarlyStoppingConfig(Config):
    """Stop when val/miou has not risen by more than ``min_delta`` for ``patience`` epochs."""

    patience: int = Field(default=10, ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class TransformConfig(Config):
    """One transform of albumentations by its own name, or ``package.module:attribute``, with its arguments."""

    name: str
    options: dict[str, Any] = {}


AUGMENTATIONS = ("none", "flip", "flip_brightness")


class TrainConfig(Config):
    """One training, without its seed, its fold and its data."""

    arch: str = "Unet"
    """An architecture of segmentation_models_pytorch by its own name, or ``package.module:callable``."""
    arch_options: dict[str, Any] = {}
    encoder: str = "mobilenet_v2"
    """An encoder of segmentation_models_pytorch by its own name; ``tu-NAME`` takes timm's."""
    encoder_weights: str | None = None
    """None: random initial weights. A name (``imagenet``) needs network access."""
    loss: Loss = FocalLoss(name="focal")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=32, ge=1)
    augmentation: str | tuple[TransformConfig, ...] = "none"
    """``none``, ``flip``, ``flip_brightness``, or a list of transforms applied in turn."""
    early_stopping: EarlyStoppingConfig | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 autocast where the device is faster with it."""

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str) -> str:
        return arch if is_import_path(arch) else check_known(arch, ARCHITECTURES, "architecture")

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, encoder: str) -> str:
        return encoder if encoder.startswith(ENCODER_PREFIXES) else check_known(encoder, ENCODERS, "encoder")

    @field_validator("augmentation")
    @classmethod
    def _known_augmentation(cls, value: str | tuple[TransformConfig, ...]) -> str | tuple[TransformConfig, ...]:
        return check_known(value, AUGMENTATIONS, "augmentation") if isinstance(value, str) else value
