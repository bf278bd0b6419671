"""Augmentation configuration -> function of picture, mask and seed; loads the library of transforms only if one is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trainers.config import TransformConfig

Image = NDArray[np.uint8]
Augmentation = Callable[[Image, Image, int], tuple[Image, Image]]

NAMED: dict[str, tuple[TransformConfig, ...]] = {
    "none": (),
    # Left to right only: terrain has a horizon, so no picture is ever upside down.
    "flip": (TransformConfig(name="HorizontalFlip", options={"p": 0.5}),),
    "flip_brightness": (
        TransformConfig(name="HorizontalFlip", options={"p": 0.5}),
        TransformConfig(name="RandomBrightnessContrast", options={"p": 0.5}),
    ),
}


def build_augmentation(config: str | tuple[TransformConfig, ...]) -> Augmentation:
    """Build what turns (image (H, W, C) uint8, mask (H, W) uint8, seed) into an augmented pair of the same shapes.

    The result depends on its arguments only. One object must not be used by two threads at once.

    Raises:
        ConfigError: a transform or an argument is unknown or not allowed. The augmentation itself raises it where a transform
            changes the size or the type of the picture.
    """
    transforms = NAMED[config] if isinstance(config, str) else config
    if not transforms:
        return _unchanged
    from trainers.transforms import Pipeline, build_transform  # loads albumentations, and that torch: seconds

    return Pipeline([build_transform(t, place=f"augmentation[{i}]") for i, t in enumerate(transforms)])


def _unchanged(image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
    return image, mask
