"""Broken data sets: `orchestrate sweep` names the file and what was found, and exits with 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from orchestrator.cli import main

NUM_TILES, HEIGHT, WIDTH = 12, 32, 64


def _tiles() -> np.ndarray:
    """(N, 2, H, W) uint8: images, and masks that each hold every class from 0 to 4."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (NUM_TILES, 2, HEIGHT, WIDTH), dtype=np.uint8)
    tiles[:, 1] %= 5
    return tiles


def _npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def _folder(path: Path) -> Path:
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    for index, (image, mask) in enumerate(_tiles()):
        cv2.imwrite(str(path / "images" / f"sol{index}.png"), image)
        cv2.imwrite(str(path / "masks" / f"sol{index}.png"), mask)
    return path


def _truncated(path: Path) -> Path:
    file = _npz(path / "mars.npz", training_set=_tiles())
    file.write_bytes(file.read_bytes()[:2000])
    return file


def _pickled(path: Path) -> Path:
    return _npz(path / "mars.npz", training_set=np.array([{"a": 1}, None], dtype=object))


def _without_key(path: Path) -> Path:
    return _npz(path / "mars.npz", train=_tiles())


def _of_wrong_shape(path: Path) -> Path:
    return _npz(path / "mars.npz", training_set=_tiles()[:, 0])


def _of_one_class(path: Path) -> Path:
    tiles = _tiles()
    tiles[:, 1] = 0
    return _npz(path / "mars.npz", training_set=tiles)


def _without_a_mask(path: Path) -> Path:
    folder = _folder(path / "mars")
    (folder / "masks" / "sol3.png").unlink()
    return folder


def _with_a_broken_picture(path: Path) -> Path:
    folder = _folder(path / "mars")
    (folder / "images" / "sol4.png").write_bytes(b"not a picture")
    return folder


def _with_another_size(path: Path) -> Path:
    folder = _folder(path / "mars")
    cv2.imwrite(str(folder / "masks" / "sol5.png"), np.zeros((HEIGHT, WIDTH + 2), np.uint8))
    return folder


def _with_unknown_labels(path: Path) -> Path:
    folder = _folder(path / "mars")
    cv2.imwrite(str(folder / "masks" / "sol6.png"), np.full((HEIGHT, WIDTH), 77, np.uint8))
    return folder


def _without_masks(path: Path) -> Path:
    folder = _folder(path / "mars")
    shutil.rmtree(folder / "masks")
    return folder


def _misspelled(path: Path) -> Path:
    _npz(path / "mars.npz", training_set=_tiles())
    return path / "marz.npz"


BROKEN: list[tuple[Callable[[Path], Path], tuple[str, ...], tuple[str, ...]]] = [
    (_truncated, (), ("mars.npz",)),
    (_pickled, (), ("mars.npz", "training_set")),
    (_without_key, (), ("mars.npz", "training_set", "train")),
    (_of_wrong_shape, (), ("mars.npz", "(12, 32, 64)", "(N, 2, H, W)")),
    (_of_one_class, (), ("class",)),
    (_without_a_mask, (), ("sol3",)),
    (_with_a_broken_picture, (), ("sol4.png",)),
    (_with_another_size, (), ("sol5", "66")),
    (_with_unknown_labels, ("data.num_classes=5",), ("sol6.png", "77")),
    (_without_masks, (), ("masks",)),
    (_misspelled, (), ("marz.npz", "mars.npz")),
]


@pytest.mark.parametrize(("build", "options", "pieces"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_the_command_refuses_it_with_exit_code_2(
    build: Callable[[Path], Path],
    options: tuple[str, ...],
    pieces: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message names the data set and what was found, and no trial is started."""
    source = build(tmp_path)
    (tmp_path / "a.yaml").write_text("base: {epochs: 1}\ndata: {ignore_classes: [0], val_fraction: 0.25}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = [argument for option in (f"data.source={source}", *options) for argument in ("--set", option)]
    monkeypatch.setattr("sys.argv", ["orchestrate", "sweep", "a.yaml", "--plan", *settings])

    with pytest.raises(SystemExit) as exited:
        main()

    captured = capsys.readouterr()
    print(captured.err)
    assert exited.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert [piece for piece in pieces if piece not in captured.err] == []
    assert not (tmp_path / "mlruns" / "trials").exists()
