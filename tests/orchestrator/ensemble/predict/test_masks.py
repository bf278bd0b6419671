"""What predictions are written as: .npz, .csv, a folder of PNG; whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orchestrator.ensemble.predict.masks import open_masks
from orchestrator.errors import PredictError

MASKS = np.random.default_rng(0).integers(0, 5, (7, 6, 9), dtype=np.uint8)


@dataclass(frozen=True)
class Images:
    """Images as far as a writer looks at them."""

    names: Sequence[str]
    ids: Sequence[str]
    sizes: Sequence[tuple[int, int]]


SAME = Images([f"{i:05d}" for i in range(7)], [str(i) for i in range(7)], [(6, 9)] * 7)


def write(out: Path, pictures: Images = SAME) -> Path:
    """All masks, in parts of three."""
    with open_masks(out, pictures, 5) as add:
        for start in range(0, 7, 3):
            add(range(start, min(start + 3, 7)), MASKS[start : start + 3])
    return out


def write_half(out: Path) -> None:
    """Three masks, and then something happens."""
    with open_masks(out, SAME, 5) as add:
        add([0, 1, 2], MASKS[:3])
        raise ValueError("the fourth picture is broken")


def test_npz_holds_one_array(tmp_path: Path) -> None:
    """Under ``masks``, readable without pickle, compressed."""
    with np.load(write(tmp_path / "a.npz"), allow_pickle=False) as stored:
        assert stored.files == ["masks"]
        assert stored["masks"].dtype == np.uint8
        assert np.array_equal(stored["masks"], MASKS)


def test_csv_is_what_the_competitions_code_writes(tmp_path: Path) -> None:
    """A column ``id`` and one a pixel, in rows: the frame that its notebook makes of an array of masks."""
    frame = pd.DataFrame(MASKS.reshape(7, -1))
    frame["id"] = np.arange(7)
    expected = frame[["id", *(column for column in frame.columns if column != "id")]].to_csv(index=False)
    assert write(tmp_path / "a.csv").read_text() == expected


def test_csv_takes_names_of_any_kind_for_ids(tmp_path: Path) -> None:
    """Commas and quotes too."""
    names = ['a,b"c', *"bcdefg"]
    write(tmp_path / "a.csv", Images(names, names, SAME.sizes))
    assert list(pd.read_csv(tmp_path / "a.csv", index_col="id").index) == names


def test_png_values_are_classes_and_show_colours(tmp_path: Path) -> None:
    """A palette for people, ids for programs."""
    write(tmp_path / "new" / "masks")
    with Image.open(tmp_path / "new" / "masks" / "00003.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture), MASKS[3])
        colours = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}
        assert len(colours) == len(np.unique(MASKS[3]))
    assert len(list((tmp_path / "new" / "masks").iterdir())) == 7


@pytest.mark.parametrize("name", ["a.npz", "a.csv", "folder"])
def test_what_is_there_is_not_overwritten(name: str, tmp_path: Path) -> None:
    """Nor touched."""
    out = write(tmp_path / name)
    before = sorted(path.stat().st_mtime_ns for path in [out, *out.rglob("*")])
    with pytest.raises(PredictError, match="remove it first"):
        write(out)
    assert sorted(path.stat().st_mtime_ns for path in [out, *out.rglob("*")]) == before


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    """Somebody made it for that."""
    (tmp_path / "masks").mkdir()
    assert len(list(write(tmp_path / "masks").iterdir())) == 7


@pytest.mark.parametrize("name", ["a.npz", "a.csv", "folder"])
def test_a_failure_leaves_nothing(name: str, tmp_path: Path) -> None:
    """Neither output nor remains."""
    with pytest.raises(ValueError, match="fourth"):
        write_half(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.npz", "a.csv"])
def test_one_table_holds_one_size(name: str, tmp_path: Path) -> None:
    """The message names the sizes and the way out."""
    mixed = Images(SAME.names, SAME.ids, [(6, 9)] * 6 + [(5, 4)])
    with pytest.raises(PredictError, match=r"5x4, 6x9.*Name a folder"):
        write(tmp_path / name, mixed)


def test_a_single_image_file_cannot_hold_many_masks(tmp_path: Path) -> None:
    """``--out mask.png`` does not make a folder of that name."""
    with pytest.raises(PredictError, match=r"not written as \.png. Allowed: \.npz, \.csv, or a folder"):
        write(tmp_path / "mask.png")
