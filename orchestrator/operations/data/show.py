"""`orchestrate data show`: image, mask and overlay of some positions as PNG, one position per row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from orchestrator.errors import SpecError
from orchestrator.operations.data.sheet import draw_image, draw_legend, write_file, write_text
from orchestrator.operations.data.source import read_source
from trainers.data import DataSet
from trainers.pictures import encode_png

PARTS = ("image", "mask", "overlay")


def show_data(source: str, positions: Sequence[int], overrides: Sequence[str], *, out: Path) -> None:
    """Draw the images at ``positions`` of the source into ``out``, a .png.

    Raises:
        SpecError: a position, an override or the suffix of ``out`` is wrong.
        DataError: the source cannot be read, or ``out`` cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise SpecError(f"--out {out}: is of type {out.suffix or 'none'!r}. Allowed: .png.")
    _, data = read_source(source, overrides)
    indices = [_find(data, position) for position in positions]
    width = draw_image(data, 0, parts=PARTS).shape[1]
    parts = [draw_legend(data, width)]
    for index, position in zip(indices, positions, strict=True):
        parts.append(write_text([f"{position} {data.names[index]}: {_describe(data, index)}"], width))
        parts.append(draw_image(data, index, parts=PARTS))
    write_file(out, encode_png(np.concatenate(parts)))


def _find(data: DataSet, position: int) -> int:
    """Index of a position in the source."""
    if position in data.removed:
        raise SpecError(f"{position}: data.clean removes this image of {data.source}. Omit data.clean to see it.")
    total = len(data.names) + len(data.removed)
    if not 0 <= position < total:
        raise SpecError(f"{position}: no such image in {data.source}. Allowed: 0 to {total - 1}.")
    return int(np.searchsorted(data.positions, position))


def _describe(data: DataSet, index: int) -> str:
    """Gray levels and class shares."""
    image, mask = data.images[index], data.masks[index]
    shares = np.bincount(mask.ravel(), minlength=256) / mask.size
    held = ", ".join(f"{name}: {shares[number]:.1%}" for number, name in enumerate(data.class_names) if shares[number])
    return f"gray levels {image.min()} to {image.max()}, mean {image.mean():.0f}; {held or 'all void'}"
