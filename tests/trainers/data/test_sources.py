"""The contract of every source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.config import VOID, DataConfig
from trainers.data import DataSet, load_dataset, open_dataset, prepare_dataset
from trainers.data.sources.synthetic import SyntheticSet
from trainers.errors import DataError


def assert_same(one: DataSet, other: DataSet) -> None:
    """Check that two data sets hold the same."""
    for field in ("images", "masks", "groups"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for field in ("names", "num_classes", "class_names", "fingerprint"):
        assert getattr(one, field) == getattr(other, field)


def test_hands_over_the_same_tiles(made, tiles: SyntheticSet) -> None:
    """The images and labels that went in come out, in order, as uint8 with a channel axis."""
    data = load_dataset(made.config)
    assert data.images.dtype == data.masks.dtype == np.uint8
    np.testing.assert_array_equal(data.images, tiles.images[..., None])
    np.testing.assert_array_equal(data.masks, tiles.masks)


def test_describes_itself(made) -> None:
    """Names, classes, groups and fingerprint have the documented form."""
    data = load_dataset(made.config)
    assert len(set(data.names)) == len(data.names) == len(data.images) == len(data.groups)
    assert data.num_classes == len(data.class_names) == 5
    assert len(data.fingerprint) == 16
    int(data.fingerprint, 16)


def test_prepared_is_loaded(made, tmp_path: Path) -> None:
    """What is prepared in a cache equals what is loaded without one."""
    assert_same(open_dataset(prepare_dataset(made.config, tmp_path / "cache")), load_dataset(made.config))


def test_prepared_is_memory_mapped(made, tmp_path: Path) -> None:
    """Opening reads no pixels."""
    data = open_dataset(prepare_dataset(made.config, tmp_path / "cache"))
    assert isinstance(data.images, np.memmap)
    assert isinstance(data.masks, np.memmap)


def test_fingerprint_is_of_the_content(made, tmp_path: Path) -> None:
    """A copy at another place, prepared in another cache, has the same fingerprint and the same folder name."""
    first = prepare_dataset(made.config, tmp_path / "cache")
    second = prepare_dataset(made.copy_to(tmp_path / "elsewhere"), tmp_path / "other cache")
    assert first.name == second.name
    assert_same(open_dataset(first), open_dataset(second))


def test_second_preparation_does_nothing(made, tmp_path: Path) -> None:
    """Preparing again leaves the folder as it is."""
    folder = prepare_dataset(made.config, tmp_path / "cache")
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert prepare_dataset(made.config, tmp_path / "cache") == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"size": (8, 16)},
        {"color": "rgb"},
        {"num_classes": 6},
        {"class_names": tuple("abcde")},
        {"id_map": {i: 0 for i in range(4)} | {4: 1}},
    ],
)
def test_options_have_their_own_folders(made, tmp_path: Path, change: dict[str, object]) -> None:
    """Whatever changes the tiles changes the folder's name, not the fingerprint."""
    plain = prepare_dataset(made.config, tmp_path / "cache")
    other = prepare_dataset(made.config.model_copy(update=change), tmp_path / "cache")
    assert plain != other
    assert open_dataset(plain).fingerprint == open_dataset(other).fingerprint


def test_split_options_share_a_folder(made, tmp_path: Path) -> None:
    """How the data is split or scored needs no second copy of the tiles."""
    change = {"val_fraction": 0.5, "split_seed": 3, "ignore_classes": (0,), "limit": 4}
    folder = prepare_dataset(made.config, tmp_path / "cache")
    assert prepare_dataset(made.config.model_copy(update=change), tmp_path / "cache") == folder


def test_resizes_and_colours(made) -> None:
    """Size and colour are converted as configured, labels stay labels."""
    data = load_dataset(made.config.model_copy(update={"size": (24, 20), "color": "rgb"}))
    assert data.images.shape == (20, 24, 20, 3)
    assert set(np.unique(data.masks)) <= set(range(5))


def test_pads_with_void(made, tiles: SyntheticSet) -> None:
    """Padding keeps the scale and is never scored."""
    data = load_dataset(made.config.model_copy(update={"size": (20, 40), "fit": "pad"}))
    np.testing.assert_array_equal(data.images[:, :16, :32, 0], tiles.images)
    assert (data.masks[:, 16:] == VOID).all()
    assert (data.masks[:, :, 32:] == VOID).all()
    assert data.num_classes == 5


