"""Finds pasted content: small patches that recur, pixel by pixel, in otherwise different images; for outliers.py.

Photographs have noise: a patch with some contrast never recurs by chance. Drawn or pasted content does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 6
"""Pixels. Measured on 2,615 images from a rover: with 5, some patches recur by chance; with 6, none."""
_MIN_CONTRAST = 16
"""Gray levels between the darkest and the brightest pixel; patches of smooth sky do recur."""
_DRAWN_SIDE = 4
"""Pixels. Used only for images that other evidence makes suspicious."""
_MAX_SAMPLES = 6_000_000
"""Patches in memory. Of larger sets every k-th is taken, by its hash, so that equal patches are taken everywhere."""
_CHUNK_PIXELS = 1 << 19
_CHUNK_PATCHES = 100_000


@dataclass(frozen=True)
class Patches:
    """Patches of a set of images, ordered by hash.

    image: (P,) index; num_groups: (P,) groups of images that contain the same patch; step: one of ``step`` patches was taken.
    """

    image: NDArray[np.int64]
    num_groups: NDArray[np.int64]
    step: int
    shape: tuple[int, int, int]

    def share(self, *, min_groups: int) -> NDArray[np.float64]:
        """Share (N,) of each image's pixels at which a patch begins that occurs in at least ``min_groups`` groups."""
        num_images, height, width = self.shape
        counts = np.bincount(self.image[self.num_groups >= min_groups], minlength=num_images)
        return counts * self.step / (height * width)


def collect_patches(images: NDArray[np.uint8], groups: NDArray[np.int64]) -> Patches:
    """Hash the patches with contrast of images (N, H, W, C); groups: (N,), equal for images that may share patches.

    Source: Schleimer, Wilkerson and Aiken, Winnowing: Local Algorithms for Document Fingerprinting, SIGMOD 2003 (sampling by
    hash, "0 mod p").
    """
    shape = (images.shape[0], images.shape[1], images.shape[2])
    step = -(-images[..., 0].size // _MAX_SAMPLES)
    parts = [(np.empty(0, np.uint64), np.empty(0, np.int64))]
    if min(shape[1:]) >= _SIDE:
        parts += _sample(images, step)
    digest, image = (np.concatenate(column) for column in zip(*parts, strict=True))
    group = groups[image]
    order = np.lexsort((group, digest))
    digest, image, group = digest[order], image[order], group[order]
    is_new = np.diff(digest, prepend=np.uint64(0)) != 0
    run = np.cumsum(is_new)
    num_groups = np.bincount(run, weights=is_new | (np.diff(group, prepend=-1) != 0)).astype(np.int64)
    return Patches(image, num_groups[run], step, shape)


def measure_drawn(image: NDArray[np.uint8]) -> float:
    """Share of the pixels of an image (H, W, C) at which a patch with contrast but only two colours begins.

    Photographs have almost none; shapes that were drawn into them have many.
    """
    if min(image.shape[:2]) < _DRAWN_SIDE:
        return 0.0
    colors = _fold(image)
    rows, columns = np.nonzero(_contrast(image, _DRAWN_SIDE) >= _MIN_CONTRAST)
    windows = np.lib.stride_tricks.sliding_window_view(colors, (_DRAWN_SIDE, _DRAWN_SIDE))
    num_drawn = 0
    for start in range(0, len(rows), _CHUNK_PATCHES):
        part = slice(start, start + _CHUNK_PATCHES)
        pixels = windows[rows[part], columns[part]].reshape(-1, _DRAWN_SIDE**2)
        low, high = pixels.min(axis=1, keepdims=True), pixels.max(axis=1, keepdims=True)
        num_drawn += int(((pixels == low) | (pixels == high)).all(axis=1).sum())
    return num_drawn / colors.size


def _sample(images: NDArray[np.uint8], step: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield hash and image index of patches with contrast, some images at a time."""
    chunk = max(1, _CHUNK_PIXELS // images[0, ..., 0].size)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk]
        digests = _hash_patches(np.stack([_fold(image) for image in part]))
        contrast = np.stack([_contrast(image, _SIDE) for image in part])
        image, row, column = np.nonzero((digests % np.uint64(step) == 0) & (contrast >= _MIN_CONTRAST))
        yield digests[image, row, column], image + start


def _hash_patches(colors: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash every patch of colors (N, H, W): (N, H - side + 1, W - side + 1); arithmetic is modulo 2^64."""
    weights = np.random.default_rng(0).integers(1, 2**63, (2, _SIDE), dtype=np.uint64) | np.uint64(1)
    height, width = colors.shape[1] - _SIDE + 1, colors.shape[2] - _SIDE + 1
    rows = np.zeros((*colors.shape[:2], width), np.uint64)
    for offset, weight in enumerate(weights[0]):
        rows += weight * colors[:, :, offset : offset + width]
    rows ^= rows >> np.uint64(29)
    digests = np.zeros((len(colors), height, width), np.uint64)
    for offset, weight in enumerate(weights[1]):
        digests += weight * rows[:, offset : offset + height]
    digests ^= digests >> np.uint64(32)
    digests *= np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(digests ^ (digests >> np.uint64(29)), np.uint64)


def _fold(image: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One number above 0 per pixel: (H, W, C) -> (H, W); black must have a hash too."""
    colors = np.ones(image.shape[:2], np.uint64)
    for channel in range(image.shape[2]):
        colors += image[..., channel].astype(np.uint64) << np.uint64(8 * channel)
    return colors


def _contrast(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Largest difference, over all channels, in the patch that begins at each pixel: (H - side + 1, W - side + 1)."""
    window = np.ones((side, side), np.uint8)
    bright, dark = (change(np.ascontiguousarray(image), window, anchor=(0, 0)) for change in (cv2.dilate, cv2.erode))
    difference = (bright - dark).reshape(image.shape).max(axis=2)
    return np.asarray(difference[: image.shape[0] - side + 1, : image.shape[1] - side + 1], np.uint8)
