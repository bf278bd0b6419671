"""Masks, part by part -> .npz, the competition's .csv, or a folder of PNG files; the output appears at once or not at all."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import PredictError
from orchestrator.state.files import replacing

if TYPE_CHECKING:
    from trainers.data.sources.unlabelled import UnlabelledImages

NPZ_KEY = "masks"
_FILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".zip", ".json", ".parquet", ".gz")
"""Suffixes of single files: nobody means a folder by such a name."""


Write = Callable[[Sequence[int], NDArray[np.uint8]], None]
"""Takes positions of images and their masks (B, H, W) uint8; in the order of the images if all have one size."""


def check_free(out: Path) -> None:
    """Check that nothing would be overwritten, and that the suffix is one that can be written.

    Raises:
        PredictError: it would be, or it is not.
    """
    if out.suffix.lower() in _FILE_SUFFIXES:
        raise PredictError(f"{out}: masks are not written as {out.suffix}. Allowed: .npz, .csv, or a folder for PNG masks.")
    if out.is_dir() and any(out.iterdir()):
        raise PredictError(f"{out}: the folder is not empty. Name another, or remove it first.")
    if out.is_dir() and out.suffix.lower() in _WRITERS:
        raise PredictError(f"{out}: is a folder, where a {out.suffix} file is to be written. Name another, or remove it first.")
    if out.exists() and not out.is_dir():
        raise PredictError(f"{out}: exists already. Name another file, or remove it first.")


@contextmanager
def open_masks(out: Path, images: UnlabelledImages, num_classes: int) -> Iterator[Write]:
    """Write masks beside ``out`` and, at the end, move them there.

    .npz: ``masks``, (N, H, W) uint8. .csv: as in the competition, a header ``id,0,1,...`` and one row per image with its id and
    its labels, row by row. Otherwise a folder with one PNG per image, with its name and size; pixel values are classes, the
    palette is only for viewing.

    Raises:
        PredictError: ``out`` exists, or cannot hold images of several sizes.
    """
    check_free(out)
    writer = _WRITERS.get(out.suffix.lower(), _write_folder)
    if writer is not _write_folder and len(set(images.sizes)) > 1:
        some = ", ".join(f"{height}x{width}" for height, width in sorted(set(images.sizes))[:4])
        raise PredictError(f"{out}: holds masks of one size, but the images have {some}, ... Name a folder instead.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as scratch, writer(scratch, images, num_classes) as write:
        yield write


@contextmanager
def _write_npz(path: Path, images: UnlabelledImages, _num_classes: int) -> Iterator[Write]:
    """Write the array's header, then its bytes part by part: memory holds one part."""
    shape = (len(images.sizes), *images.sizes[0])
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{NPZ_KEY}.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

        def write(positions: Sequence[int], masks: NDArray[np.uint8]) -> None:
            file.write(np.ascontiguousarray(masks).data)

        yield write


@contextmanager
def _write_csv(path: Path, images: UnlabelledImages, _num_classes: int) -> Iterator[Write]:
    height, width = images.sizes[0]
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", *range(height * width)])

        def write(positions: Sequence[int], masks: NDArray[np.uint8]) -> None:
            table.writerows([images.ids[i], *mask.ravel().tolist()] for i, mask in zip(positions, masks, strict=True))

        yield write


@contextmanager
def _write_folder(path: Path, images: UnlabelledImages, num_classes: int) -> Iterator[Write]:
    from PIL import Image

    from trainers.pictures import make_palette

    palette = make_palette(num_classes).tobytes()
    path.mkdir()

    def write(positions: Sequence[int], masks: NDArray[np.uint8]) -> None:
        for i, mask in zip(positions, masks, strict=True):
            picture = Image.fromarray(mask)
            picture.putpalette(palette)
            picture.save(path / f"{images.names[i]}.png")

    yield write


_WRITERS = {".npz": _write_npz, ".csv": _write_csv}
