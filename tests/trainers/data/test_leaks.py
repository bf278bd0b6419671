"""No image, nor its duplicate, stands on both sides, whatever is repeated, removed, folded or shuffled."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainers.config import DataConfig, Fold, SamplingConfig, SplitLists, SyntheticConfig
from trainers.data import DataSet, SplitData, load_dataset, make_split, split_dataset
from trainers.data.sources.synthetic import make_synthetic
from trainers.errors import DataError
from trainers.loader.sampling import list_samples

ORIGINALS = make_synthetic(SyntheticConfig(num_images=16, seed=5)).images
NUM_FOLDS = 3


def change(image: np.ndarray, kind: int, number: int) -> np.ndarray:
    """The ``number``-th duplicate of an image; kind 0: exact, 1: brighter or with noise, 2: with something pasted over it."""
    rng = np.random.default_rng(number)
    if kind == 1:
        noisy = image * (1 + 0.1 * (number % 2)) + rng.normal(0, 1, image.shape)
        return np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    if kind == 2:
        image = image.copy()
        top, left = rng.integers(0, 40), rng.integers(0, 80)
        image[top : top + 24, left : left + 40] = rng.integers(0, 256)
    return image


@st.composite
def made_up(draw: st.DrawFn) -> tuple[DataSet, np.ndarray]:
    """A set of images with duplicates, some of them removed, and of which original each is."""
    copies = draw(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 3)), min_size=1, max_size=8))
    kinds = draw(st.lists(st.integers(0, 2), min_size=16, max_size=16))
    owners = [*range(16), *(owner for owner, count in copies for _ in range(count))]
    images = [*ORIGINALS, *(change(ORIGINALS[owner], kinds[owner], n) for n, owner in enumerate(owners[16:]))]
    order = np.array(draw(st.permutations(range(len(owners)))))
    clean = tuple(sorted(draw(st.sets(st.integers(0, len(owners) - 1), max_size=6))))
    return load_from(np.stack(images)[order], clean), np.delete(np.array(owners)[order], clean)


def load_from(images: np.ndarray, clean: tuple[int, ...]) -> DataSet:
    """The images with masks that hold both classes, by way of a file, cleaned."""
    masks = np.zeros_like(images)
    masks[:, :, 64:] = 1
    with tempfile.TemporaryDirectory() as folder:  # one for each example, which a fixture cannot give
        np.savez(Path(folder) / "set.npz", training_set=np.stack([images, masks], axis=1))
        return load_dataset(DataConfig(source=str(Path(folder) / "set.npz"), clean=clean or None))


def check_apart(data: SplitData, owners: np.ndarray, sampling: SamplingConfig) -> None:
    """Check that no original has an image, or a repeated one, in an epoch and another in validation."""
    trained = {int(owners[index]) for index in list_samples(data, sampling).indices}
    validated = {int(owners[index]) for index in data.split.val}
    assert trained
    assert validated
    assert not trained & validated


REPEATS = st.lists(
    st.fixed_dictionaries({"classes": st.sampled_from(["all", "rarest", [1]]), "factor": st.integers(2, 4)}), max_size=3
)


@settings(max_examples=60, deadline=None)
@given(made_up(), REPEATS, st.integers(-3, 50), st.none() | st.integers(0, NUM_FOLDS - 1), st.floats(0.1, 0.5))
def test_duplicates_stay_on_one_side(
    made: tuple[DataSet, np.ndarray], repeat: list[dict[str, object]], seed: int, fold: int | None, fraction: float
) -> None:
    """D, DD, cleaning, folds and seeds never part an image from its duplicates."""
    data, owners = made
    config = DataConfig(split_seed=seed, val_fraction=fraction)
    split = split_dataset(data, config, None if fold is None else Fold(index=fold, count=NUM_FOLDS))
    check_apart(split, owners, SamplingConfig.model_validate({"repeat": repeat}))


def test_broken_groups_are_caught() -> None:
    """The check above notices a leak: with every image in a group of its own, duplicates come apart."""
    data = load_from(np.concatenate([ORIGINALS, ORIGINALS]), ())
    parted = replace(data, groups=np.arange(32))
    with pytest.raises(AssertionError, match="not"):
        check_apart(split_dataset(parted, DataConfig(val_fraction=0.3), None), np.tile(np.arange(16), 2), SamplingConfig())


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_lists_that_part_duplicates_are_rejected(tmp_path: Path, kind: int) -> None:
    """A user's own lists are held against the images, exact and near duplicates and pasted-over copies alike."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for index in range(8):
        image = change(ORIGINALS[0], kind, 1) if index == 7 else ORIGINALS[index]
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(np.tile(np.repeat([0, 1], 64).astype(np.uint8), (64, 1))).save(tmp_path / "masks" / f"{index}.png")
    config = write_lists(tmp_path, train="0 1 2 3 4 5", val="6 7")
    with pytest.raises(DataError, match=r"on both sides, such as 0 and 7"):
        make_split(load_dataset(config), config, None)
    cleaned = config.model_copy(update={"clean": (7,)})
    assert make_split(load_dataset(cleaned), cleaned, None).val.tolist() == [6]


def write_lists(folder: Path, *, train: str, val: str) -> DataConfig:
    """Write both lists and return the configuration that names them."""
    (folder / "train.txt").write_text(train.replace(" ", "\n"))
    (folder / "val.txt").write_text(val.replace(" ", "\n"))
    return DataConfig(source=str(folder), split_lists=SplitLists(train="train.txt", val="val.txt"))
