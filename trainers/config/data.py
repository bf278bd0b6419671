"""DataConfig: where images come from, their size, their classes and how they are split."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from trainers.config.base import Config, Size


class SyntheticConfig(Config):
    """The built-in data: tiles cut out of generated scenes of terrain."""

    num_images: int = Field(default=768, ge=8)
    height: int = Field(default=64, ge=16)
    width: int = Field(default=128, ge=16)
    seed: int = 0
    outlier_fraction: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the tiles that get a pasted object and a copied mask, like the outliers in the report."""


class SplitLists(Config):
    """Text files that fix the split: one stem per line, paths relative to the data set's folder."""

    train: str
    val: str


class DataConfig(Config):
    """Where the images come from, how they get one size and their classes, and how they are split."""

    source: str = "synthetic"
    """``synthetic``, a .npz with ``training_set`` (N, 2, H, W), or a folder with images/ and masks/."""
    synthetic: SyntheticConfig = SyntheticConfig()
    num_classes: int | None = Field(default=None, ge=2, le=255)
    """Default: one more than the largest label found, or than the largest target of ``id_map``."""
    class_names: tuple[str, ...] = ()
    id_map: dict[int, int] | None = None
    """Value in the mask file -> class; 255 means void. A value missing from the map is an error."""
    size: Size | None = None
    """(height, width) of all images; required only if sizes differ."""
    fit: Literal["resize", "pad"] = "resize"
    """How ``size`` is reached. ``pad`` keeps the scale, pads with void and rejects larger images."""
    color: Literal["auto", "gray", "rgb"] = "auto"
    split_lists: SplitLists | None = None
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    split_seed: int = 0
    ignore_classes: tuple[int, ...] = ()
    """Classes whose pixels are neither trained on nor scored."""
    limit: int | None = Field(default=None, ge=1)
    """Train on the first N training images after splitting; validation keeps all of its images."""
    clean: Literal["auto"] | tuple[int, ...] | str | None = None
    """Images to remove before splitting: ``auto`` (the outliers that `data check` finds), positions in the source, or the path
    of a JSON file from `data check --json`, edited or not. None keeps all."""

    @field_validator("ignore_classes")
    @classmethod
    def _sorted_classes(cls, classes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(classes)))

    @field_validator("clean")
    @classmethod
    def _sorted_positions(cls, clean: str | tuple[int, ...] | None) -> str | tuple[int, ...] | None:
        if isinstance(clean, str) and clean != "auto" and not clean.endswith(".json"):
            raise ValueError(f"{clean!r} is not a way to clean. Allowed: auto, a list of positions, or the path of a .json file")
        if isinstance(clean, tuple):
            if any(position < 0 for position in clean):
                raise ValueError(f"{list(clean)} holds a negative position. Allowed: positions in the source, from 0")
            return tuple(sorted(set(clean))) or None
        return clean


class Fold(Config):
    """One part of a k-fold split: ``index`` of ``count`` is validated on, the others are trained on."""

    index: int = Field(ge=0)
    count: int = Field(ge=2)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"fold {self.index} of {self.count} does not exist")
        return self
