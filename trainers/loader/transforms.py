"""One transform of albumentations by its name and arguments, and a row of them; the only module that imports albumentations."""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.config import VOID, TransformConfig, check_known, is_import_path
from trainers.errors import ConfigError
from trainers.imports import import_object

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # asked for while it is imported: nobody is phoned
import albumentations as A  # after the line above

Image = NDArray[np.uint8]


class Pipeline:
    """Transforms applied in turn, all drawing from one generator that is made from the sample's seed."""

    def __init__(self, transforms: list[A.BasicTransform]) -> None:
        self._compose = A.Compose(transforms, is_check_shapes=False)

    def __call__(self, image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
        # Not set_random_seed: it gives every transform a generator of its own with the same seed, and so the same decisions.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self._compose(image=image, mask=mask)
        augmented, labels = result["image"], result["mask"]
        if augmented.ndim == 2:
            augmented = augmented[..., np.newaxis]
        if augmented.shape != image.shape or labels.shape != mask.shape or augmented.dtype != np.uint8:
            raise ConfigError(
                f"augmentation {self._names()} turned {image.dtype} {image.shape} into {augmented.dtype} {augmented.shape} "
                f"(mask {labels.shape}); a batch needs pictures of one size and uint8. "
                "Crop to the size of the pictures, and leave resizing to data.size and normalising to the trainer."
            )
        return augmented, labels

    def _names(self) -> str:
        return " > ".join(type(t).__name__ for t in self._compose.transforms)


def build_transform(config: TransformConfig, *, place: str) -> A.BasicTransform:
    """Build the transform; ``place`` is where it stands in the configuration.

    Raises:
        ConfigError: its name or an argument is unknown, or the library does not take a value.
    """
    try:
        build = _find(config.name)
        options = _checked_options(build, config, place=place)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations warns where it then ignores what it was told
            transform = build(**options)
    except (ValueError, TypeError, UserWarning) as error:
        raise ConfigError(f"{place}: {config.name} with {config.options}: {error}") from error
    if not isinstance(transform, A.BasicTransform | A.BaseCompose):
        raise ConfigError(f"{place}: {config.name} gave a {type(transform).__name__}; it must give a transform of albumentations")
    return transform


def _checked_options(build: Callable[..., Any], config: TransformConfig, *, place: str) -> dict[str, Any]:
    try:
        parameters = inspect.signature(build).parameters
    except ValueError:
        return config.options  # a built-in; what comes out of it is checked
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for name in config.options:
            try:
                check_known(name, [p for p in parameters if p != "strict"], f"argument of {config.name}")
            except ValueError as error:
                raise ConfigError(f"{place}: {error}") from None
    options = dict(config.options)
    if "fill_mask" in parameters and parameters["fill_mask"].default == 0:
        options.setdefault("fill_mask", VOID)  # what comes in from outside the picture has no label; 0 would be a class
    return options


def _find(name: str) -> Callable[..., Any]:
    if is_import_path(name):
        found: Callable[..., Any] = import_object(name)
    else:
        found = getattr(A, check_known(name, _known_transforms(), "transform of albumentations"))
    return found


def _known_transforms() -> list[str]:
    kinds = (A.ImageOnlyTransform, A.DualTransform)
    found = (name for name in dir(A) if inspect.isclass(getattr(A, name)) and issubclass(getattr(A, name), kinds))
    return [name for name in found if not inspect.isabstract(getattr(A, name)) and getattr(A, name) not in kinds]
