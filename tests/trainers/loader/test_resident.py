"""trainers.loader.resident and device_augment: batches made on the device, here the CPU, as the loaders make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainers.config import TrainConfig
from trainers.data import SplitData
from trainers.loader.augment import NAMED
from trainers.loader.batches import TrainBatches
from trainers.loader.device_augment import DEFAULTS, ORDER, Draws, augment, draw, make_keys, normals, uniforms
from trainers.loader.resident import ResidentBatches
from trainers.loader.transforms import build_transform

Make = Callable[..., SplitData]
CPU = torch.device("cpu")
SIZE = (64, 128)
MANY = 20_000


def config_of(**fields: Any) -> TrainConfig:
    """Batches of four."""
    return TrainConfig.model_validate({"batch_size": 4, **fields})


def draw_many(name: str) -> Draws:
    """The draws of many images in one epoch."""
    zeros = np.zeros(MANY, np.int64)
    return draw([name], zeros, make_keys(0, 1, np.arange(MANY), zeros), size=SIZE)


def tensor(value: torch.Tensor | None) -> np.ndarray:
    """The values of what was drawn."""
    assert value is not None
    return value.numpy()


@pytest.mark.parametrize("fields", [{}, {"input_size": [16, 16]}, {"sampling": {"repeat": [{"classes": [3], "factor": 2}]}}])
def test_without_augmentation_the_batches_are_the_loaders(fields: dict[str, Any], make_data: Make) -> None:
    """Bit for bit, in the same order, repeated and resized too."""
    data, config = make_data(num_train=9), config_of(**fields)
    resident = ResidentBatches(data, config, seed=3, device=CPU)
    loaded = TrainBatches(data, config, seed=3, num_loaders=0)
    assert (len(resident), resident.num_samples) == (len(loaded), loaded.num_samples)
    for epoch in (1, 2):
        for ours, theirs in zip(resident.epoch(epoch), loaded.epoch(epoch), strict=True):
            assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


def test_an_image_is_augmented_alike_in_any_company() -> None:
    """By (seed, epoch, image, occurrence) alone: alone, in another order, and beside other augmentations."""
    rng = np.random.default_rng(0)
    images, masks = (torch.from_numpy(rng.integers(0, 256, shape, np.uint8)) for shape in ((64, 32, 32, 1), (64, 32, 32)))
    indices, seen, chosen = np.arange(64), rng.integers(0, 3, 64), rng.integers(0, 2, 64)

    def shown(order: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        keys = make_keys(5, 2, indices[order], seen[order])
        return augment(images[order], masks[order], draw(["mixed", "flip"], chosen[order], keys, size=(32, 32)))

    whole, order = shown(indices), rng.permutation(64)
    assert all(a[order].equal(b) for a, b in zip(whole, shown(order), strict=True))
    for one in range(64):
        assert all(a[one : one + 1].equal(b) for a, b in zip(whole, shown(np.array([one])), strict=True))


def test_seeds_epochs_images_and_occurrences_draw_anew() -> None:
    """Keys are all different."""
    grid = np.stack(np.meshgrid(np.arange(100), np.arange(5)), -1).reshape(-1, 2)
    keys = [make_keys(seed, epoch, grid[:, 0], grid[:, 1]) for seed in range(4) for epoch in range(10)]
    assert len(np.unique(keys)) == 4 * 10 * 500


def test_named_augmentations_use_what_exists_here() -> None:
    """In this order, with equal options, and albumentations' defaults for the rest."""
    known: dict[str, dict[str, Any]] = {}
    for transforms in NAMED.values():
        places = [ORDER.index(transform.name) for transform in transforms]
        assert places == sorted(set(places))
        for transform in transforms:
            options = {name: value for name, value in transform.options.items() if name != "p"}
            assert known.setdefault(transform.name, options) == options
            built = build_transform(transform, place="here")
            for name in DEFAULTS.keys() & vars(built).keys():
                assert tuple(getattr(built, name)) == DEFAULTS[name]


def test_uniform_numbers_are_uniform_and_independent() -> None:
    """Means and correlations within five standard errors, for neighbouring keys."""
    numbers = uniforms(np.arange(MANY, dtype=np.uint64), 18)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 5 / np.sqrt(12 * MANY)
    correlation = np.corrcoef(numbers.T) - np.eye(18)
    assert np.abs(correlation).max() < 5 / np.sqrt(MANY)
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 5 / np.sqrt(MANY)


