from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from trainers.config import VOID, TransformConfig
from trainers.config.train import AUGMENTATIONS
from trainers.errors import ConfigError
from trainers.loader.augment import build_augmentation


def transforms(*named: tuple[str, dict[str, Any]]) -> tuple[TransformConfig, ...]:
    """Write (name, options) as the configuration does."""
    return tuple(TransformConfig(name=name, options=options) for name, options in named)


def make_pair(channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An image whose pixels all differ from their mirror image, and a mask that follows it."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (16, 24, channels), dtype=np.uint8)
    return image, (image[..., 0] // 50).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_named_ones_keep_shape_and_type(name: str, channels: int) -> None:
    """Gray and colour images come out as they went in."""
    image, mask = make_pair(channels)
    augment = build_augmentation(name)
    for seed in range(4):
        new_image, new_mask = augment(image, mask, seed)
        assert (new_image.shape, new_image.dtype, new_mask.shape, new_mask.dtype) == (image.shape, np.uint8, mask.shape, np.uint8)


def test_none_returns_what_it_was_given() -> None:
    """No copy, no cost."""
    image, mask = make_pair()
    same_image, same_mask = build_augmentation("none")(image, mask, 0)
    assert same_image is image
    assert same_mask is mask


def test_flip_mirrors_half_of_the_images_with_their_masks() -> None:
    """Left to right, image and mask together, about every second time."""
    image, mask = make_pair()
    augment = build_augmentation("flip")
    flips = 0
    for seed in range(100):
        new_image, new_mask = augment(image, mask, seed)
        flipped = np.array_equal(new_image, image[:, ::-1])
        assert np.array_equal(new_image, image[:, ::-1] if flipped else image)
        assert np.array_equal(new_mask, mask[:, ::-1] if flipped else mask)
        flips += flipped
    assert 30 < flips < 70


def test_brightness_leaves_the_mask_alone() -> None:
    """Labels are only ever moved, never changed."""
    image, mask = make_pair()
    augment = build_augmentation("flip_brightness")
    results = [augment(image, mask, seed) for seed in range(20)]
    assert all(np.array_equal(np.sort(new.ravel()), np.sort(mask.ravel())) for _, new in results)
    assert any(np.sort(new.ravel()).tolist() != np.sort(image.ravel()).tolist() for new, _ in results)


def test_transforms_decide_independently() -> None:
    """Two transforms of probability one half coincide half of the time, not always."""
    image, mask = make_pair()
    augment = build_augmentation(transforms(("HorizontalFlip", {"p": 0.5}), ("VerticalFlip", {"p": 0.5})))
    found = {augment(image, mask, seed)[1].tobytes() for seed in range(40)}
    assert len(found) == 4


def test_result_depends_on_the_seed_alone() -> None:
    """Whatever was augmented before, and by whichever object."""
    image, mask = make_pair()
    first, second = build_augmentation("flip_brightness"), build_augmentation("flip_brightness")
    for seed in (5, 6):
        second(image, mask, seed)
    for a, b in zip(first(image, mask, 7), second(image, mask, 7), strict=True):
        assert np.array_equal(a, b)


def test_pixels_from_outside_are_void() -> None:
    """What a shift brings in has no label."""
    image, mask = make_pair()
    shift = transforms(("Affine", {"translate_px": {"x": 8, "y": 0}, "p": 1.0}))
    _, moved = build_augmentation(shift)(image, mask, 0)
    assert (moved[:, :8] == VOID).all()
    assert np.array_equal(moved[:, 8:], mask[:, :-8])


def test_unknown_transform_names_the_nearest() -> None:
    """Names are albumentations'."""
    with pytest.raises(ConfigError, match=r"augmentation\[1\].*Did you mean 'HorizontalFlip'"):
        build_augmentation(transforms(("VerticalFlip", {}), ("HorizontalFlipp", {})))


def test_unknown_argument_names_the_nearest() -> None:
    """The library would only warn, and then augment otherwise than asked."""
    with pytest.raises(ConfigError, match=r"augmentation\[0\].*Did you mean 'limit'"):
        build_augmentation(transforms(("Rotate", {"limits": 10})))


def test_wrong_value_says_what_the_library_says() -> None:
    """The place, the transform and the library's reason."""
    with pytest.raises(ConfigError, match=r"augmentation\[0\]: Rotate with .*limit"):
        build_augmentation(transforms(("Rotate", {"limit": "far"})))


def test_transform_that_changes_the_size_is_rejected_in_use() -> None:
    """The message names the transforms and both shapes."""
    augment = build_augmentation(transforms(("RandomCrop", {"height": 8, "width": 8})))
    with pytest.raises(ConfigError, match=r"RandomCrop turned uint8 \(16, 24, 1\) into uint8 \(8, 8, 1\)"):
        augment(*make_pair(), 0)


def test_transform_that_changes_the_type_is_rejected_in_use() -> None:
    """Normalising is the trainer's."""
    augment = build_augmentation(transforms(("ToFloat", {})))
    with pytest.raises(ConfigError, match="into float32"):
        augment(*make_pair(), 0)


def test_crop_to_the_same_size_is_allowed() -> None:
    """As is everything that gives back what the batch needs."""
    image, mask = make_pair()
    crop = transforms(("RandomResizedCrop", {"size": [16, 24], "scale": [0.5, 1.0]}))
    assert build_augmentation(crop)(image, mask, 0)[0].shape == image.shape


def test_transform_by_import_path() -> None:
    """Any transform in albumentations' sense, wherever it is defined."""
    image, mask = make_pair()
    path = "albumentations.augmentations.geometric.flip:VerticalFlip"
    assert np.array_equal(build_augmentation(transforms((path, {"p": 1.0})))(image, mask, 0)[1], mask[::-1])


def test_object_that_is_no_transform_is_rejected() -> None:
    """The message says what it must be."""
    with pytest.raises(ConfigError, match="it must give a transform of albumentations"):
        build_augmentation(transforms(("builtins:dict", {})))


def test_none_loads_no_library() -> None:
    """Without augmentation nothing loads albumentations, nor the torch that it imports."""
    code = "import sys, trainers.loader.augment as a; a.build_augmentation('none'); sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
