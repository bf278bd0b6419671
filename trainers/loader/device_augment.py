"""The named augmentations for batches on a device; their statistics are those of augment.py's, their random numbers are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainers.config import Augmentation
from trainers.loader.augment import NAMED

ORDER = ("HorizontalFlip", "Affine", "RandomBrightnessContrast", "RandomGamma", "GaussNoise", "GaussianBlur")
"""The transforms that exist here, in the order in which they are applied."""
DEFAULTS = {"brightness_limit": (-0.2, 0.2), "contrast_limit": (-0.2, 0.2), "sigma_limit": (0.5, 3.0)}
"""Arguments that no named augmentation sets, as in albumentations."""
MIN_SIDE = 4
"""Shortest side of an image, in pixels: blurring reflects two pixels."""
TAPS = 5
"""Length of the longest blurring kernel."""

_OPTIONS: dict[str, Any] = {name: value for named in NAMED.values() for t in named for name, value in t.options.items()}
_NUM_NUMBERS = 18
"""Random numbers per sample."""


@dataclass(frozen=True)
class Draws:
    """Parameters of S samples; None where no sample needs the transform.

    flip: (S,) bool; is_warped: (S,) bool; theta: (S, 2, 3) float32 as in ``affine_grid``; table: (S, 256) uint8, new value of
    each value; noise_std: (S,) float32 in grey levels; noise_key: (S,) int64; kernel: (S, TAPS) float32.
    """

    flip: Tensor | None = None
    is_warped: Tensor | None = None
    theta: Tensor | None = None
    table: Tensor | None = None
    noise_std: Tensor | None = None
    noise_key: Tensor | None = None
    kernel: Tensor | None = None

    def part(self, samples: slice) -> Draws:
        return Draws(*(None if value is None else value[samples] for value in self._values()))

    def to(self, device: torch.device) -> Draws:
        return Draws(*(None if value is None else upload(value, device) for value in self._values()))

    def _values(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in fields(self)]


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; a GPU's copy runs beside the host."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def is_supported(config: Augmentation, size: Sequence[int]) -> bool:
    """Whether images of this size (height, width) can be augmented here."""
    return isinstance(config, str) and (config == "none" or min(size) >= MIN_SIDE)


def draw(names: Sequence[str], chosen: NDArray[np.int64], keys: NDArray[np.uint64], *, size: tuple[int, int]) -> Draws:
    """Draw the parameters of S samples, on the CPU; each depends on its own key only.

    names: of augmentations; chosen: (S,) which of them; keys: (S,); size: (height, width) of the images.
    """
    # Every number is drawn, needed or not, so that no sample's depend on another sample.
    numbers = iter(uniforms(keys, _NUM_NUMBERS).T)

    def applied(transform: str) -> NDArray[np.bool_]:
        odds = [sum(t.options["p"] for t in NAMED[name] if t.name == transform) for name in names]
        return np.asarray(next(numbers) < np.array(odds)[chosen])

    def uniform(low: float, high: float) -> NDArray[np.float64]:
        return np.asarray(low + next(numbers) * (high - low))

    flip, warp, light, gamma, noise, blur = (applied(transform) for transform in ORDER)
    shift = [np.trunc(uniform(*_OPTIONS["translate_percent"]) * side) for side in size[::-1]]  # x, y; whole pixels
    scale = [uniform(*_OPTIONS["scale"]) for _ in "xy"]
    angle = np.deg2rad(uniform(*_OPTIONS["rotate"]))
    contrast, brightness = 1 + uniform(*DEFAULTS["contrast_limit"]), uniform(*DEFAULTS["brightness_limit"]) * 255
    power = uniform(*_OPTIONS["gamma_limit"]) / 100
    noise_std, noise_key = uniform(*_OPTIONS["std_range"]) * 255, (next(numbers) * 2**32).astype(np.int64)
    sigma, (shortest, longest) = uniform(*DEFAULTS["sigma_limit"]), _OPTIONS["blur_limit"]
    length = shortest + np.floor(next(numbers) * (longest - shortest + 1))
    draws: dict[str, NDArray[Any]] = {}
    if flip.any():
        draws["flip"] = flip
    if warp.any():
        draws |= {"is_warped": warp, "theta": _invert(shift, scale, angle, size)}
    if light.any() or gamma.any():
        factor, added = np.where(light, contrast, 1), np.where(light, brightness, 0)
        draws["table"] = _make_tables(factor, added, power, is_gamma=gamma)
    if noise.any():
        draws |= {"noise_std": np.where(noise, noise_std, 0).astype(np.float32), "noise_key": noise_key}
    if blur.any():
        draws["kernel"] = _make_kernels(sigma, np.where(blur, length, 1))
    return Draws(**{name: torch.from_numpy(value) for name, value in draws.items()})


def augment(images: Tensor, masks: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Apply the draws to images (B, H, W, C) uint8 and masks (B, H, W) uint8, all on one device. The host never waits."""
    if draws.flip is not None:
        images = torch.where(draws.flip.view(-1, 1, 1, 1), images.flip(2), images)
        masks = torch.where(draws.flip.view(-1, 1, 1), masks.flip(2), masks)
    if draws.theta is not None and draws.is_warped is not None:
        grid = F.affine_grid(draws.theta, [len(images), 1, *images.shape[1:3]], align_corners=True)
        warped = _sample(images.permute(0, 3, 1, 2), grid, "bilinear").permute(0, 2, 3, 1)
        images = torch.where(draws.is_warped.view(-1, 1, 1, 1), warped, images)
        masks = torch.where(draws.is_warped.view(-1, 1, 1), _sample(masks.unsqueeze(1), grid, "nearest").squeeze(1), masks)
    if draws.table is not None:
        images = draws.table.gather(1, images.flatten(1).long()).view(images.shape)
    if draws.noise_std is not None and draws.noise_key is not None:
        noise = normals(draws.noise_key, math.prod(images.shape[1:])).view(images.shape)
        noisy = images.float() + noise * draws.noise_std.view(-1, 1, 1, 1)
        images = noisy.clamp_(0, 255).to(torch.uint8)  # cuts off decimals, as albumentations does
    if draws.kernel is not None:
        images = _blur(images, draws.kernel)
    return images, masks


