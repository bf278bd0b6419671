"""Images without masks: what is taken for them, how they are brought to a model's channels, in which parts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainers.data.sources.unlabelled import open_unlabelled, split_by_size
from trainers.errors import DataError

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (5, 8, 6), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "arrays",
    [
        {"test_set": GRAY, "training_set": np.zeros((3, 2, 8, 6), np.uint8)},
        {"test_set": GRAY[..., np.newaxis]},
        {"training_set": np.stack([GRAY, GRAY // 100], axis=1)},
        {"whatever": GRAY.astype(np.int64)},
        {"whatever": GRAY.astype(np.float32)},
    ],
)
def test_the_images_of_an_archive_are_found(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """The test set before the training set, whose images are the first of two; else the only array."""
    np.savez(tmp_path / "a.npz", **arrays)
    images = open_unlabelled(tmp_path / "a.npz")
    assert images.sizes == ((8, 6),) * 5
    assert images.ids == ("0", "1", "2", "3", "4")
    assert np.array_equal(images.read([3, 1], 1), GRAY[[3, 1]][..., np.newaxis])


def test_colours_become_what_the_model_takes(tmp_path: Path) -> None:
    """Gray three times, or colour as gray, as in training; alike from an archive and from a folder."""
    np.savez(tmp_path / "gray.npz", test_set=GRAY)
    np.savez(tmp_path / "colour.npz", test_set=COLOUR)
    assert np.array_equal(open_unlabelled(tmp_path / "gray.npz").read([0, 2], 3), np.stack([GRAY[[0, 2]]] * 3, axis=3))
    as_gray = open_unlabelled(tmp_path / "colour.npz").read([4], 1)
    assert np.array_equal(as_gray[0, ..., 0], cv2.cvtColor(COLOUR[4], cv2.COLOR_RGB2GRAY))
    (tmp_path / "folder").mkdir()
    Image.fromarray(COLOUR[4]).save(tmp_path / "folder" / "x.png")
    assert np.array_equal(open_unlabelled(tmp_path / "folder").read([0], 1), as_gray)


def test_a_folder_keeps_names_and_sizes(tmp_path: Path) -> None:
    """Sorted by stem; other files are skipped; an ``images/`` inside is taken instead."""
    images = tmp_path / "images"
    images.mkdir()
    for name, size in {"b.png": (4, 3), "a.JPG": (9, 7), "c.bmp": (4, 3)}.items():
        Image.fromarray(np.zeros(size, np.uint8)).save(images / name)
    (images / "notes.txt").write_text("no image")
    for folder in (tmp_path, images):
        opened = open_unlabelled(folder)
        assert opened.names == ("a", "b", "c")
        assert opened.sizes == ((9, 7), (4, 3), (4, 3))
    assert opened.read([1, 2], 1).shape == (2, 4, 3, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": GRAY, "b": GRAY}, "holds 'a', 'b'. Allowed: 'test_set' or the only array"),
        ({}, "holds nothing"),
        ({"test_set": GRAY[0]}, r"'test_set' has shape \(8, 6\)"),
        ({"test_set": np.zeros((2, 3, 8, 6), np.uint8)}, r"shape \(2, 3, 8, 6\)"),
        ({"test_set": GRAY[:0]}, r"shape \(0, 8, 6\)"),
        ({"test_set": GRAY / 255}, "fractions"),
        ({"test_set": np.array([{}])}, r"holds Python objects \(pickled\), which are never loaded"),
    ],
)
def test_an_archive_without_images_is_rejected(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    """With what was found and what is allowed."""
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_unlabelled(tmp_path / "a.npz")


def test_other_files_are_rejected(tmp_path: Path) -> None:
    """A missing one, another kind, a single array, half an archive, an empty folder."""
    np.save(tmp_path / "single.npy", GRAY)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    np.savez(tmp_path / "whole.npz", test_set=GRAY)
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    for name, message in {
        "missing.npz": "not found; .* holds a.txt, empty, half.npz",
        "a.txt": "type '.txt'",
        "single.npz": "is a single array",
        "half.npz": "cannot be read as .npz, 200 bytes",
        "empty": "no images; found no files",
    }.items():
        with pytest.raises(DataError, match=message):
            open_unlabelled(tmp_path / name)


SIZES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=40)


@given(SIZES, st.integers(1, 6))
def test_parts_hold_each_image_once_and_one_size_each(sizes: list[tuple[int, int]], largest: int) -> None:
    """None larger than what its size allows; images of one size keep their order."""
    parts = list(split_by_size(sizes, lambda size: max(1, largest - size[0])))
    assert sorted(i for part in parts for i in part) == list(range(len(sizes)))
    assert all(len({sizes[i] for i in part}) == 1 for part in parts)
    assert all(len(part) <= max(1, largest - sizes[part[0]][0]) for part in parts)
    if len(set(sizes)) == 1:
        assert [i for part in parts for i in part] == list(range(len(sizes)))
