"""Finds images that were tampered with, without examples of tampering; used by loading.py and inspection.py.

Three kinds of evidence: content that recurs pixel by pixel in other images (pasted.py), an intricate mask that recurs on
different images (repeated_masks.py), and a copy of another image (duplicates.py) under a different mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.data.quality.duplicates import find_copies
from trainers.data.quality.pasted import collect_patches, measure_drawn
from trainers.data.quality.repeated_masks import RepeatedMask, find_repeated_masks

DETECTOR_VERSION = 1
"""Part of the names of prepared folders; raised by hand whenever the detector's results change."""

_PASTED_SHARE = 0.003
"""Share of an image's pixels at which recurring patches begin. Measured: 0 in all 2,506 images of a rover, 0 in generated
terrain, at least 0.035 in images with a pasted object."""
_PASTED_GROUPS = 3
"""Content in fewer different images needs further evidence: two images of a set may overlap."""
_MASK_GROUPS = 3
"""Different images with the same mask, of which at most one can be right. Of two, nothing says which."""
_HABITUAL_MASKS = 3
"""If more masks recur, the set was labelled that way (a fixed camera), and a recurring mask is no evidence."""

_Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Outlier:
    """An image that should be removed, and the reasons in words."""

    index: int
    reasons: tuple[str, ...]


def find_outliers(images: NDArray[np.uint8], masks: NDArray[np.uint8], groups: NDArray[np.int64]) -> tuple[Outlier, ...]:
    """Return the tampered images, in order; deterministic.

    images: (N, H, W, C) uint8; masks: (N, H, W) uint8; groups: (N,) of nearly identical images, from ``group_images``.

    Evidence against more than half of the set is dropped. The image that a mask was copied from, and the original of a
    copied image, are kept if the evidence distinguishes them.
    """
    patches = collect_patches(images, groups)
    pasted = _drop_if_common(patches.share(min_groups=_PASTED_GROUPS) >= _PASTED_SHARE)
    twins = _list_twins(find_copies(images))
    repeated = find_repeated_masks(masks, groups)
    suspicious = patches.share(min_groups=2) >= _PASTED_SHARE
    for mask in repeated:
        for index in mask.members[~suspicious[mask.members]].tolist():
            has_other_mask = not set(twins.get(index, ())) <= set(mask.members.tolist())
            suspicious[index] = has_other_mask or measure_drawn(images[index]) >= _PASTED_SHARE
    is_outlier = _drop_if_common(pasted | _drop_if_common(_judge_masks(repeated, suspicious, groups)))
    return tuple(
        Outlier(index, tuple(_give_reasons(index, pasted=pasted, repeated=repeated, twins=twins, is_outlier=is_outlier)))
        for index in np.flatnonzero(is_outlier).tolist()
    )


def _list_twins(pairs: NDArray[np.int64]) -> dict[int, list[int]]:
    """Image -> its copies and originals."""
    twins: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        twins.setdefault(one, []).append(other)
        twins.setdefault(other, []).append(one)
    return twins


def _judge_masks(repeated: Sequence[RepeatedMask], suspicious: _Flags, groups: NDArray[np.int64]) -> _Flags:
    """Flag images that share a mask: the suspicious ones, and the others if too many share it for it to be right."""
    wrong = np.zeros(len(groups), bool)
    alone = []
    for mask in repeated:
        wrong[mask.members] |= suspicious[mask.members]
        for first in np.unique(mask.identical):
            rest = mask.members[(mask.identical == first) & ~suspicious[mask.members]]
            if len(np.unique(groups[rest])) >= _MASK_GROUPS:
                alone.append(rest)
    if len(alone) <= _HABITUAL_MASKS:
        for rest in alone:
            wrong[rest] = True
    return wrong


def _drop_if_common(flags: _Flags) -> _Flags:
    return flags if 2 * flags.sum() <= len(flags) else np.zeros_like(flags)


def _give_reasons(
    index: int, *, pasted: _Flags, repeated: Sequence[RepeatedMask], twins: dict[int, list[int]], is_outlier: _Flags
) -> Iterator[str]:
    if pasted[index]:
        yield "pasted content that recurs pixel by pixel in other images"
    for mask in repeated:
        if index in mask.members:
            yield f"the mask of {len(mask.members) - 1} other images"
    originals = [twin for twin in twins.get(index, ()) if not is_outlier[twin]]
    if originals:
        yield f"a copy of image {originals[0]} with another mask"
