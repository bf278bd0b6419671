"""Draws one scene of terrain with its labels; synthetic.py cuts it into tiles."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from trainers.config import SyntheticConfig

FloatImage = NDArray[np.float32]
BACKGROUND, SOIL, BEDROCK, SAND, BIG_ROCK = range(5)

ROWS, COLUMNS = 3, 3
"""Tiles of one scene."""

_SCENES_PER_ROCK_SCENE = 4
_UNLABELLED_ROCKS = 0.12
"""Share of the big rocks without a label."""


@dataclass(frozen=True)
class _View:
    """Perspective of a scene: row of the image -> scale and row of the ground.

    unit: side of a tile relative to 64x128; horizon: first row of ground; scale: (H,) ground pixels per image pixel;
    depth: (H,) row of the ground that a row of the image shows.
    """

    height: int
    width: int
    unit: float
    horizon: int
    scale: FloatImage
    depth: FloatImage

    @property
    def ground_shape(self) -> tuple[int, int]:
        return int(self.depth[-1]) + 2, int(self.width * 1.3)

    @cached_property
    def _maps(self) -> tuple[FloatImage, FloatImage]:
        columns = np.arange(self.width, dtype=np.float32) - self.width / 2
        map_x = (columns[None] * self.scale[:, None] + self.ground_shape[1] / 2).astype(np.float32)
        return map_x, np.repeat(self.depth[:, None], self.width, axis=1)

    def project(self, ground: FloatImage) -> FloatImage:
        """Project the ground into the image: (Hg, Wg) -> (H, W), rows above the horizon repeated."""
        return np.asarray(cv2.remap(ground, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.float32)


def random_generator(seed: int, index: int) -> np.random.Generator:
    """Return the generator of one scene, independent of the number of scenes; ``seed`` may be negative."""
    return np.random.default_rng([int(seed < 0), abs(seed), index])


def draw_scene(config: SyntheticConfig, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scene ``index``: image and mask, both (ROWS * height, COLUMNS * width) uint8, labels 0 to 4."""
    rng = random_generator(config.seed, index)
    view = _place_camera(config, rng, ROWS * config.height, COLUMNS * config.width)
    weights, margin = _lay_terrain(rng, view, _draw_shares(rng, index))
    height, albedo = _model_surface(rng, view, weights)
    has_rocks = index % _SCENES_PER_ROCK_SCENE == 0
    outlines = _place_rocks(rng, view, config) if has_rocks else []
    image = _render(rng, view, height, albedo, outlines)
    mask = _annotate(rng, view, weights, margin, rng.beta(4.3, 5.9) if index else 0.3)
    _annotate_rocks(rng, mask, outlines)
    return image, mask


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, *, octaves: int = 1) -> FloatImage:
    """Smooth noise of unit standard deviation whose largest features measure ``cell`` pixels."""
    total = np.zeros((1, 1), np.float32)  # grows on coarse grids, so that only one resize has the size of the image
    for octave in range(octaves):
        size = max(1.0, cell / 2**octave)
        grid = rng.standard_normal((int(shape[0] / size) + 3, int(shape[1] / size) + 3), dtype=np.float32)
        grid *= np.float32(0.6**octave)
        total = grid + np.asarray(cv2.resize(total, grid.shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    field = np.asarray(cv2.resize(total, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    sample = field[::3, ::3] if field.size > 4096 else field
    field -= sample.mean()
    field /= sample.std() + np.float32(1e-6)
    return field


def _place_camera(config: SyntheticConfig, rng: np.random.Generator, height: int, width: int) -> _View:
    """Half of the scenes show the horizon; the others show only ground."""
    horizon = int(height * rng.uniform(0.06, 0.28)) if rng.random() < 0.5 else 0
    near = np.clip((np.arange(height) - horizon) / (height - horizon), 0, 1)
    steepness = 2.2 if horizon else rng.uniform(0.2, 0.9)
    scale = (0.9 + steepness * (1 - near) ** 3).astype(np.float32)
    depth = np.cumsum(np.where(np.arange(height) >= horizon, scale, 0), dtype=np.float32)
    unit = float(np.sqrt(config.height * config.width / (64 * 128)))
    return _View(height, width, unit, horizon, scale, depth)


def _draw_shares(rng: np.random.Generator, index: int) -> tuple[float, float]:
    """Share of sand, and of bedrock in the rest; few scenes are an even mixture, the first one always is."""
    if index == 0:
        return 0.25, 0.5
    sand = rng.uniform(0.1, 0.48) if rng.random() < 0.42 else 0.0
    return sand, float(rng.beta(0.75, 0.72))


def _lay_terrain(rng: np.random.Generator, view: _View, shares: tuple[float, float]) -> tuple[FloatImage, FloatImage]:
    """Return weights (3, H, W) of soil, bedrock and sand, summing to 1, and the distance (H, W) to other terrain."""
    shape = view.ground_shape
    sandy = view.project(_noise(rng, shape, 150 * view.unit, octaves=5))
    stony = view.project(_noise(rng, shape, 130 * view.unit, octaves=6))
    ground = slice(view.horizon, None)
    sandy -= np.quantile(sandy[ground][::2, ::2], shares[0]) if shares[0] else sandy.min() - 1
    firm = sandy[ground][::2, ::2] > 0
    stony -= np.quantile(stony[ground][::2, ::2][firm], shares[1])
    sharpness = 20.0
    is_sand = 1 / (1 + np.exp(np.clip(sharpness * sandy, -30, 30)))
    is_bedrock = (1 - is_sand) / (1 + np.exp(np.clip(sharpness * stony, -30, 30)))
    weights = np.stack([1 - is_sand - is_bedrock, is_bedrock, is_sand]).astype(np.float32)
    margin = np.where(sandy > 0, np.minimum(sandy, np.abs(stony)), -sandy).astype(np.float32)
    return weights, margin


def _model_surface(rng: np.random.Generator, view: _View, weights: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Return height and albedo (H, W) of the ground: each terrain has its own relief; gray levels overlap."""
    height = np.zeros(weights.shape[1:], np.float32)
    albedo = np.zeros_like(height)
    levels = np.array([0.98, 1.14, 0.88]) + rng.normal(0, 0.09, 3)
    for weight, form, level in zip(weights, (_form_soil, _form_bedrock, _form_sand), levels, strict=True):
        if weight.max() > 0.01:
            relief, shade = form(rng, view.ground_shape)
            height += weight * view.project(relief)
            albedo += weight * (np.float32(level) + view.project(shade))
    return height, albedo * (1 + np.float32(0.12) * view.project(_noise(rng, view.ground_shape, 60 * view.unit, octaves=4)))


def _form_soil(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[FloatImage, FloatImage]:
    """Grains, and pebbles in varying number and size."""
    grains = _noise(rng, shape, 2.4, octaves=2)
    stones = np.maximum(_noise(rng, shape, rng.uniform(3, 5)) - np.float32(rng.uniform(1.0, 1.9)), 0)
    return np.float32(rng.uniform(0.4, 0.7)) * grains + 2.2 * stones, 0.08 * grains + np.float32(rng.normal(0, 0.15)) * stones


def _form_bedrock(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[FloatImage, FloatImage]:
    """Weathered plates of different height and brightness with dark cracks between them and some rubble."""
    spacing = rng.uniform(9, 24)
    seeds = np.ones(shape, np.uint8)
    num_plates = max(2, round(shape[0] * shape[1] / spacing**2))
    seeds[rng.integers(0, shape[0], num_plates), rng.integers(0, shape[1], num_plates)] = 0
    _, plates = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5)
    levels = rng.normal(0, 1, int(plates.max()) + 1).astype(np.float32)[plates]
    edges = cv2.morphologyEx(levels, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    cracks = cv2.GaussianBlur(edges.astype(np.float32), (3, 3), 0) * np.clip(0.7 + 0.5 * _noise(rng, shape, 30), 0, 1)
    rough = _noise(rng, shape, 7, octaves=2)
    rubble = np.maximum(_noise(rng, shape, 6) - 1.4, 0)
    relief = np.float32(rng.uniform(0.4, 0.9)) * levels + 0.35 * rough - 1.0 * cracks + 1.5 * rubble
    return relief, np.float32(0.11) * levels + 0.05 * rough - np.float32(rng.uniform(0.25, 0.5)) * cracks


def _form_sand(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[FloatImage, FloatImage]:
    """Wind ripples that fade in and out on smooth ground, and a few pebbles."""
    angle, wavelength = rng.uniform(-0.9, 0.9), rng.uniform(6, 13)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] * np.float32(np.cos(angle) * 2 * np.pi / wavelength)
    columns = np.arange(shape[1], dtype=np.float32)[None] * np.float32(np.sin(angle) * 2 * np.pi / wavelength)
    ripples = np.sin(rows + columns + 1.6 * _noise(rng, shape, 40, octaves=2))
    strength = np.clip(np.float32(rng.uniform(-0.1, 0.6)) + 0.4 * _noise(rng, shape, 60), 0, 1)
    stones = np.maximum(_noise(rng, shape, 4.5) - 2.4, 0)
    grains = _noise(rng, shape, 2.4)
    return 0.9 * strength * ripples + 0.1 * grains + 2.0 * stones, 0.05 * strength * ripples + 0.025 * grains


def _place_rocks(rng: np.random.Generator, view: _View, config: SyntheticConfig) -> list[NDArray[np.int32]]:
    """Outlines (P, 2), x and y, of big rocks in three neighbouring tiles of the scene."""
    row, column = int(rng.integers(1, ROWS)), int(rng.integers(0, COLUMNS))
    tiles = [(row, column), (row, (column + 1) % COLUMNS), (row - 1 if row > 1 else row + 1, column)]
    outlines = []
    for tile_row, tile_column in tiles:
        for _ in range(int(rng.integers(1, 4))):
            y = (tile_row + rng.uniform(0.2, 0.8)) * config.height
            x = (tile_column + rng.uniform(0.15, 0.85)) * config.width
            radius = view.unit * rng.uniform(6, 13) / view.scale[int(y)] ** 0.5
            angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
            radii = radius * rng.uniform(0.7, 1.2, len(angles))
            points = np.stack([x + 1.25 * radii * np.cos(angles), y + 0.85 * radii * np.sin(angles)], 1)
            outlines.append(points.round().astype(np.int32))
    return outlines


def _render(
    rng: np.random.Generator, view: _View, height: FloatImage, albedo: FloatImage, outlines: list[NDArray[np.int32]]
) -> NDArray[np.uint8]:
    """Light the ground from one side, add rocks and sky, expose: (H, W) uint8."""
    light = rng.uniform(-1, 1)
    shadow = _add_rocks(rng, height, albedo, outlines, light)
    slope = np.float32(light) * cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.25) + cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.25)
    shading = np.tanh(np.float32(rng.uniform(0.45, 0.8)) * slope) / (0.5 + 0.5 * view.scale[:, None])
    scene = albedo * (1 + shading) * shadow
    haze = np.clip(view.scale[:, None] - 1.2, 0, 1.5) * 0.2
    scene = scene * (1 - haze) + haze * rng.uniform(0.7, 1.3)
    _paint_sky(rng, view, scene)
    scene *= 1 + 0.16 * _noise(rng, scene.shape, view.width / 2)
    exposed = scene * rng.uniform(35, 90) + rng.standard_normal(scene.shape, dtype=np.float32) * rng.uniform(0.8, 2.2)
    return np.asarray(np.clip(np.round(exposed), 0, 255), np.uint8)


def _add_rocks(
    rng: np.random.Generator, height: FloatImage, albedo: FloatImage, outlines: list[NDArray[np.int32]], light: float
) -> FloatImage:
    """Raise domes inside the outlines, in place, and return the light (H, W) that their shadows leave."""
    shadow = np.ones(height.shape, np.float32)
    if not outlines:
        return shadow
    inside = np.zeros(height.shape, np.uint8)
    for outline in outlines:  # one by one: overlaps of polygons filled together become holes
        cv2.fillPoly(inside, [outline], 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
    stone = inside.astype(bool)
    rough = _noise(rng, (height.shape[0], height.shape[1]), 5, octaves=2)
    height[stone] = (1.5 * np.sqrt(depth) + 0.55 * rough)[stone]
    albedo[stone] *= np.float32(rng.normal(1.0, 0.12))
    shift = np.array([[1, 0, np.sign(light) * 3], [0, 1, 3]], np.float32)
    cast = cv2.warpAffine(inside, shift, inside.shape[::-1])
    shadow[(cast > 0) & ~stone] = rng.uniform(0.5, 0.75)
    return shadow


def _paint_sky(rng: np.random.Generator, view: _View, scene: FloatImage) -> None:
    """Draw sky and far hills above an uneven horizon, in place."""
    if not view.horizon:
        return
    ridge = view.horizon * (1.02 + 0.08 * np.abs(_noise(rng, (1, view.width), view.width / 6, octaves=3)[0]))
    hills = ridge * rng.uniform(0.55, 0.9) + 0.08 * view.horizon * _noise(rng, (1, view.width), view.width / 9, octaves=3)[0]
    rows = np.arange(view.height, dtype=np.float32)[:, None]
    sky = rng.uniform(0.5, 1.4) * (1 + 0.3 * rows / view.horizon)
    far = rng.uniform(0.5, 1.1) * (1 + 0.05 * _noise(rng, (view.height, view.width), 7, octaves=2))
    scene[:] = np.where(rows < hills, sky, np.where(rows < ridge, far, scene))


def _annotate(
    rng: np.random.Generator, view: _View, weights: FloatImage, margin: FloatImage, background_share: float
) -> NDArray[np.uint8]:
    """Label as annotators would: ragged, with background near borders, far away, and in some random spots."""
    step = 2 if view.height >= 96 else 1  # annotators do not label single pixels
    weights, margin, scale = weights[:, ::step, ::step], margin[::step, ::step], view.scale[::step]
    ragged = 0.12 * _noise(rng, margin.shape, 9 * view.unit / step, octaves=3)
    mask = (np.argmax(weights + ragged * np.array([1, -1, 0.5], np.float32)[:, None, None], axis=0) + SOIL).astype(np.uint8)
    doubt = 1.3 * np.exp(-np.maximum(margin, 0) / 0.14) + 1.1 * np.clip(scale - 1.1, 0, 1.2)[:, None]
    doubt += 0.75 * _noise(rng, margin.shape, 55 * view.unit / step, octaves=5)
    doubt[: int(view.horizon * 1.1 / step)] = 1000
    mask[doubt >= np.quantile(doubt, 1 - background_share)] = BACKGROUND
    return np.asarray(cv2.resize(mask, (view.width, view.height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _annotate_rocks(rng: np.random.Generator, mask: NDArray[np.uint8], outlines: list[NDArray[np.int32]]) -> None:
    """Label most big rocks, roughly and with a rim of background; leave out the others. In place."""
    for number, outline in enumerate(outlines):
        rough = (outline + rng.normal(0, 0.7, outline.shape)).round().astype(np.int32)
        cv2.polylines(mask, [rough], isClosed=True, color=BACKGROUND, thickness=2)
        is_marked = number == 0 or rng.random() >= _UNLABELLED_ROCKS
        cv2.fillPoly(mask, [rough], BIG_ROCK if is_marked else BACKGROUND)
