"""`orchestrate data check`, `show` and `make`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import DataError, SpecError
from orchestrator.operations.data.check import check_data
from orchestrator.operations.data.make import make_data
from orchestrator.operations.data.show import show_data
from trainers.config import DataConfig, SyntheticConfig
from trainers.data import load_dataset
from trainers.data.sources.synthetic import make_synthetic

TAMPERED = SyntheticConfig(num_images=48, height=48, width=64, seed=2, outlier_fraction=0.1)
OUTLIERS = make_synthetic(TAMPERED).outliers.tolist()


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """The tampered set as a file."""
    path = tmp_path / "ein set.npz"
    make_data(path, TAMPERED.model_dump())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose masks hold the ids 7 and 9, and 9 alone in the last."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for name in ("ä", "b", "c", "d"):
        mask = np.full((16, 32), 9, np.uint8)
        mask[:, : 0 if name == "ä" else 16] = 7
        Image.fromarray(rng.integers(0, 256, (16, 32, 3), np.uint8)).save(tmp_path / "set" / "images" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{name}.png")
    return tmp_path / "set"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`orchestrate data` as a process."""
    command = [sys.executable, "-m", "orchestrator.cli", "data", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_check_is_what_cleaning_reads(npz: Path, tmp_path: Path) -> None:
    """Standard output holds one document; `data.clean` removes its outliers, and auto the same; nothing else is written."""
    before = set(tmp_path.iterdir())
    done = run("check", npz, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(tmp_path.iterdir()) == before
    found = json.loads(done.stdout)
    assert [outlier["index"] for outlier in found["outliers"]] == OUTLIERS
    assert all(outlier["reasons"] for outlier in found["outliers"])
    assert (found["schema_version"], found["num_images"], found["sheet"]) == (1, 48, None)
    assert sum(found["class_shares"]) == pytest.approx(1, abs=1e-5)
    (tmp_path / "check.json").write_text(done.stdout)
    for clean in (str(tmp_path / "check.json"), "auto"):
        assert load_dataset(DataConfig(source=str(npz), clean=clean)).removed == tuple(OUTLIERS)


def test_people_get_a_sheet_beside_the_text(npz: Path, tmp_path: Path) -> None:
    """Without --json the contact sheet is in the working directory, and the text names it."""
    done = run("check", npz, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"outliers: {len(OUTLIERS)}" in done.stdout
    assert "contact sheet: ein set-check.png" in done.stdout
    height, width = cv2.imread(str(tmp_path / "ein set-check.png")).shape[:2]
    assert min(height, width) > 200


def test_a_sheet_as_html_is_whole(npz: Path, tmp_path: Path) -> None:
    """Images are embedded; no link leaves the file."""
    check_data(str(npz), [], out=tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/png;base64,") >= len(OUTLIERS)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert all(f"<figcaption>{index}: " in page for index in OUTLIERS)


def test_every_finding_is_drawn(tmp_path: Path) -> None:
    """Duplicates, unusual images and those without a scored pixel have their own sections."""
    tiles = make_synthetic(SyntheticConfig(num_images=12, height=48, width=64))
    images, masks = (np.concatenate([array, array[:2]]) for array in (tiles.images, tiles.masks))
    images[5], masks[3], masks[12] = 200, 0, 4 - masks[0]
    np.savez(tmp_path / "set.npz", training_set=np.stack([images, masks], axis=1))
    report = check_data(str(tmp_path / "set.npz"), ["data.ignore_classes=[0]"], out=tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    for title in ("with different masks: 2", "Nearly identical images: 2", "Unusual intensities: 1", "Entirely ignored: 1"):
        assert title in page
    found = report.to_json()
    assert found["all_ignored"] == [3]
    assert [group["indices"] for group in found["duplicates"]] == [[0, 12], [1, 13]]
    assert [odd["index"] for odd in found["odd_intensities"]] == [5]


def test_a_clean_set_has_a_sheet_too(tmp_path: Path) -> None:
    """It says that nothing was found."""
    make_data(tmp_path / "set.npz", {"num_images": 9, "height": 64, "width": 64, "seed": 1})
    check_data(str(tmp_path / "set.npz"), [], out=tmp_path / "sheet.html")
    assert "Nothing was found" in (tmp_path / "sheet.html").read_text()
    check_data(str(tmp_path / "set.npz"), [], out=tmp_path / "sheet.png")


def test_positions_stay_those_of_the_source(npz: Path) -> None:
    """A check after cleaning reports positions in the uncleaned source."""
    gone = OUTLIERS[:2]
    found = check_data(str(npz), [f"data.clean={gone}"], out=None).to_json()
    assert [outlier["index"] for outlier in found["outliers"]] == OUTLIERS[2:]
    assert [outlier["name"] for outlier in found["outliers"]] == [f"{index:05d}" for index in OUTLIERS[2:]]


def test_a_folder_is_read_by_its_options(folder: Path) -> None:
    """Id map and ignored classes are given as in a sweep file; findings carry names."""
    options = ["data.id_map={7: 1, 9: 0}", "data.ignore_classes=[0]", "data.class_names=[nichts, fels]"]
    report = check_data(str(folder), options, out=None)
    assert report.to_json()["images_per_class"] == [4, 3]
    assert report.to_json()["all_ignored"] == [3]
    assert report.data.names[3] == "ä"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["base.epochs=2"], r"--set base\.epochs=2: only options of data are allowed: data\.field=value"),
        (["data.ignore_clases=[0]"], r"--set data\.ignore_clases.*Did you mean 'ignore_classes'"),
        (["data.num_classes=x"], r"--set data\.num_classes=x: data\.num_classes is 'x'\. Allowed: a whole number"),
    ],
)
def test_wrong_options_are_answered(folder: Path, options: list[str], told: str) -> None:
    """As in `orchestrate sweep --set`, with the nearest name."""
    with pytest.raises(SpecError, match=told):
        check_data(str(folder), options, out=None)


def test_a_source_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    """Exit code 2, no traceback."""
    done = run("check", "nowhere.npz", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere.npz: not found")
    assert "Traceback" not in done.stderr


def test_a_sheet_of_another_kind_is_refused(npz: Path, tmp_path: Path) -> None:
    """Only PNG and HTML are drawn; a missing folder is reported."""
    with pytest.raises(SpecError, match=r"sheet\.pdf: is of type '\.pdf'\. Allowed: \.png, \.html"):
        check_data(str(npz), [], out=tmp_path / "sheet.pdf")
    with pytest.raises(DataError, match=r"sheet\.png: cannot be written: No such file"):
        check_data(str(npz), [], out=tmp_path / "nowhere" / "sheet.png")


def test_show_draws_one_row_per_image(npz: Path, tmp_path: Path) -> None:
    """Image, mask and overlay; the file's name is printed."""
    done = run("show", npz, 0, 5, cwd=tmp_path)
    assert done.stdout.strip() == "ein set-0.png"
    one = tmp_path / "one.png"
    show_data(str(npz), [5], [], out=one)
    both, single = (cv2.imread(str(path)) for path in (tmp_path / "ein set-0.png", one))
    assert both.shape[1] == single.shape[1] >= 3 * 64
    assert both.shape[0] > 1.7 * single.shape[0]


@pytest.mark.parametrize(
    ("positions", "options", "told"),
    [
        ([48], [], "48: no such image in .* Allowed: 0 to 47"),
        ([-1], [], "-1: no such image"),
        ([3], ["data.clean=[3]"], r"3: data\.clean removes this image"),
    ],
)
def test_show_refuses_what_is_not_there(npz: Path, positions: list[int], options: list[str], told: str) -> None:
    """Positions beyond the set, and removed ones."""
    with pytest.raises(SpecError, match=told):
        show_data(str(npz), positions, options, out=Path("unwritten.png"))


def test_made_sets_are_the_synthetic_ones(npz: Path, tmp_path: Path) -> None:
    """The file holds what data.source: synthetic would; it is not overwritten."""
    tiles = make_synthetic(TAMPERED)
    data = load_dataset(DataConfig(source=str(npz)))
    np.testing.assert_array_equal(data.images[..., 0], tiles.images)
    np.testing.assert_array_equal(data.masks, tiles.masks)
    done = run("make", npz, "--num-images", 9, cwd=tmp_path)
    assert (done.returncode, "exists already" in done.stderr) == (2, True)


def test_errors_of_make_use_the_configurations_names(tmp_path: Path) -> None:
    """Limits are those of data.synthetic; the file must be a .npz."""
    with pytest.raises(SpecError, match=r"data\.synthetic\.num_images is 3\. Allowed: at least 8"):
        make_data(tmp_path / "a.npz", {"num_images": 3})
    with pytest.raises(SpecError, match=r"a\.npy: is of type '\.npy'\. Allowed: \.npz"):
        make_data(tmp_path / "a.npy", {})
