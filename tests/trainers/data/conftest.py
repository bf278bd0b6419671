"""Small data sets of every source, made of one set of generated tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainers.config import DataConfig, SyntheticConfig
from trainers.data.sources.synthetic import SyntheticSet, make_synthetic

TILES = SyntheticConfig(num_images=20, height=16, width=32)


@dataclass(frozen=True)
class Made:
    """A data set of one source, and how to make it again at another place."""

    config: DataConfig
    copy_to: Callable[[Path], DataConfig]


@pytest.fixture(scope="session")
def tiles() -> SyntheticSet:
    """Twenty generated tiles of 16x32."""
    return make_synthetic(TILES)


@pytest.fixture
def write_folder(tiles: SyntheticSet) -> Callable[[Path], Path]:
    """Write the tiles as a folder of PNG pairs and return it."""

    def write(folder: Path) -> Path:
        for name, arrays in (("images", tiles.images), ("masks", tiles.masks)):
            (folder / name).mkdir(parents=True)
            for index, array in enumerate(arrays):
                Image.fromarray(array).save(folder / name / f"tile{index:02d}.png")
        return folder

    return write


@pytest.fixture
def folder(tmp_path: Path, write_folder: Callable[[Path], Path]) -> Path:
    """The tiles as a folder of PNG pairs, to be broken."""
    return write_folder(tmp_path / "set")


@pytest.fixture
def write_npz(tiles: SyntheticSet) -> Callable[[Path], Path]:
    """Write the tiles as .npz and return its path."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, training_set=np.stack([tiles.images, tiles.masks], axis=1))
        return path

    return write


@pytest.fixture(params=["synthetic", "npz", "folder"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Each source in turn, with the same tiles."""
    if request.param == "synthetic":
        config = DataConfig(synthetic=TILES)
        return Made(config, lambda _: DataConfig(synthetic=TILES))
    write: Callable[[Path], Path] = request.getfixturevalue(f"write_{request.param}")
    name = "tiles.npz" if request.param == "npz" else "tiles"

    def copy_to(place: Path) -> DataConfig:
        return DataConfig(source=str(write(place / name)))

    return Made(copy_to(tmp_path / "original"), copy_to)
