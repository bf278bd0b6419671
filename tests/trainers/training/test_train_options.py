"""trainers.training.train with options that are off by default: averaged weights, clipping, a smaller input, test-time flips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.trainers.probabilities import predict_probabilities
from trainers.config import TrainConfig
from trainers.data import SplitData
from trainers.device import Compute
from trainers.models.build import build_model
from trainers.prediction.predict import quantize
from trainers.prediction.weights import load_checkpoint
from trainers.training.train import Callbacks, Continue, TrainResult, train

Make = Callable[..., SplitData]
Config = Callable[..., TrainConfig]


def run(config: TrainConfig, data: SplitData, folder: Path, *, seed: int = 0, **callbacks: Any) -> TrainResult:
    """Train on one thread of the CPU."""
    return train(config, data, seed=seed, folder=folder, compute=Compute("cpu", num_threads=1), callbacks=Callbacks(**callbacks))


def predict(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities of these images by the checkpoint in ``folder``, in the batches of the training's evaluation."""
    return np.concatenate(list(predict_probabilities(load_checkpoint(folder), images, batch_size=3)))


def test_averaged_weights_are_evaluated_and_kept(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """The checkpoint holds the average, whose predictions are the result's; the weights themselves score differently."""
    data = make_data()
    averaged = run(make_config(epochs=4, ema={"decay": 0.9}), data, tmp_path / "a")
    plain = run(make_config(epochs=4), data, tmp_path / "b")
    assert averaged.predictions is not None
    assert plain.predictions is not None
    again = predict(tmp_path / "a", data.data.images[data.split.val])
    np.testing.assert_array_equal(quantize(again), averaged.predictions)
    assert not np.array_equal(averaged.predictions, plain.predictions)


def test_averaged_weights_go_on_bit_for_bit(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Stopped after the first epoch and resumed, average, clipping and warm-up are as without the stop."""
    config = make_config(
        epochs=3, ema={"decay": 0.9}, clip_grad_norm=0.5, schedule={"name": "cosine", "warmup_fraction": 0.5},
        sampling={"repeat": [{"classes": "all"}], "weight_power": 0.5}, augmentation="flip",
    )  # fmt: skip
    data = make_data()
    whole = run(config, data, tmp_path / "whole")
    run(config, data, tmp_path / "parts", on_epoch=lambda _: Continue.STOP)
    parts = run(config, data, tmp_path / "parts")
    assert whole.predictions is not None
    assert parts.predictions is not None
    np.testing.assert_array_equal(whole.predictions, parts.predictions)


def test_clipping_bounds_what_a_step_can_do(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """With plain gradient descent at rate 1 and a bound of nearly nothing, the weights stay where they were."""
    options = {"optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0, "weight_decay": 0}, "epochs": 1}
    data, results = make_data(), []
    for bound in (1e-12, None):
        folder = tmp_path / str(bound)
        run(make_config(**options, clip_grad_norm=bound), data, folder)
        torch.manual_seed(0)
        start = dict(build_model(make_config(), in_channels=1, num_classes=4).named_parameters())
        end = load_checkpoint(folder).named_parameters()
        results.append(max(float((weight - start[name]).detach().abs().max()) for name, weight in end))
    assert results[0] < 1e-9 < 1e-3 < results[1]


def test_small_input_is_scored_at_full_size(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Trained at 16x16, predictions have the images' 32x32, and a checkpoint remembers how it sees them."""
    data = make_data()
    config = make_config(input_size=[16, 16])
    result = run(config, data, tmp_path)
    assert result.predictions is not None
    assert result.predictions.shape == (3, 4, 32, 32)
    np.testing.assert_array_equal(quantize(predict(tmp_path, data.data.images[data.split.val])), result.predictions)


@pytest.mark.parametrize(("flips", "axes"), [("horizontal", [(), (2,)]), ("both", [(), (2,), (1,), (1, 2)])])
def test_test_time_flips_are_a_mean(
    tmp_path: Path, make_config: Config, make_data: Make, flips: Any, axes: list[tuple[int, ...]]
) -> None:
    """The predictions are the mean of those of the mirrored images, mirrored back."""
    data = make_data()
    result = run(make_config(test_time_flips=flips), data, tmp_path)
    images, seen = data.data.images[data.split.val], []
    for axis in axes:
        mirrored = np.ascontiguousarray(np.flip(images, axis)) if axis else images
        found = predict(tmp_path, mirrored)
        seen.append(np.flip(found, [a + 1 for a in axis]) if axis else found)
    assert result.predictions is not None
    difference = np.abs(np.mean(seen, axis=0) * 255 - result.predictions.astype(float))
    assert difference.max() <= 1.5
    assert np.median(difference) <= 0.5


@pytest.mark.usefixtures("one_thread")
def test_kept_predictions_are_those_of_the_best_epoch(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """A rate that ruins the weights after the best epoch: the result is the best epoch's all the same."""
    data = make_data()
    config = make_config(epochs=6, schedule={"name": "constant"}, optimizer={"lr": 0.05})
    for seed in range(8):  # which of them are ruined depends on roundings
        folder = tmp_path / str(seed)
        result = run(config, data, folder, seed=seed)
        if result.best_epoch < result.epochs_run:
            break
    assert result.best_epoch < result.epochs_run, "choose another rate: the last epoch is always the best"
    assert result.predictions is not None
    np.testing.assert_array_equal(quantize(predict(folder, data.data.images[data.split.val])), result.predictions)
