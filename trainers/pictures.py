"""Draws pictures for people: a trial's grid of validation images, masks and predictions, and the parts of other sheets."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

GAP = 4
"""Width of the white border, in pixels."""

MIN_WIDTH = 192
"""Images in the grid are enlarged by a whole factor to at least this width."""


def draw_samples(
    images: NDArray[np.uint8], truths: NDArray[np.uint8], predictions: NDArray[np.uint8], *, num_classes: int
) -> NDArray[np.uint8]:
    """Draw one row per image: image, truth and prediction side by side.

    images: (K, H, W, C) uint8, C in {1, 3}, RGB; truths: (K, H, W) uint8, 255 void, drawn black; predictions: (K, H, W) uint8.

    Returns: (height, width, 3) uint8, RGB.
    """
    palette = make_palette(num_classes)
    factor = -(-MIN_WIDTH // images.shape[2])
    rows = []
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        pictures = [np.broadcast_to(image, (*image.shape[:2], 3)), palette[truth], palette[prediction]]
        rows.append(join_pictures([picture.repeat(factor, axis=0).repeat(factor, axis=1) for picture in pictures]))
    return np.concatenate(rows)


def join_pictures(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join pictures (h, w, 3) of one height side by side, each with a white border of GAP pixels."""
    return np.concatenate([np.pad(one, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255) for one in pictures], axis=1)


def make_palette(num_classes: int) -> NDArray[np.uint8]:
    """Colours of mask values: (256, 3) uint8 RGB; evenly spread hues for classes, black for other values."""
    hsv = np.zeros((1, 256, 3), np.uint8)
    classes = np.arange(num_classes)
    hsv[0, :num_classes, 0] = classes * 180 // num_classes  # OpenCV's hues end at 180
    hsv[0, :num_classes, 1] = 170
    hsv[0, :num_classes, 2] = np.where(classes % 2, 255, 200)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0], dtype=np.uint8)


def pick_evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """Up to ``wanted`` indices spread evenly over ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG."""
    options = (cv2.IMWRITE_PNG_COMPRESSION, 3)  # OpenCV's default makes files three times as large
    is_encoded, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert is_encoded
    return encoded.tobytes()
