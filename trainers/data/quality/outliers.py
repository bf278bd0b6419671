"""Finds pictures that were tampered with, without being told what that looks like; for cleaning.py and inspection.py.

Three kinds of evidence: content that returns pixel by pixel in other pictures (pasted.py), an intricate mask that stands on
differing pictures too (repeated_masks.py), and a picture that is another one's copy (duplicates.py) under another mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.data.quality.duplicates import find_copies
from trainers.data.quality.pasted import collect_patches, measure_drawn
from trainers.data.quality.repeated_masks import RepeatedMask, find_repeated_masks

DETECTOR_VERSION = 1
"""Part of the names of prepared folders; raised by hand whenever other pictures are found."""

_PASTED_SHARE = 0.003
"""Of a picture's places, at which returning patches begin. Measured: 0 in all 2,506 pictures of a rover, 0 in generated terrain,
0.035 and more where a figure was pasted."""
_PASTED_GROUPS = 3
"""Content in fewer pictures that differ needs other evidence beside it; two pictures of a set may overlap."""
_MASK_GROUPS = 3
"""Differing pictures under one and the same mask, of which at most one can be right; of two, nothing says which."""
_HABITUAL_MASKS = 3
"""Where more masks repeat, repeating is how the set was labelled (a fixed camera), and says nothing of a single picture."""

_Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Outlier:
    """A picture that should be removed, and why, for people."""

    index: int
    reasons: tuple[str, ...]


def find_outliers(images: NDArray[np.uint8], masks: NDArray[np.uint8], groups: NDArray[np.int64]) -> tuple[Outlier, ...]:
    """Return the tampered pictures, in order; the same set gives the same answer.

    images: (N, H, W, C) uint8; masks: (N, H, W) uint8; groups: (N,) of nearly identical pictures, as group_images returns them.

    What most pictures have in common makes no outliers of them: at most half of the set is ever returned. A picture whose mask
    was given to others, and the original of a copied picture, stay where the evidence tells them apart.
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
    """Picture -> those that it was copied from or to."""
    twins: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        twins.setdefault(one, []).append(other)
        twins.setdefault(other, []).append(one)
    return twins


def _judge_masks(repeated: Sequence[RepeatedMask], suspicious: _Flags, groups: NDArray[np.int64]) -> _Flags:
    """Who of those that share a mask should go: the suspicious ones, and the others where they are too many to be right."""
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
        yield "pasted content, which returns pixel by pixel in other pictures"
    for mask in repeated:
        if index in mask.members:
            yield f"the mask of {len(mask.members) - 1} other pictures"
    originals = [twin for twin in twins.get(index, ()) if not is_outlier[twin]]
    if originals:
        yield f"a copy of picture {originals[0]} under another mask"