def _sample(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Sample (B, C, H, W) uint8; beyond its border an image continues as its reflection."""
    return F.grid_sample(values.float(), grid, mode, padding_mode="reflection", align_corners=True).round_().to(torch.uint8)


def _blur(images: Tensor, kernel: Tensor) -> Tensor:
    height, width = images.shape[1:3]
    reach = TAPS // 2
    padded = F.pad(images.permute(0, 3, 1, 2).float(), [reach] * 4, mode="reflect")
    weights = kernel.view(-1, TAPS, 1, 1, 1)
    rows = torch.stack([padded[..., i : i + width] for i in range(TAPS)], 1).mul_(weights).sum(1)
    blurred = torch.stack([rows[..., i : i + height, :] for i in range(TAPS)], 1).mul_(weights).sum(1)
    return blurred.permute(0, 2, 3, 1).round().clamp_(0, 255).to(torch.uint8)


def _invert(
    shift: Sequence[NDArray[np.float64]], scale: Sequence[NDArray[np.float64]], angle: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Map places in the result to places in the image, both from -1 to 1: (S, 2, 3).

    The image is scaled, rotated and shifted about its centre; shift, scale: of x and y; angle: in radians.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    half = np.array([size[1] - 1, size[0] - 1]) / 2
    forward = rotation * np.stack(scale, -1)[:, None, :] * half / half[:, None]
    backward = np.linalg.inv(forward)
    offset = -backward @ (np.stack(shift, -1) / half)[..., None]
    return np.concatenate([backward, offset], -1).astype(np.float32)


def _make_tables(
    factor: NDArray[np.float64], shift: NDArray[np.float64], power: NDArray[np.float64], *, is_gamma: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Tables (S, 256) of contrast and brightness, then gamma; decimals are cut off, as in albumentations."""
    values = np.arange(256, dtype=np.float32)
    light = values * factor.astype(np.float32)[:, None] + shift.astype(np.float32)[:, None]
    tables = np.clip(light, 0, 255, out=light).astype(np.uint8)
    curves = (np.arange(256) * (1 / 255)) ** power[is_gamma][:, None] * 255
    tables[is_gamma] = np.take_along_axis(curves.astype(np.uint8), tables[is_gamma].astype(np.int64), axis=1)
    return tables


def _make_kernels(sigma: NDArray[np.float64], length: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian kernels (S, TAPS), of an even length one longer."""
    places = np.arange(TAPS) - TAPS // 2
    kernels = np.exp(-0.5 * (places / sigma[:, None]) ** 2) * (np.abs(places) <= (length // 2)[:, None])
    return np.asarray(kernels / kernels.sum(axis=1, keepdims=True), np.float32)


def uniforms(keys: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """(S, count) numbers in [0, 1) from (S,) keys.

    Source: Steele et al. 2014, Fast Splittable Pseudorandom Number Generators (SplitMix64).
    """
    states = keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mix(states) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def make_keys(seed: int, epoch: int, indices: NDArray[np.int64], occurrences: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(S,) keys, one for each (seed, epoch, image, occurrence)."""
    first = mix(mix(np.array([seed % 2**64], np.uint64)) + np.uint64(epoch))
    return mix(mix(first + indices.astype(np.uint64)) + occurrences.astype(np.uint64))


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread differences of any bits over all bits; the finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def normals(keys: Tensor, count: int) -> Tensor:
    """(S, count) standard normal float32 from (S,) int64 keys of 32 bits, computed where the keys are.

    Source: Box and Muller 1958, A Note on the Generation of Random Normal Deviates, on halves of a 32-bit hash; Appleby,
    MurmurHash3 (the finaliser, applied to key and position).
    """
    positions = torch.arange(count, device=keys.device)
    bits = _hash(_hash(keys).unsqueeze(1) + positions * 0x9E3779B9)
    radius = (((bits >> 16) + 0.5) / 2**16).log_().mul_(-2).sqrt_()
    return radius * ((bits & 0xFFFF) * (2 * math.pi / 2**16)).cos_()


def _hash(values: Tensor) -> Tensor:
    values = values & 0xFFFFFFFF
    values = ((values ^ (values >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    values = ((values ^ (values >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return values ^ (values >> 16)
