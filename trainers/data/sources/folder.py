"""Source: a folder with images/ and masks/, paired by stem."""

import hashlib
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.config import SplitLists
from trainers.data.sources.base import LabelledImage, NamedSplit
from trainers.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_LOSSY_SUFFIXES = (".jpg", ".jpeg")
_IMAGE_MODES = ("L", "RGB", "RGBA", "P")
_MASK_MODES = ("1", "L", "P", "I", "I;16")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""Exceptions that Pillow raises for damaged files, by format."""


class FolderSource:
    """Pairs of files with equal stems, sorted by stem. The constructor lists the files; they are read when needed."""

    class_names: tuple[str, ...] = ()

    def __init__(self, path: Path, split_lists: SplitLists | None) -> None:
        self.place, self._path = str(path), path
        self._lists = (path / split_lists.train, path / split_lists.val) if split_lists else ()
        images = find_files(path / "images", IMAGE_SUFFIXES)
        masks = find_files(path / "masks", _MASK_SUFFIXES)
        _check_pairs(path, images, masks)
        self._pairs = {stem: (images[stem], masks[stem]) for stem in sorted(images)}
        for file in self._lists:
            if not file.is_file():
                raise DataError(f"{file}: not found; data.split_lists names it, relative to {path}.")

    def signature(self) -> str:
        """Path, size and modification time of every file."""
        lines = [str(self._path.resolve())]
        for file in self._files():
            status = file.stat()
            lines.append(f"{file.relative_to(self._path)} {status.st_size} {status.st_mtime_ns}")
        return "\n".join(lines)

    def fingerprint(self) -> str:
        """Hash of the files' stems and contents, in order, and of the split lists."""
        digest = hashlib.sha256(b"folder")
        for file in self._files():
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{'' if file in self._lists else file.stem} {content}\n".encode())
        return digest.hexdigest()[:16]

    def names(self) -> tuple[str, ...]:
        return tuple(self._pairs)

    def num_channels(self) -> int:
        for file, _ in self._pairs.values():
            with open_image(file) as image:
                if image.mode != "L":
                    return 3
        return 1

    def read(self) -> Iterator[LabelledImage]:
        for image_file, mask_file in self._pairs.values():
            image, mask = read_image(image_file), _read_mask(mask_file)
            if image.shape[:2] != mask.shape:
                raise DataError(
                    f"{mask_file}: {_size(mask)} (height x width), but {image_file} is {_size(image)}. "
                    "An image and its mask must have the same size."
                )
            yield LabelledImage(str(mask_file), image, mask)

    def _files(self) -> list[Path]:
        return [file for pair in self._pairs.values() for file in pair] + list(self._lists)


def find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the image files of a folder by stem. Hidden files and files of other types are skipped.

    Raises:
        DataError: there is no folder, no image, a stem occurs twice, or a mask would be a JPEG.
    """
    if not folder.is_dir():
        beside = ", ".join(sorted(entry.name for entry in folder.parent.iterdir())[:8]) or "nothing"
        raise DataError(f"{folder}: not found; {folder.parent} holds {beside}. A data folder holds images/ and masks/.")
    found: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for file in sorted(folder.iterdir()):
        suffix = file.suffix.lower()
        if file.name.startswith(".") or suffix not in suffixes:
            others[suffix or "no suffix"] += not file.name.startswith(".")
            if suffix in _LOSSY_SUFFIXES:
                raise DataError(_say_lossy(file))
        elif file.stem in found:
            raise DataError(
                f"{file}: has the same stem as {found[file.stem].name}. Stems pair images with masks: each only once."
            )
        else:
            found[file.stem] = file
    if not found:
        what = ", ".join(f"{number} of {suffix}" for suffix, number in others.items()) or "no files"
        raise DataError(f"{folder}: no images; found {what}. Allowed: {', '.join(suffixes)}.")
    return found


def _check_pairs(path: Path, images: dict[str, Path], masks: dict[str, Path]) -> None:
    """Check that every image has a mask and every mask an image."""
    problems = []
    for have, lack, what in ((images, masks, "masks/"), (masks, images, "images/")):
        alone = [have[stem].name for stem in have if stem not in lack]
        if alone:
            listed = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            kind = "image" if have is images else "mask"
            problems.append(f"{len(alone)} of {len(have)} {kind}s lack a file of the same stem in {what}: {listed}")
    if problems:
        raise DataError(f"{path}: {'; '.join(problems)}. Every image needs one mask, paired by stem.")


@contextmanager
def open_image(file: Path) -> Iterator[Image.Image]:
    """Open an image with Pillow.

    Raises:
        DataError: it cannot be decoded, here or inside the block.
    """
    try:
        with Image.open(file) as image:
            yield image
    except _BROKEN as error:
        size = file.stat().st_size
        raise DataError(
            f"{file}: cannot be read as an image, {size} bytes: {error}. Repair it, or remove image and mask."
        ) from error


def read_image(file: Path) -> NDArray[np.uint8]:
    """Return (H, W) or (H, W, 3) uint8, without an alpha channel.

    Raises:
        DataError: the file cannot be decoded or does not have 8 bits per channel.
    """
    with open_image(file) as image:
        image.load()
        if image.mode not in _IMAGE_MODES:
            raise DataError(
                f"{file}: image of mode {image.mode!r}. Allowed: 8 bits per channel, gray or RGB ({', '.join(_IMAGE_MODES)})."
            )
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"), np.uint8)


def _read_mask(file: Path) -> NDArray[np.integer[Any]]:
    """Return (H, W) of an integer type: the ids as stored; of a palette its indices."""
    with open_image(file) as image:
        mode, mask = image.mode, np.array(image)
    if image.format == "JPEG":
        raise DataError(_say_lossy(file))
    if mode not in _MASK_MODES:
        raise DataError(
            f"{file}: mask of mode {mode!r} with {len(image.getbands())} channel(s). Allowed: one channel of whole numbers "
            f"({', '.join(_MASK_MODES)}), each pixel the id of its class."
        )
    return mask.astype(np.uint8) if mask.dtype == np.bool_ else mask


def read_split(path: Path, lists: SplitLists) -> NamedSplit:
    """Read the lists that fix the split of the folder ``path``.

    Raises:
        DataError: a list is empty or not text.
    """
    files = (path / lists.train, path / lists.val)
    train, val = map(_read_list, files)
    return NamedSplit(train, val, " and ".join(map(str, files)))


def _read_list(file: Path) -> tuple[str, ...]:
    """Return the stems of a split list; empty lines are skipped."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not a text file in UTF-8: {error}. Allowed: one stem per line.") from error
    stems = tuple(line.strip() for line in lines if line.strip())
    if not stems:
        raise DataError(f"{file}: lists no image. Allowed: one stem per line.")
    return stems


def _say_lossy(file: Path) -> str:
    return f"{file}: mask is a JPEG, and JPEG compression changes labels. Allowed: {', '.join(_MASK_SUFFIXES)}."


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
