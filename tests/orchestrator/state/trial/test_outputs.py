"""Confusion matrices and predictions on disk are read exactly as written, or not at all."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.ensemble.pooling import read_groups
from orchestrator.ensemble.selection.blocks import make_layout, read_blocks
from orchestrator.ensemble.selection.pool import mark_unscored
from orchestrator.errors import EnsembleError
from orchestrator.state.trial.outputs import (
    read_confusions,
    read_info,
    read_labels,
    read_predictions,
    write_confusions,
    write_predictions,
)


def make_arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (3, 4, 8, 6) and labels with every class and void."""
    random = np.random.default_rng(seed)
    predictions = random.integers(0, 256, (3, 4, 8, 6), dtype=np.uint8)
    labels = random.choice(np.array([0, 1, 2, 3, 255], np.uint8), (3, 8, 6))
    return predictions, labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trial folder with predictions, in which class 0 is not scored."""
    folder = tmp_path / "trial"
    folder.mkdir()
    predictions, labels = make_arrays()
    write_predictions(folder, predictions, labels, ignore_classes=(0,), scored_fingerprint="fp")
    return folder


def test_scored_pixels_and_labels_come_back_exactly(folder: Path, tmp_path: Path) -> None:
    """Except pixels that are not scored, which are 0."""
    predictions, labels = make_arrays()
    found = read_predictions(folder, tmp_path / "cache")
    is_scored = np.broadcast_to(((labels != 0) & (labels != 255))[:, None], predictions.shape)
    assert np.array_equal(found[is_scored], predictions[is_scored])
    assert not found[~is_scored].any()
    assert np.array_equal(read_labels(folder, tmp_path / "cache"), labels)
    assert (read_info(folder).scored_fingerprint, read_info(folder).ignore_classes) == ("fp", (0,))


def test_the_map_is_read_only_and_made_once(folder: Path, tmp_path: Path) -> None:
    """Two reads share one unpacked file, which is read-only."""
    cache = tmp_path / "cache"
    first = read_predictions(folder, cache)
    read_predictions(folder, cache)
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    assert len(list(cache.iterdir())) == 1


def test_blocks_are_cached_by_their_content(folder: Path, tmp_path: Path) -> None:
    """They equal the stored predictions, are made once, and made again if the file was truncated; damage is reported."""
    predictions, labels = make_arrays()
    layout = make_layout(mark_unscored(labels, (0,)), 4)
    cache = tmp_path / "cache"
    is_scored = ((labels != 0) & (labels != 255)).reshape(3, 1, -1)
    for _ in range(2):
        assert np.array_equal(layout.restore(read_blocks(folder, cache, layout)), predictions.reshape(3, 4, -1) * is_scored)
        (path,) = cache.iterdir()
        path.write_bytes(b"short")
    path.unlink()
    (folder / "predictions.zst").write_bytes((folder / "predictions.zst").read_bytes()[:-20])
    with pytest.raises(EnsembleError, match=r"predictions\.zst"):
        read_blocks(folder, cache, layout)


def test_many_readers_at_once(folder: Path, tmp_path: Path) -> None:
    """Concurrent first reads all see the whole array."""
    with ThreadPoolExecutor(8) as threads:
        sums = set(threads.map(lambda _: int(read_predictions(folder, tmp_path / "cache").sum()), range(16)))
    assert len(sums) == 1


@pytest.mark.parametrize("name", ["predictions.zst", "predictions.labels.zst"])
@pytest.mark.parametrize("damage", ["cut", "altered", "exchanged", "missing"])
def test_damage_is_detected_and_named(folder: Path, tmp_path: Path, name: str, damage: str) -> None:
    """A truncated, altered, foreign or missing file is an error that names it."""
    path = folder / name
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        path.write_bytes(content[:-10] + bytes([content[-10] ^ 1]) + content[-9:])
    elif damage == "exchanged":
        other = tmp_path / "other"
        other.mkdir()
        write_predictions(other, *make_arrays(1), ignore_classes=(0,), scored_fingerprint="fp")
        path.write_bytes((other / name).read_bytes())
    else:
        path.unlink()
    read = read_predictions if name == "predictions.zst" else read_labels
    with pytest.raises(EnsembleError, match=name):
        read(folder, tmp_path / "cache")


def test_a_damaged_description_is_named(folder: Path, tmp_path: Path) -> None:
    """predictions.json that cannot be parsed is an error that names it."""
    (folder / "predictions.json").write_text("{")
    with pytest.raises(EnsembleError, match=r"predictions\.json"):
        read_predictions(folder, tmp_path)


def test_a_cut_cache_is_made_again(folder: Path, tmp_path: Path) -> None:
    """A cache file of the wrong size is replaced."""
    cache = tmp_path / "cache"
    expected = np.array(read_predictions(folder, cache))
    (file,) = cache.iterdir()
    file.write_bytes(b"short")
    assert np.array_equal(read_predictions(folder, cache), expected)


def test_a_folder_without_predictions_says_so(tmp_path: Path) -> None:
    """The message differs from that for a damaged file."""
    with pytest.raises(EnsembleError, match="not stored"):
        read_info(tmp_path)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Labels of another size are never stored beside predictions."""
    predictions, labels = make_arrays()
    with pytest.raises(EnsembleError, match="Expected uint8"):
        write_predictions(tmp_path, predictions, labels[:, 1:], ignore_classes=(), scored_fingerprint="fp")


def test_groups_come_back(folder: Path, tmp_path: Path) -> None:
    """Folders of older versions, without groups, are still read."""
    grouped = tmp_path / "grouped"
    grouped.mkdir()
    write_predictions(grouped, *make_arrays(), ignore_classes=(0,), scored_fingerprint="fp", groups=np.array([4, 4, 9], np.int64))
    assert read_groups([folder]) is None
    assert np.array_equal(read_groups([folder, grouped]), [4, 4, 9])


def test_groups_of_other_images_are_refused(tmp_path: Path) -> None:
    """One number of each image."""
    with pytest.raises(EnsembleError, match="groups are"):
        write_predictions(tmp_path, *make_arrays(), ignore_classes=(), scored_fingerprint="fp", groups=np.zeros(4, np.int64))


def test_predictions_of_a_version_with_16_bits_are_read(folder: Path, tmp_path: Path) -> None:
    """Its extra field is ignored."""
    expected = read_info(folder)
    document = json.loads((folder / "predictions.json").read_text()) | {"u16_sha256": "0" * 64}
    (folder / "predictions.json").write_text(json.dumps(document))
    assert read_info(folder) == expected
    predictions, labels = make_arrays()
    is_scored = np.isin(labels, (1, 2, 3))[:, None]
    assert np.array_equal(read_predictions(folder, tmp_path / "cache"), np.where(is_scored, predictions, 0))


def test_confusions_that_are_written_are_read(tmp_path: Path) -> None:
    """Counts and ignored classes are the same, a second write wins, and nothing else is left in the folder."""
    path = tmp_path / "matrices ü.npz"
    matrices = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    write_confusions(path, matrices, ignore_classes=(0, 2))
    write_confusions(path, matrices + 1, ignore_classes=(1,))
    confusions, ignored = read_confusions(path)
    np.testing.assert_array_equal(confusions, matrices + 1)
    assert (confusions.dtype, ignored) == (np.int32, (1,))
    assert list(tmp_path.iterdir()) == [path]
