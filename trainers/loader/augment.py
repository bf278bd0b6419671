"""Augmentation configuration -> function of image, mask and seed; imports albumentations only if a transform needs it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trainers.config import TransformConfig

Image = NDArray[np.uint8]
Augmentation = Callable[[Image, Image, int], tuple[Image, Image]]

NAMED: dict[str, tuple[TransformConfig, ...]] = {
    "none": (),
    # Left-right only: terrain has a horizon, so no image is ever upside down.
    "flip": (TransformConfig(name="HorizontalFlip", options={"p": 0.5}),),
    "flip_brightness": (
        TransformConfig(name="HorizontalFlip", options={"p": 0.5}),
        TransformConfig(name="RandomBrightnessContrast", options={"p": 0.5}),
    ),
    # The same ground as a rover's camera may see it: mirrored, closer, slightly tilted, in different light, less sharp.
    "mixed": (
        TransformConfig(name="HorizontalFlip", options={"p": 0.5}),
        TransformConfig(
            name="Affine",
            options={
                "scale": [0.8, 1.25],
                "translate_percent": [-0.1, 0.1],
                "rotate": [-10, 10],
                "border_mode": 4,
                "p": 0.6,
            },
        ),
        TransformConfig(name="RandomBrightnessContrast", options={"p": 0.5}),
        TransformConfig(name="RandomGamma", options={"gamma_limit": [70, 140], "p": 0.3}),
        TransformConfig(name="GaussNoise", options={"std_range": [0.01, 0.05], "p": 0.3}),
        TransformConfig(name="GaussianBlur", options={"blur_limit": [3, 5], "p": 0.2}),
    ),
}


def build_augmentation(config: str | tuple[TransformConfig, ...]) -> Augmentation:
    """Build a function: image (H, W, C) uint8, mask (H, W) uint8, seed -> augmented pair of the same shapes.

    Its result depends on its arguments only. Threads must not share one.

    Raises:
        ConfigError: a transform or an argument is unknown or not allowed. The function itself raises it if a transform changes
            the size or the type of the image.
    """
    transforms = NAMED[config] if isinstance(config, str) else config
    if not transforms:
        return lambda image, mask, seed: (image, mask)
    from trainers.loader.transforms import Pipeline, build_transform  # loads albumentations, and that torch: seconds

    return Pipeline([build_transform(t, place=f"augmentation[{i}]") for i, t in enumerate(transforms)])
