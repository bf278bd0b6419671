"""Source: generated tiles of terrain, cut out of larger scenes; the built-in data set."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainers.config import SyntheticConfig
from trainers.data.sources import terrain
from trainers.data.sources.base import LabelledImage
from trainers.data.sources.terrain import COLUMNS, ROWS

GENERATOR_VERSION = 1
"""Part of the fingerprint; raised by hand whenever the same configuration gives different pixels."""

CLASS_NAMES = ("background", "soil", "bedrock", "sand", "big_rock")


@dataclass(frozen=True)
class SyntheticSet:
    """Tiles and their places in the scenes.

    images, masks: (N, H, W) uint8, labels 0 to 4; scene, row, col: (N,) int64, the tile's place; outliers: (K,) int64, ascending
    indices of the tampered tiles.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    scene: NDArray[np.int64]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    outliers: NDArray[np.int64]


def make_synthetic(config: SyntheticConfig) -> SyntheticSet:
    """Draw the tiles in shuffled order; the same configuration gives the same tiles.

    The first scene holds every class, so that even the smallest set can be trained on. Every fourth scene has big rocks.
    """
    per_scene = ROWS * COLUMNS
    num_scenes = -(-config.num_images // per_scene)
    images = np.empty((num_scenes * per_scene, config.height, config.width), np.uint8)
    masks = np.empty_like(images)
    for scene in range(num_scenes):
        part = slice(scene * per_scene, (scene + 1) * per_scene)
        image, mask = terrain.draw_scene(config, scene)
        images[part], masks[part] = _cut(image, config), _cut(mask, config)
    rng = terrain.random_generator(config.seed, num_scenes)
    order = rng.permutation(config.num_images)
    images, masks = images[order], masks[order]
    place = order % per_scene
    outliers = _plant_outliers(images, masks, config.outlier_fraction, rng)
    return SyntheticSet(images, masks, order // per_scene, place // COLUMNS, place % COLUMNS, outliers)


def _cut(scene: NDArray[np.uint8], config: SyntheticConfig) -> NDArray[np.uint8]:
    """Return the tiles of a scene row by row: (rows * columns, height, width)."""
    grid = scene.reshape(ROWS, config.height, COLUMNS, config.width).swapaxes(1, 2)
    return grid.reshape(-1, config.height, config.width)


def _plant_outliers(
    images: NDArray[np.uint8], masks: NDArray[np.uint8], fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Paste a bright object into some tiles and give them all the mask of one other tile, in place; return their indices."""
    num_images, height, width = images.shape
    num_outliers = max(1, round(num_images * fraction)) if fraction > 0 else 0
    chosen = rng.permutation(num_images)
    outliers, donor = np.sort(chosen[:num_outliers]), chosen[-1]
    for index in outliers:
        masks[index] = masks[donor]
        radius = round(min(height, width) * rng.uniform(0.22, 0.3))
        centre = (int(rng.integers(radius, width - radius)), int(rng.integers(radius, height - radius)))
        _draw_saucer(images[index], centre, radius)
    return outliers


def _draw_saucer(image: NDArray[np.uint8], centre: tuple[int, int], radius: int) -> None:
    """Paste a bright flying saucer with dark portholes into ``image``."""
    x, y = centre
    cv2.ellipse(image, (x, y - radius // 4), (radius // 2, radius // 2), 0, 180, 360, 245, -1)
    cv2.ellipse(image, centre, (radius, max(1, radius // 3)), 0, 0, 360, 215, -1)
    for offset in (-radius // 2, 0, radius // 2):
        cv2.circle(image, (x + offset, y), max(1, radius // 8), 30, -1)


class SyntheticSource:
    """The generated set as a source; its fingerprint needs no pixels."""

    place = "synthetic"
    class_names: tuple[str, ...] = CLASS_NAMES

    def __init__(self, config: SyntheticConfig) -> None:
        self._config = config

    def signature(self) -> None:
        """None: there are no files that could change."""

    def fingerprint(self) -> str:
        """Hash of the configuration and the generator's version: 16 hexadecimal digits."""
        text = f"synthetic {GENERATOR_VERSION} {self._config.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def names(self) -> tuple[str, ...]:
        return tuple(f"{index:05d}" for index in range(self._config.num_images))

    def num_channels(self) -> int:
        return 1

    def read(self) -> Iterator[LabelledImage]:
        """Draw the set and yield it tile by tile."""
        tiles = make_synthetic(self._config)
        for name, image, mask in zip(self.names(), tiles.images, tiles.masks, strict=True):
            yield LabelledImage(f"synthetic tile {name}", image, mask)
