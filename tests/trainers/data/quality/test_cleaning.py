"""`data.clean`: what is removed, and what is rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainers.config import DataConfig, SplitLists, SyntheticConfig
from trainers.data import DataSet, load_dataset, make_split, open_dataset, prepare_dataset
from trainers.data.sources.synthetic import SyntheticSet, make_synthetic
from trainers.errors import DataError

TAMPERED = SyntheticConfig(num_images=64, height=48, width=64, outlier_fraction=0.1)


def write_check(path: Path, fingerprint: str, positions: list[int], **fields: Any) -> str:
    """Write what `data check --json` would, as far as it is read, and return its path."""
    outliers = [{"index": position, "name": "x", "reasons": ["by hand"]} for position in positions]
    document = {"schema_version": 1, "fingerprint": fingerprint, "source": "elsewhere", "outliers": outliers, **fields}
    path.write_text(json.dumps(document))
    return str(path)


def assert_without(data: DataSet, tiles: SyntheticSet, removed: list[int]) -> None:
    """Check that exactly the images at ``removed`` are gone and that the others kept names and positions."""
    kept = np.setdiff1d(np.arange(len(tiles.images)), removed)
    np.testing.assert_array_equal(data.images[..., 0], tiles.images[kept])
    np.testing.assert_array_equal(data.masks, tiles.masks[kept])
    np.testing.assert_array_equal(data.positions, kept)
    assert data.removed == tuple(removed)
    assert len(data.names) == len(data.groups) == len(kept)


def test_listed_positions_are_removed(made, tiles: SyntheticSet, tmp_path: Path) -> None:
    """Loaded or prepared, from any source; what is left keeps its name."""
    config = made.config.model_copy(update={"clean": (3, 7)})
    whole = load_dataset(made.config)
    for data in (load_dataset(config), open_dataset(prepare_dataset(config, tmp_path / "cache"))):
        assert_without(data, tiles, [3, 7])
        assert data.names == tuple(name for index, name in enumerate(whole.names) if index not in (3, 7))
        assert data.fingerprint == whole.fingerprint


def test_auto_removes_the_outliers(tmp_path: Path) -> None:
    """Loaded or prepared, the planted ones are gone."""
    config = DataConfig(synthetic=TAMPERED, clean="auto")
    tiles = make_synthetic(TAMPERED)
    for data in (load_dataset(config), open_dataset(prepare_dataset(config, tmp_path / "cache"))):
        assert_without(data, tiles, tiles.outliers.tolist())


def test_a_written_check_removes_its_outliers(made, tiles: SyntheticSet, tmp_path: Path) -> None:
    """The indices of its outliers count, perhaps edited since."""
    path = write_check(tmp_path / "check.json", load_dataset(made.config).fingerprint, [5, 2])
    assert_without(load_dataset(made.config.model_copy(update={"clean": path})), tiles, [2, 5])


def test_the_same_positions_share_a_folder(made, tmp_path: Path) -> None:
    """A check and a list of its positions are prepared once; other positions, auto and none apart."""
    check = write_check(tmp_path / "check.json", load_dataset(made.config).fingerprint, [2, 5])
    ways = [(2, 5), check, (2, 6), "auto", None]
    folders = [prepare_dataset(made.config.model_copy(update={"clean": way}), tmp_path / "cache") for way in ways]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_split_lists_lose_what_is_removed(folder: Path) -> None:
    """Removed images drop out of the lists; the others stay on their side."""
    (folder / "train.txt").write_text("\n".join(f"tile{index:02d}" for index in range(5, 20)))
    (folder / "val.txt").write_text("tile01\ntile03\ntile04")
    lists = SplitLists(train="train.txt", val="val.txt")
    config = DataConfig(source=str(folder), split_lists=lists, clean=(0, 3, 6))
    data = load_dataset(config)
    split = make_split(data, config, None)
    assert [data.names[index] for index in split.val] == ["tile01", "tile04"]
    assert [data.names[index] for index in split.train] == [f"tile{index:02d}" for index in (5, *range(7, 20))]


def test_a_removed_image_may_be_unusable(folder: Path) -> None:
    """What is removed is not held against the options."""
    config = DataConfig(source=str(folder), num_classes=5)
    mask = np.full((16, 32), 77, np.uint8)
    Image.fromarray(mask).save(folder / "masks" / "tile05.png")
    with pytest.raises(DataError, match="unknown label ids 77"):
        load_dataset(config)
    assert len(load_dataset(config.model_copy(update={"clean": (5,)})).names) == 19


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        ((3, 20, 21), r"data\.clean: 20, 21: no such position in .*, which has 20 images\. Allowed: 0 to 19"),
        (tuple(range(19)), r"data\.clean: removes 19 of the 20 images"),
        (tuple(range(20)), r"data\.clean: removes 20 of the 20 images"),
        ("gone.json", r"data\.clean: gone\.json: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_removed_is_rejected(made, tmp_path: Path, clean: Any, message: str) -> None:
    """Positions that do not exist, hardly an image left, a missing file: loaded or prepared, and nothing is left behind."""
    config = made.config.model_copy(update={"clean": clean})
    with pytest.raises(DataError, match=message):
        load_dataset(config)
    with pytest.raises(DataError, match=message):
        prepare_dataset(config, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("[!.]*-*"))


def test_a_check_of_another_source_is_rejected(made, tmp_path: Path) -> None:
    """Its positions would be those of other images; the message names both fingerprints."""
    path = write_check(tmp_path / "check.json", "f" * 16, [2])
    with pytest.raises(DataError, match=r"check\.json: was written for a source with fingerprint f{16}, but this one has \w{16}"):
        load_dataset(made.config.model_copy(update={"clean": path}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], "the file: Invalid JSON"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema_version: Input should be 1"),
        (lambda text: text.replace('"index": 2', '"index": "2"'), r"outliers\.0\.index: Input should be a valid integer"),
        (lambda text: text.replace("outliers", "others"), "outliers: Field required"),
    ],
)
def test_a_damaged_check_is_rejected(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    """Half a file, another version, a field of another kind: the message names file and place."""
    path = tmp_path / "check.json"
    write_check(path, "f" * 16, [2])
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=rf"data\.clean: .*check\.json: {message}"):
        load_dataset(DataConfig(synthetic=TAMPERED, clean=str(path)))
