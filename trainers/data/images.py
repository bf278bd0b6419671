"""Resizes images and masks and converts gray and colour; used by the sources, the loader and prediction."""

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, C) uint8 -> the same of ``size`` (height, width); shrinking averages areas."""
    height, width = size
    method = cv2.INTER_AREA if height * width < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
    return resized.reshape(height, width, *image.shape[2:])  # OpenCV drops a single channel


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 -> the same of ``size`` (height, width), by nearest neighbour."""
    height, width = size
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def set_channels(image: NDArray[np.uint8], num_channels: int) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8 -> (H, W, num_channels): gray for 1, RGB for 3."""
    if num_channels == 1:
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return np.asarray(gray, np.uint8)[..., None]
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
