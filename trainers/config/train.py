"""TrainConfig: network, loss, optimisation, augmentation and sampling of one training."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from trainers.config.base import Config, Size, check_known, is_import_path
from trainers.config.loss import FocalLoss, Loss
from trainers.config.names import ARCHITECTURES, ENCODER_PREFIXES, ENCODERS

Flips = Literal["none", "horizontal", "both"]
"""Test-time augmentation: average over the image and its left-right flip, or over all four flips."""

FLIPPED_AXES: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}
"""Flips -> axes of (B, C, H, W) to flip, one tuple per evaluation."""


class OptimizerConfig(Config):
    """``lr`` is the peak learning rate; ``weight_decay`` None takes the library's default."""

    name: Literal["adamw", "adam", "sgd", "lion"] = "adamw"
    """lion: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms; needs a rate 3 to 10 times below AdamW's."""
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """For sgd only."""


class ScheduleConfig(Config):
    """How the learning rate changes: per step (one_cycle, cosine) or by val/miou (plateau)."""

    name: Literal["constant", "cosine", "plateau", "one_cycle"] = "one_cycle"
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps in which the rate rises to ``lr``. None: 0.25 for one_cycle, 0 for the others."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """plateau: multiplies the rate."""
    patience: int = Field(default=5, ge=0)
    """plateau: epochs without improvement until the rate falls."""


class EarlyStoppingConfig(Config):
    """Stop when val/miou has not risen by more than ``min_delta`` for ``patience`` epochs."""

    patience: int = Field(default=10, ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class TransformConfig(Config):
    """One transform with its arguments: a class of albumentations, or ``package.module:attribute``."""

    name: str
    options: dict[str, Any] = {}


AUGMENTATIONS = ("none", "flip", "flip_brightness", "mixed")


def _check_augmentation(value: str | tuple[TransformConfig, ...]) -> str | tuple[TransformConfig, ...]:
    return check_known(value, AUGMENTATIONS, "augmentation") if isinstance(value, str) else value


Augmentation = Annotated[str | tuple[TransformConfig, ...], AfterValidator(_check_augmentation)]


class RepeatConfig(Config):
    """Training images that are shown ``factor`` times per epoch."""

    classes: tuple[int, ...] | Literal["rarest", "all"] = "rarest"
    """Images with one of these classes, with the scored class that the fewest images hold, or all of them."""
    factor: int = Field(default=2, ge=2)
    augmentation: Augmentation | None = None
    """Augmentation of the copies; None: as for the first showing."""

    @field_validator("classes")
    @classmethod
    def _names_some(cls, classes: tuple[int, ...] | str) -> tuple[int, ...] | str:
        if isinstance(classes, tuple) and not classes:
            raise ValueError("[] names no class. Allowed: ids of classes, rarest, or all")
        return tuple(sorted(set(classes))) if isinstance(classes, tuple) else classes


class SamplingConfig(Config):
    """Which training images an epoch shows, and how often."""

    repeat: tuple[RepeatConfig, ...] = ()
    """Applied in turn, each to the result of the previous one: copies are copied again."""
    weight_power: float = Field(default=0.0, ge=0)
    """Above 0: draw an epoch's images with replacement. The probability of an image grows with the rarity of its rarest scored
    class to this power; 0.5 is usual. Source: Gupta et al. 2019, LVIS, section 4.1."""


class EmaConfig(Config):
    """Validate and keep the exponential moving average of the weights instead of the weights themselves."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Reached after some hundred steps; it starts lower."""


class TrainConfig(Config):
    """One training, without its seed, fold and data."""

    arch: str = "Unet"
    """An architecture of segmentation_models_pytorch, or ``package.module:callable``."""
    encoder: str = "mobilenet_v2"
    """An encoder of segmentation_models_pytorch; ``tu-NAME`` takes timm's."""
    arch_options: dict[str, Any] = {}
    """Arguments of the architecture, as smp names them; timm's encoders take further ones."""
    encoder_weights: str | None = None
    """None: random initial weights. A name (``imagenet``) needs network access."""
    loss: Loss = FocalLoss(name="focal")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=32, ge=1)
    augmentation: Augmentation = "none"
    """``none``, ``flip``, ``flip_brightness``, ``mixed``, or a list of transforms applied in turn."""
    sampling: SamplingConfig = SamplingConfig()
    input_size: Size | None = None
    """(height, width) of the network's input: images are resized to it, logits back to the full size for scoring."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Largest Euclidean norm of all gradients together; larger ones are scaled down."""
    ema: EmaConfig | None = None
    test_time_flips: Flips = "none"
    """Average probabilities over the image and its left-right flip, or over all four flips."""
    early_stopping: EarlyStoppingConfig | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 autocast on devices with bf16 hardware."""

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str) -> str:
        return arch if is_import_path(arch) else check_known(arch, ARCHITECTURES, "architecture")

    @field_validator("encoder")
    @classmethod
    def _known_encoder(cls, encoder: str) -> str:
        return encoder if encoder.startswith(ENCODER_PREFIXES) else check_known(encoder, ENCODERS, "encoder")

    @field_validator("arch_options")
    @classmethod
    def _known_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Reject unknown options: smp passes them to the encoder, and most encoders silently drop them."""
        arch, encoder = info.data.get("arch"), info.data.get("encoder")  # absent if they were rejected
        if arch in ARCHITECTURES and encoder is not None:
            of_others = {name for known in ARCHITECTURES.values() for name in known}
            for name in options:
                if name in of_others or not encoder.startswith(ENCODER_PREFIXES):  # otherwise timm decides
                    check_known(name, ARCHITECTURES[arch], f"option of {arch}")
        return options
