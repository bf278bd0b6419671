"""Groups identical and nearly identical images, so that a split keeps them together; outliers.py looks for copies with it."""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# Measured on 2,615 images from a rover: copies changed in brightness, noise (1 to 2 gray levels) or JPEG are found in 99.4
# to 100 of 100 cases. Other groups were places photographed twice and featureless sky; the largest group had 10 images.
_COARSE_CORRELATION = 0.9
"""Of 8x16 thumbnails; selects the pairs for the comparison of detail."""
_DETAIL_CORRELATION = 0.4
"""Median over blocks of the correlation of fine detail. Different ground gives about 0, even if two images share large shapes
(horizon, the robot's arm, a pasted object)."""

_COPIED_SHARE = 0.4
"""Share of a grid's blocks that are equal in every pixel of a copy, whatever was pasted over the rest. The robot's arm,
photographed twice, never gives two equal blocks."""
_GRID = (8, 16)
"""Rows and columns of that grid."""

_THUMBNAIL = (16, 8)
_BLOCKS = (8, 4)
_MAX_DETAIL_SIDE = 128
_CHUNK = 1024


def group_images(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return a group id (N,) for images (N, H, W, C): images with equal ids must stay together.

    Pairs of nearly identical images connect a group; its id is its smallest index. A copy with a pasted object belongs to the
    group of its original.
    """
    first_seen: dict[bytes, int] = {}
    digests = (hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images)
    pairs = [np.array([(first_seen.setdefault(digest, index), index) for index, digest in enumerate(digests)], np.int64)]
    pairs.append(find_copies(images))
    coarse, detail, energy = _describe(images)
    for start in range(0, len(images), _CHUNK):
        correlation = coarse[start : start + _CHUNK] @ coarse[start:].T
        first, second = np.nonzero(np.triu(correlation > _COARSE_CORRELATION, 1))
        for part in range(0, len(first), _CHUNK):
            left, right = first[part : part + _CHUNK] + start, second[part : part + _CHUNK] + start
            same = _correlate_blocks(detail, energy, left, right) > _DETAIL_CORRELATION
            pairs.append(np.stack([left[same], right[same]], axis=1))
    return connect(np.concatenate(pairs), len(images))


def connect(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return (count,) the smallest index that each index is connected to by ``pairs`` (P, 2)."""
    from scipy.sparse import coo_array  # not at the top: exported models import this module but need no scipy
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels = connected_components(links, directed=False)[1]
    smallest: NDArray[np.int64] = np.unique(labels, return_index=True)[1][labels]
    return smallest


def find_copies(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return pairs (P, 2), the smaller index first, of images (N, H, W, C) of which a large part is equal in every pixel.

    Of many copies of one image, some pairs may be missing; those returned connect all copies. Flat blocks are ignored.
    """
    digests = _hash_blocks(images)
    if digests is None:
        return np.empty((0, 2), np.int64)
    block, image, digest = (array.ravel() for array in (*np.indices(digests.shape)[::-1], digests))
    textured = np.flatnonzero(digest)
    order = textured[np.lexsort((image[textured], digest[textured], block[textured]))]
    is_new = np.diff(digest[order], prepend=0) != 0
    is_new |= np.diff(block[order], prepend=-1) != 0
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
    again = np.flatnonzero(~is_new)
    found = image[order]
    left = np.concatenate([found[first[again]], found[again - 1][again - 1 > first[again]]])
    right = np.concatenate([found[again], found[again][again - 1 > first[again]]])
    codes, counts = np.unique(left * len(images) + right, return_counts=True)
    pairs = codes[counts >= _COPIED_SHARE * digests.shape[1]]
    return np.stack([pairs // len(images), pairs % len(images)], axis=1)


def _hash_blocks(images: NDArray[np.uint8]) -> NDArray[np.uint64] | None:
    """Return a hash of each block of the grid (N, 128), 0 if the block is flat; None if the images are too small for it."""
    rows, columns = _GRID
    height, width = images.shape[1] // rows, images.shape[2] // columns
    if min(height, width) < 2:
        return None
    weights = np.random.default_rng(0).integers(1, 2**63, height * width * images.shape[3], dtype=np.uint64)
    digests = np.empty((len(images), rows * columns), np.uint64)
    for index, image in enumerate(images):
        cut = image[: rows * height, : columns * width].reshape(rows, height, columns, width, -1)
        blocks = cut.swapaxes(1, 2).reshape(rows * columns, -1)
        hashed = (blocks * weights).sum(axis=1, dtype=np.uint64)
        digests[index] = np.where(blocks.max(axis=1) > blocks.min(axis=1), np.maximum(hashed, 1), 0)
    return digests


def _describe(images: NDArray[np.uint8]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return normalised thumbnails (N, 128), fine detail (N, h, w), and its energy per block (N, 4, 8)."""
    shrink = min(1.0, _MAX_DETAIL_SIDE / max(images.shape[1:3]))
    size = (max(8, round(images.shape[2] * shrink)), max(4, round(images.shape[1] * shrink)))
    coarse = np.empty((len(images), _THUMBNAIL[0] * _THUMBNAIL[1]), np.float32)
    detail = np.empty((len(images), size[1], size[0]), np.float32)
    energy = np.empty((len(images), _BLOCKS[1], _BLOCKS[0]), np.float32)
    for index, image in enumerate(images):
        gray = image[..., 0] if image.shape[-1] == 1 else image.mean(axis=-1)
        small = cv2.resize(gray.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        coarse[index] = cv2.resize(small, _THUMBNAIL, interpolation=cv2.INTER_AREA).ravel()
        detail[index] = small - cv2.blur(small, (9, 9))
        energy[index] = cv2.resize(detail[index] ** 2, _BLOCKS, interpolation=cv2.INTER_AREA)
    coarse -= coarse.mean(axis=1, keepdims=True)
    coarse /= np.linalg.norm(coarse, axis=1, keepdims=True) + 1e-3
    return coarse, detail, energy


def _correlate_blocks(detail: FloatArray, energy: FloatArray, left: NDArray[np.int64], right: NDArray[np.int64]) -> FloatArray:
    """Median over blocks of the correlation of fine detail: (P,) for P pairs."""
    correlation = np.empty((len(left), _BLOCKS[0] * _BLOCKS[1]), np.float32)
    for index, (one, other) in enumerate(zip(left, right, strict=True)):
        product = cv2.resize(detail[one] * detail[other], _BLOCKS, interpolation=cv2.INTER_AREA)
        correlation[index] = (product / np.sqrt(energy[one] * energy[other] + 1e-6)).ravel()
    return np.asarray(np.median(correlation, axis=1), np.float32)
