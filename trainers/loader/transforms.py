"""Transforms of albumentations by name and arguments, and a pipeline of them; the only module that imports albumentations."""

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

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # read during the import: no check for updates over the network
import albumentations as A  # after the line above

Image = NDArray[np.uint8]


class Pipeline:
    """Transforms applied in turn; all draw from one generator seeded per sample."""

    def __init__(self, transforms: list[A.BasicTransform]) -> None:
        self._compose = A.Compose(transforms, is_check_shapes=False)

    def __call__(self, image: Image, mask: Image, seed: int) -> tuple[Image, Image]:
        # Not set_random_seed: it seeds every transform's own generator equally, so that all make the same decisions.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self._compose(image=image, mask=mask)
        augmented, labels = result["image"], result["mask"]
        if augmented.ndim == 2:
            augmented = augmented[..., np.newaxis]
        if augmented.shape != image.shape or labels.shape != mask.shape or augmented.dtype != np.uint8:
            names = " > ".join(type(t).__name__ for t in self._compose.transforms)
            raise ConfigError(
                f"augmentation {names} turned {image.dtype} {image.shape} into {augmented.dtype} {augmented.shape} "
                f"(mask {labels.shape}); a batch needs uint8 images of one size. "
                "Crop to the size of the images; data.size resizes, and the trainer normalises."
            )
        return augmented, labels


def build_transform(config: TransformConfig, *, place: str) -> A.BasicTransform:
    """Build the transform; ``place`` is its position in the configuration.

    Raises:
        ConfigError: its name or an argument is unknown, or the library rejects a value.
    """
    try:
        build = _find(config.name)
        options = _checked_options(build, config, place=place)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations warns and then ignores the argument
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
        return config.options  # a built-in; its result is checked
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for name in config.options:
            try:
                check_known(name, [p for p in parameters if p != "strict"], f"argument of {config.name}")
            except ValueError as error:
                raise ConfigError(f"{place}: {error}") from None
    options = dict(config.options)
    if "fill_mask" in parameters and parameters["fill_mask"].default == 0:
        options.setdefault("fill_mask", VOID)  # pixels from outside the image have no label; 0 would be a class
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
