from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.trainers.probabilities import predict_probabilities
from trainers.config import TrainConfig
from trainers.data import SplitData
from trainers.device import Compute
from trainers.errors import ConfigError
from trainers.models.build import build_model
from trainers.prediction.predict import quantize, to_input
from trainers.prediction.weights import load_checkpoint, read_info
from trainers.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
scores = arrays(np.float32, (2, 5, 2, 3), elements=st.floats(0, 1, width=32))


@settings(max_examples=200, deadline=None)
@given(scores=scores)
def test_quantized_argmax_is_the_input_s(scores: np.ndarray) -> None:
    """Also where rounding makes probabilities equal, and where they are equal before."""
    probabilities = (scores + np.float32(1e-6)) / (scores + np.float32(1e-6)).sum(axis=1, keepdims=True)
    kept = quantize(probabilities)
    assert kept.dtype == np.uint8
    assert np.array_equal(kept.argmax(axis=1), probabilities.argmax(axis=1))
    assert np.abs(kept / 255 - probabilities).max() <= 1.5 / 255 + 1e-6


def test_tie_made_by_rounding_goes_to_the_winner() -> None:
    """.499 and .501 both round to 127 or 128; the second wins, and still does."""
    probabilities = np.array([0.4995, 0.5005], dtype=np.float32).reshape(1, 2, 1, 1)
    kept = quantize(probabilities).ravel()
    assert kept[1] > kept[0]


def test_a_winner_that_rounds_to_the_largest_number_keeps_it() -> None:
    """Of sigmoids several may be all but certain; one more than 255 would be 0."""
    scores = np.array([0.9995, 0.4, 0.9990, 1.0], dtype=np.float32).reshape(1, 4, 1, 1)
    assert quantize(scores).ravel().tolist() == [254, 102, 254, 255]


def test_one_hot_is_kept_exactly() -> None:
    """Certainty is 255 and 0."""
    one_hot = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    assert np.array_equal(quantize(one_hot), (one_hot * 255).astype(np.uint8))


def test_input_is_divided_by_255() -> None:
    """(N, H, W, C) uint8 to (N, C, H, W) float32 in [0, 1]."""
    images = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    found = to_input(images, torch.device("cpu"))
    assert found.dtype == torch.float32
    assert found.tolist() == [[[[0.0]], [[1.0]]]]


def test_probabilities_sum_to_one(make_config: Callable[..., TrainConfig], make_data: Callable[..., SplitData]) -> None:
    """One batch after the other, every class, every pixel, whatever the batch size."""
    model = build_model(make_config(), in_channels=1, num_classes=4)
    images = make_data().data.images
    batches = list(predict_probabilities(model, images, batch_size=4, device="cpu"))
    assert [b.shape for b in batches] == [(4, 4, 32, 32), (4, 4, 32, 32), (1, 4, 32, 32)]
    np.testing.assert_allclose(np.concatenate(batches).sum(axis=1), 1, atol=1e-5)


def test_checkpoint_alone_gives_the_model_back(
    tmp_path: Path, make_config: Callable[..., TrainConfig], make_data: Callable[..., SplitData]
) -> None:
    """Its file holds what is needed to rebuild it, and predicts what the training kept."""
    data = make_data()
    result = train(make_config(), data, seed=0, folder=tmp_path, compute=Compute("cpu", num_threads=1))
    model = load_checkpoint(tmp_path / "best.safetensors")
    images = data.data.images[data.split.val]
    probabilities = np.concatenate(list(predict_probabilities(model, images, batch_size=3, device="cpu")))
    assert np.array_equal(quantize(probabilities), result.predictions)
    info = read_info(tmp_path)
    assert (info.epoch, info.in_channels, info.num_classes) == (result.best_epoch, 1, 4)


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint at all"])
def test_unreadable_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty or something else: one message with the path."""
    file = tmp_path / "best.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"best\.safetensors: not a checkpoint"):
        load_checkpoint(file)