def test_normal_numbers_are_normal() -> None:
    """Mean, variance, fourth moment, tails, and no correlation of neighbouring pixels."""
    numbers = normals(torch.arange(200), 1000).double()
    count = numbers.numel()
    assert abs(numbers.mean()) < 5 / count**0.5
    assert abs(numbers.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((numbers**4).mean() - 3) < 5 * (96 / count) ** 0.5
    assert (numbers.abs() > 1.96).double().mean() == pytest.approx(0.05, abs=0.003)
    assert abs((numbers[:, 1:] * numbers[:, :-1]).mean()) < 5 / count**0.5
    assert abs((numbers[1:] * numbers[:-1]).mean()) < 5 / count**0.5


@pytest.mark.parametrize("name", ["flip_brightness", "mixed"])
def test_parameters_have_the_distributions_of_albumentations(name: str) -> None:
    """Shares of flipped, warped, recoloured, noisy and blurred images; means of what is drawn."""
    draws = draw_many(name)
    close = pytest.approx
    assert tensor(draws.flip).mean() == close(0.5, abs=0.02)
    is_recoloured = (tensor(draws.table) != np.arange(256)).any(axis=1).mean()
    assert is_recoloured == close(0.5 if name == "flip_brightness" else 0.5 + 0.5 * 0.3, abs=0.02)
    if name == "flip_brightness":
        assert draws.theta is draws.noise_std is draws.kernel is None
        return
    assert tensor(draws.is_warped).mean() == close(0.6, abs=0.02)
    std = tensor(draws.noise_std)
    assert (std > 0).mean() == close(0.3, abs=0.02)
    assert std[std > 0].min() == close(0.01 * 255, abs=0.05)
    assert std[std > 0].max() == close(0.05 * 255, abs=0.05)
    kernel = tensor(draws.kernel)
    is_blurred = kernel[:, 2] < 1
    assert is_blurred.mean() == close(0.2, abs=0.02)
    assert (kernel[is_blurred][:, 0] > 0).mean() == close(
        0.66, abs=0.05
    )  # of 3, 4, 5 two give five taps; a narrow one rounds to 3


@pytest.mark.parametrize("transform", ["HorizontalFlip", "RandomBrightnessContrast", "RandomGamma"])
def test_equal_parameters_give_equal_tables(transform: str) -> None:
    """Contrast, brightness and gamma: the bytes of albumentations."""
    from trainers.loader import device_augment

    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        alpha, beta, power = 1 + rng.uniform(-0.2, 0.2), rng.uniform(-51, 51), rng.uniform(0.7, 1.4)
        if transform == "RandomGamma":
            import albumentations as A

            expected = A.RandomGamma(p=1).apply(values, gamma=power).ravel()
            found = device_augment._make_tables(np.ones(1), np.zeros(1), np.array([power]), is_gamma=np.ones(1, bool))
        elif transform == "RandomBrightnessContrast":
            import albumentations as A

            expected = A.RandomBrightnessContrast(p=1).apply(values, alpha=alpha, beta=beta).ravel()
            found = device_augment._make_tables(np.array([alpha]), np.array([beta]), np.ones(1), is_gamma=np.zeros(1, bool))
        else:
            flipped = augment(
                torch.from_numpy(values)[None], torch.from_numpy(values[None, ..., 0]), Draws(flip=torch.tensor([True]))
            )
            expected, found = values[:, ::-1].ravel(), flipped[0].numpy().reshape(1, -1)
        assert np.array_equal(found[0], expected)


@pytest.fixture(scope="module")
def picture() -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a mask of blocks."""
    import cv2

    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, SIZE).astype(np.uint8), (0, 0), 3)
    image = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)[..., np.newaxis]
    return image, np.kron(rng.integers(0, 5, (8, 16)), np.ones((8, 8))).astype(np.uint8)


def test_equal_parameters_warp_alike(picture: tuple[np.ndarray, np.ndarray]) -> None:
    """To within OpenCV's steps of 1/32 pixel; masks but for pixels on borders between classes."""
    import albumentations as A
    from albumentations.augmentations.geometric.functional import center, create_affine_transformation_matrix

    from trainers.loader import device_augment

    image, mask = picture
    affine = A.Affine(border_mode=4, p=1)
    rng = np.random.default_rng(1)
    for _ in range(20):
        shift, scale, angle = rng.integers(-6, 7, 2), rng.uniform(0.8, 1.25, 2), rng.uniform(-10, 10)
        matrix = create_affine_transformation_matrix(
            dict(zip("xy", shift.tolist(), strict=True)),
            {"x": 0, "y": 0},
            dict(zip("xy", scale, strict=True)),
            angle,
            center(SIZE),
        )
        theta = device_augment._invert(
            [shift[:1].astype(float), shift[1:].astype(float)], [scale[:1], scale[1:]], np.deg2rad([angle]), SIZE
        )
        draws = Draws(is_warped=torch.tensor([True]), theta=torch.from_numpy(theta))
        found = augment(torch.from_numpy(image)[None], torch.from_numpy(mask)[None], draws)
        difference = np.abs(found[0][0].numpy().astype(int) - affine.apply(image, matrix, SIZE).astype(int))
        assert difference.mean() < 0.5
        assert difference.max() <= 4
        assert (found[1][0].numpy() != affine.apply_to_mask(mask, matrix, SIZE)).mean() < 0.01


@pytest.mark.parametrize("length", [3, 4, 5])
def test_equal_parameters_blur_alike(length: int, picture: tuple[np.ndarray, np.ndarray]) -> None:
    """To one grey level."""
    import albumentations as A
    from albumentations.augmentations.blur.functional import create_gaussian_kernel_1d

    from trainers.loader import device_augment

    image, mask = picture
    for sigma in (0.5, 1.0, 2.0, 3.0):
        expected = A.GaussianBlur(p=1).apply(image, kernel=create_gaussian_kernel_1d(sigma, length))
        kernel = torch.from_numpy(device_augment._make_kernels(np.array([sigma]), np.array([float(length)])))
        found = augment(torch.from_numpy(image)[None], torch.from_numpy(mask)[None], Draws(kernel=kernel))[0][0].numpy()
        assert np.abs(found.astype(int) - expected.reshape(found.shape).astype(int)).max() <= 1
