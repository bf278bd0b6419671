"""Several checkpoints as one model: whole-numbered weights, sums of quantized probabilities, files that can be moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.probabilities import predict_probabilities
from trainers.config import TrainConfig
from trainers.errors import ConfigError
from trainers.models.build import build_model
from trainers.prediction.ensemble import MAX_PIXELS, Ensemble, Member, read_members, save_members, to_whole_weights
from trainers.prediction.means import Mean, to_addends
from trainers.prediction.predict import quantize
from trainers.prediction.weights import ModelInfo, load_checkpoint
from trainers.training.checkpoint import save_best

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 1), dtype=np.uint8)

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, make_config: Callable[..., TrainConfig], one_thread: None) -> Save:
    """Writes a checkpoint of initial weights."""

    def write(name: str, *, in_channels: int = 1, num_classes: int = 3, **fields: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = make_config(precision="float32", **fields)
        torch.manual_seed(len(list(tmp_path.iterdir())))
        model = build_model(config, in_channels=in_channels, num_classes=num_classes)
        save_best(folder, model, ModelInfo(config=config, in_channels=in_channels, num_classes=num_classes))
        return folder / "best.safetensors"

    return write


def sum_by_hand(members: list[Member], batch_size: int) -> np.ndarray:
    """Weighted sums of the quantized probabilities, (N, C, H, W)."""
    sums = np.zeros((5, 3, 32, 48), np.int64)
    for member in members:
        model = load_checkpoint(member.checkpoint)
        parts = [quantize(p) for p in predict_probabilities(model, IMAGES, batch_size=batch_size, precision="float32")]
        sums += member.weight * np.concatenate(parts).astype(np.int64)
    return sums


def test_masks_are_the_argmax_of_the_weighted_sum(save: Save) -> None:
    """Of what is stored of each member, in its own batches; the lowest class on ties."""
    members = [Member(save("a"), 2), Member(save("b"), 1), Member(save("c"), 3)]
    masks = Ensemble(members, device="cpu").predict(IMAGES)
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, sum_by_hand(members, batch_size=3).argmax(axis=1))


@pytest.mark.parametrize("mean", ["geometric", "vote"])
def test_other_means_are_what_the_selection_sums(save: Save, mean: Mean) -> None:
    """Logarithms of what is stored, or one vote per pixel, each with the weight of the member; files keep which."""
    members = [Member(save("a"), 2), Member(save("b"), 1), Member(save("c"), 2)]
    addends = [to_addends(sum_by_hand([Member(m.checkpoint)], batch_size=3).astype(np.uint8), mean) for m in members]
    expected = sum(m.weight * a.astype(np.int64) for m, a in zip(members, addends, strict=True)).argmax(axis=1)
    assert np.array_equal(Ensemble(members, mean=mean, device="cpu").predict(IMAGES), expected)
    folder = members[0].checkpoint.parent / "members"
    folder.mkdir()
    save_members(folder, members, mean=mean)
    assert read_members(folder)[1] == mean


def test_a_batch_holds_fewer_large_images(save: Save) -> None:
    """As many as all were validated with, as asked for, and never too many pixels."""
    member = Member(save("a", batch_size=7))
    assert Ensemble([member], device="cpu").batch_size((32, 48)) == 7
    assert Ensemble([member, Member(save("b", batch_size=3))], device="cpu").batch_size((32, 48)) == 21
    assert Ensemble([member], device="cpu", batch_size=2).batch_size((32, 48)) == 2
    assert Ensemble([member], device="cpu").batch_size((MAX_PIXELS, 2)) == 1


@pytest.mark.parametrize(("other", "message"), [({"in_channels": 3}, "input channels"), ({"num_classes": 4}, "classes")])
def test_members_must_fit_each_other(save: Save, other: dict[str, int], message: str) -> None:
    """The message says which has what."""
    with pytest.raises(ConfigError, match=f"equal numbers of {message}; found: .*best.safetensors has"):
        Ensemble([Member(save("a")), Member(save("b", **other))])


def test_members_are_read_where_their_folder_lies(save: Save, tmp_path: Path) -> None:
    """Their checkpoints are copied; the folder may be moved."""
    members = [Member(save("a"), 2), Member(save("b"), 1, size=(16, 24), flips="both")]
    (tmp_path / "kept").mkdir()
    save_members(tmp_path / "kept", members)
    expected = Ensemble(members, device="cpu").predict(IMAGES)
    shutil.rmtree(tmp_path / "a")
    moved = (tmp_path / "kept").rename(tmp_path / "moved")
    read, mean = read_members(moved)
    assert mean == "arithmetic"
    assert [(member.weight, member.size, member.flips) for member in read] == [(2, None, None), (1, (16, 24), "both")]
    assert np.array_equal(Ensemble(read, device="cpu").predict(IMAGES), expected)
    with pytest.raises(ConfigError, match=r"members\.json: is missing"):
        read_members(tmp_path)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_whole_weights_keep_proportions(counts: list[int]) -> None:
    """From fractions written with six digits, as they are logged."""
    total = sum(counts)
    whole = to_whole_weights([float(f"{count / total:.6g}") for count in counts])
    assert [Fraction(number, sum(whole)) for number in whole] == [Fraction(count, total) for count in counts]


def test_weights_that_are_none_are_rejected() -> None:
    """All zero, or below."""
    for weights in ([0.0, 0.0], [1.0, -0.5]):
        with pytest.raises(ConfigError, match="simple fractions"):
            to_whole_weights(weights)