def test_maps_ids(made, tiles: SyntheticSet) -> None:
    """Ids become the classes of the map; those mapped to 255 become void."""
    data = load_dataset(made.config.model_copy(update={"id_map": {0: VOID, 1: 0, 2: 1, 3: 0, 4: 2}}))
    np.testing.assert_array_equal(data.masks, np.array([VOID, 0, 1, 0, 2], np.uint8)[tiles.masks])
    assert data.num_classes == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id_map": {0: 0, 1: 1, 2: 2, 3: 3}}, "ids 4 are not in data.id_map"),
        ({"id_map": {0: 0, 1: 7}, "num_classes": 3}, "{1: 7} maps to no class. Allowed: 0 to 2"),
        ({"num_classes": 4}, "unknown label ids 4. Allowed: 0 to 3"),
        ({"class_names": ("a", "b")}, "2 names (a, b) for 5 classes"),
        ({"class_names": ("a", "b", "c", "d", "a")}, "holds a name twice"),
        ({"ignore_classes": (0, 9)}, "9 is not a class. Known: 0 ("),
        ({"ignore_classes": (0, 1, 2, 3, 4)}, "Leave at least one class"),
        ({"size": (8, 64), "fit": "pad"}, "16x32 (height x width) is larger than data.size 8x64"),
    ],
)
def test_rejects_what_does_not_fit(made, tmp_path: Path, change: dict[str, object], message: str) -> None:
    """Options that contradict the data are rejected, loaded or prepared, and leave no folder behind."""
    config = made.config.model_copy(update=change)
    with pytest.raises(DataError) as caught:
        load_dataset(config)
    assert message in str(caught.value)
    with pytest.raises(DataError):
        prepare_dataset(config, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_concurrent_preparations_yield_one_folder(made, tmp_path: Path) -> None:
    """Two processes that prepare at once both get the same, whole folder."""
    code = (
        "import sys; from pathlib import Path; from trainers.config import DataConfig; from trainers.data import prepare_dataset;"
        "print(prepare_dataset(DataConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, made.config.model_dump_json(), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(answers) == 1
    assert_same(open_dataset(Path(answers.pop())), load_dataset(made.config))


def test_remains_of_a_killed_preparation_are_replaced(made, tmp_path: Path) -> None:
    """A half-written folder of a process that was killed does no harm."""
    name = prepare_dataset(made.config, tmp_path / "cache").name
    (tmp_path / "new" / f".{name}.partial").mkdir(parents=True)
    (tmp_path / "new" / f".{name}.partial" / "images.npy").write_bytes(b"half")
    assert_same(open_dataset(prepare_dataset(made.config, tmp_path / "new")), load_dataset(made.config))


def test_damaged_folder_is_named(made, tmp_path: Path) -> None:
    """A prepared folder that lost bytes is named, with what to do."""
    folder = prepare_dataset(made.config, tmp_path / "cache")
    (folder / "masks.npy").write_bytes((folder / "masks.npy").read_bytes()[:200])
    with pytest.raises(DataError, match="Remove the folder; it is made again"):
        open_dataset(folder)


def test_missing_source_names_its_neighbour(tmp_path: Path, write_npz) -> None:
    """A misspelt path is answered with the nearest name beside it."""
    write_npz(tmp_path / "mars_train.npz")
    with pytest.raises(DataError, match=r"not found.*Did you mean 'mars_train.npz'"):
        load_dataset(DataConfig(source=str(tmp_path / "mars_trian.npz")))


def test_misspelt_synthetic_is_recognised() -> None:
    """The name of the built-in data is suggested too."""
    with pytest.raises(DataError, match="Did you mean 'synthetic'"):
        load_dataset(DataConfig(source="syntetic"))


def test_unknown_kind_of_file_is_rejected(tmp_path: Path) -> None:
    """A file that is no .npz is rejected by its type."""
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"type '.csv'. Allowed: synthetic, a .npz file, or a folder"):
        load_dataset(DataConfig(source=str(tmp_path / "data.csv")))
