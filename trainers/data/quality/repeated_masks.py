"""Finds equal and nearly equal masks on different images; for outliers.py."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.data.quality.duplicates import connect

_MIN_CORNERS = 10
"""Masks with fewer corners recur naturally: one class within a frame, a straight horizon. Measured on images from a rover:
these have 0 to 4; of the others, nine in ten have more than 7, and the median is 100."""
_MAX_DIFFERENCE = 0.05
"""Differing pixels per pixel of border between labels, up to which two masks are nearly equal. Moving a horizon by one row
changes all of its border."""
_NUM_SAMPLES = 256
_MAX_SAMPLED = 0.1
"""Share of sampled pixels outside the main class that may differ; such pairs are then compared in every pixel."""
_MIN_SAMPLES = 8
"""Sampled pixels outside the main class that a mask needs for the comparison by samples."""


@dataclass(frozen=True)
class RepeatedMask:
    """Images of at least two groups that share an intricate mask.

    members: (K,) ascending indices; identical: (K,) equal for masks that are equal in every pixel.
    """

    members: NDArray[np.int64]
    identical: NDArray[np.int64]


def find_repeated_masks(masks: NDArray[np.uint8], groups: NDArray[np.int64]) -> list[RepeatedMask]:
    """Return the masks that recur, in the order of their first image.

    masks: (N, H, W) uint8; groups: (N,), equal for nearly identical images, whose masks may be equal.
    """
    identical = np.arange(len(masks), dtype=np.int64)
    first_seen: dict[bytes, int] = {}
    for index in np.flatnonzero(count_corners(masks) >= _MIN_CORNERS):
        digest = hashlib.sha256(np.ascontiguousarray(masks[index]).data).digest()
        identical[index] = first_seen.setdefault(digest, int(index))
    similar = _find_similar(masks, np.array(sorted(first_seen.values()), np.int64))
    equal = np.stack([identical, np.arange(len(masks))], axis=1)
    roots = connect(np.concatenate([equal, np.array(similar, np.int64).reshape(-1, 2)]), len(masks))
    repeated = np.flatnonzero(np.bincount(roots, minlength=len(masks)) > 1)
    sets = [np.flatnonzero(roots == root) for root in repeated]
    return [RepeatedMask(members, identical[members]) for members in sets if len(np.unique(groups[members])) > 1]


def count_corners(masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count for masks (N, H, W) the places (N,) where a border between labels is neither vertical nor horizontal."""
    counts = np.empty(len(masks), np.int64)
    for index, mask in enumerate(masks):
        upper, lower = mask[:-1], mask[1:]
        is_row = (upper[:, :-1] == upper[:, 1:]) & (lower[:, :-1] == lower[:, 1:])
        is_column = (upper[:, :-1] == lower[:, :-1]) & (upper[:, 1:] == lower[:, 1:])
        counts[index] = (~(is_row | is_column)).sum()
    return counts


def _find_similar(masks: NDArray[np.uint8], distinct: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return pairs of nearly equal masks among ``distinct``: compared by samples first, then in every pixel."""
    if len(distinct) < 2:
        return []
    flat = masks.reshape(len(masks), -1)
    places = np.unique(np.linspace(0, flat.shape[1] - 1, _NUM_SAMPLES).astype(np.int64))
    samples = flat[distinct][:, places]
    main = np.array([np.bincount(sample, minlength=256).argmax() for sample in samples], np.uint8)
    is_minor = samples != main[:, None]
    num_minor = is_minor.sum(axis=1)
    pairs = []
    for index in np.flatnonzero(num_minor >= _MIN_SAMPLES):
        later = np.flatnonzero((main[index + 1 :] == main[index]) & (np.abs(num_minor[index + 1 :] - num_minor[index]) <= 32))
        later += index + 1
        differing = (samples[later] != samples[index]).sum(axis=1)
        either = (is_minor[later] | is_minor[index]).sum(axis=1)
        for other in later[differing <= _MAX_SAMPLED * either + 1]:
            one, two = int(distinct[index]), int(distinct[other])
            border = np.count_nonzero(np.diff(masks[one], axis=0)) + np.count_nonzero(np.diff(masks[one], axis=1))
            if np.count_nonzero(flat[one] != flat[two]) <= _MAX_DIFFERENCE * border:
                pairs.append((one, two))
    return pairs
