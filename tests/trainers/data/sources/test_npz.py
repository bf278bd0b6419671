"""Broken and unusual .npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainers.config import DataConfig
from trainers.data import load_dataset, open_dataset, prepare_dataset
from trainers.errors import DataError


def get_message(path: Path) -> str:
    """Return the message for a .npz that cannot be used; it always names the file."""
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(source=str(path)))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_truncated_file(tmp_path: Path, write_npz) -> None:
    """A file that was cut off is said to be so."""
    path = write_npz(tmp_path / "set.npz")
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot be read as .npz, 1000 bytes" in get_message(path)
    assert "cut off" in get_message(path)


def test_flipped_bytes(tmp_path: Path, write_npz) -> None:
    """Damage inside the archive is noticed by its checksum."""
    path = write_npz(tmp_path / "set.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert "cannot be read as .npz" in get_message(path)


def test_empty_file(tmp_path: Path) -> None:
    """A file of no bytes is unreadable, not a crash."""
    (tmp_path / "set.npz").touch()
    assert "0 bytes" in get_message(tmp_path / "set.npz")


def test_missing_key(tmp_path: Path) -> None:
    """The keys found and the key wanted are named."""
    np.savez(tmp_path / "set.npz", images=np.zeros(3))
    assert "holds 'images', no 'training_set'" in get_message(tmp_path / "set.npz")


def test_test_set_alone(tmp_path: Path) -> None:
    """The competition's test file is recognised as having no masks."""
    np.savez(tmp_path / "set.npz", test_set=np.zeros((3, 16, 32), np.uint8))
    assert "'test_set' holds images without masks" in get_message(tmp_path / "set.npz")


def test_pickled_objects(tmp_path: Path) -> None:
    """Pickled arrays are never loaded."""
    np.savez(tmp_path / "set.npz", training_set=np.array([{"a": 1}], dtype=object))
    assert "pickled" in get_message(tmp_path / "set.npz")


@pytest.mark.parametrize("shape", [(5, 16, 32), (5, 3, 16, 32), (5, 2, 16, 32, 3)])
def test_wrong_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """The shape found and the shape allowed are named."""
    np.savez(tmp_path / "set.npz", training_set=np.zeros(shape, np.uint8))
    message = get_message(tmp_path / "set.npz")
    assert f"shape {shape}" in message
    assert "shape (N, 2, H, W)" in message


def test_no_images(tmp_path: Path) -> None:
    """An array without images is said to be empty."""
    np.savez(tmp_path / "set.npz", training_set=np.zeros((0, 2, 16, 32), np.uint8))
    assert "holds no images" in get_message(tmp_path / "set.npz")


def test_fractions(tmp_path: Path) -> None:
    """Images scaled to 0..1 would lose everything as uint8: rejected."""
    np.savez(tmp_path / "set.npz", training_set=np.full((5, 2, 16, 32), 0.5))
    assert "type float64, values from 0.5 to 0.5: fractions" in get_message(tmp_path / "set.npz")


@pytest.mark.parametrize("value", [-1, 256, np.nan, np.inf])
def test_values_outside(tmp_path: Path, value: float) -> None:
    """What is no byte is rejected."""
    np.savez(tmp_path / "set.npz", training_set=np.full((5, 2, 16, 32), value, np.float32))
    assert "values outside 0 to 255" in get_message(tmp_path / "set.npz")


@pytest.mark.parametrize("dtype", [np.complex64, np.str_, np.bool_])
def test_types_that_are_no_numbers(tmp_path: Path, dtype: type) -> None:
    """Types without a clear reading are rejected by name."""
    np.savez(tmp_path / "set.npz", training_set=np.zeros((5, 2, 16, 32), dtype))
    assert "whole numbers from 0 to 255" in get_message(tmp_path / "set.npz")


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32])
def test_lossless_types_are_the_same_data(tmp_path: Path, tiles, dtype: type) -> None:
    """Whole numbers of another type are read, with the fingerprint of their uint8 form."""
    array = np.stack([tiles.images, tiles.masks], axis=1)
    np.savez(tmp_path / "plain.npz", training_set=array)
    np.savez(tmp_path / "other.npz", training_set=array.astype(dtype))
    plain, other = (load_dataset(DataConfig(source=str(tmp_path / f"{name}.npz"))) for name in ("plain", "other"))
    assert plain.fingerprint == other.fingerprint
    np.testing.assert_array_equal(plain.images, other.images)


def test_masks_of_one_label(tmp_path: Path) -> None:
    """Masks of 0 and 255 hold a single class unless a map says more; the message shows the map."""
    array = np.zeros((5, 2, 16, 32), np.uint8)
    array[:, 1, :8] = 255
    np.savez(tmp_path / "set.npz", training_set=array)
    assert "data.id_map if the ids mean something else, such as {0: 0, 255: 1}" in get_message(tmp_path / "set.npz")
    mapped = load_dataset(DataConfig(source=str(tmp_path / "set.npz"), id_map={0: 0, 255: 1}))
    assert mapped.num_classes == 2


def test_changed_file_is_read_again(tmp_path: Path, tiles) -> None:
    """The cache's index notices another content under the same name."""
    path, cache = tmp_path / "set.npz", tmp_path / "cache"
    array = np.stack([tiles.images, tiles.masks], axis=1)
    np.savez(path, training_set=array)
    first = prepare_dataset(DataConfig(source=str(path)), cache)
    np.savez(path, training_set=array[:10])
    second = prepare_dataset(DataConfig(source=str(path)), cache)
    assert len(open_dataset(first).images) == 20
    assert len(open_dataset(second).images) == 10
