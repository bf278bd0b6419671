from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trainers.config import TrainConfig
from trainers.config.train import EarlyStoppingConfig
from trainers.data import SplitData
from trainers.device import Compute
from trainers.errors import ConfigError, DataError, DivergedError, TrainerError
from trainers.metrics import confusion_per_image, mean_iou
from trainers.training.checkpoint import Progress
from trainers.training.train import Callbacks, Continue, EpochReport, TrainResult, is_stale, train

Make = Callable[..., SplitData]
Config = Callable[..., TrainConfig]
DROPOUT = {
    "arch": "FPN",
    "arch_options": {"encoder_depth": 3, "decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "augmentation": "flip_brightness",
}
"""Options that use every random source."""


def run(
    config: TrainConfig,
    data: SplitData,
    folder: Path,
    *,
    seed: int = 0,
    interval_s: float = 15,
    **callbacks: Any,
) -> TrainResult:
    """Train on one thread of the CPU."""
    return train(
        config,
        data,
        seed=seed,
        folder=folder,
        compute=Compute("cpu", num_threads=1),
        checkpoint_interval_s=interval_s,
        callbacks=Callbacks(**callbacks),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What best.safetensors holds."""
    return load_file(folder / "best.safetensors")


def is_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether all weights are the same, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stop_after(epoch: int) -> Callable[[EpochReport], Continue]:
    """A listener that asks for a stop after ``epoch``."""
    return lambda report: Continue.STOP if report.epoch == epoch else Continue.YES


class Killed(Exception):
    """Stands for a kill of the process."""


def test_four_images_are_overfitted(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Trained and scored on the same four images, the network overfits them."""
    data = make_data(num_train=4, num_val=4)
    data.data.images[4:], data.data.masks[4:] = data.data.images[:4], data.data.masks[:4]
    result = run(make_config(encoder="resnet18", epochs=40, batch_size=4, optimizer={"lr": 0.01}), data, tmp_path)
    assert result.metrics["val/miou"] > 0.9


def test_reports_tell_every_epoch(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """One report per epoch, from 1, with every metric; the first is always the best so far."""
    reports: list[EpochReport] = []

    def listen(report: EpochReport) -> Continue:
        reports.append(report)
        return Continue.YES

    result = run(make_config(epochs=3), make_data(), tmp_path, on_epoch=listen)
    assert [r.epoch for r in reports] == [1, 2, 3]
    assert reports[0].is_best
    expected = {"val/miou", "val/iou/class1", "val/iou/class2", "val/iou/class3", "train/loss", "lr", "images_per_s", "epoch_s"}
    assert set(reports[0].metrics) == expected
    best = max(reports, key=lambda r: r.metrics["val/miou"])
    assert (result.best_epoch, result.metrics["val/miou"]) == (best.epoch, best.metrics["val/miou"])
    assert [r.epoch for r in reports if r.is_best][-1] == result.best_epoch


@pytest.mark.parametrize("epochs", [1, 5])
def test_predictions_confusions_and_metrics_agree(tmp_path: Path, make_config: Config, make_data: Make, epochs: int) -> None:
    """What is kept gives exactly the logged mIoU, whether the last epoch was the best or an earlier one."""
    data = make_data()
    result = run(make_config(epochs=epochs, optimizer={"lr": 0.05}), data, tmp_path)
    assert result.predictions is not None
    assert result.confusions is not None
    assert (result.predictions.shape, result.predictions.dtype) == ((3, 4, 32, 32), np.uint8)
    labels = data.data.masks[data.split.val]
    counted = confusion_per_image(result.predictions.argmax(axis=1), labels, num_classes=4, ignore_classes=(0,))
    assert np.array_equal(counted, result.confusions)
    assert float(mean_iou(result.confusions.sum(axis=0), (0,))) == result.metrics["val/miou"]


def test_equal_seeds_give_equal_bits(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """With dropout and augmentation, whatever the global random state was."""
    torch.manual_seed(1)
    first = run(make_config(**DROPOUT), make_data(), tmp_path / "a")
    torch.manual_seed(2)
    second = run(make_config(**DROPOUT), make_data(), tmp_path / "b")
    assert is_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert np.array_equal(first.predictions, second.predictions)


def test_seeds_differ(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Another seed, another network."""
    for seed in (0, 1):
        run(make_config(epochs=1), make_data(), tmp_path / str(seed), seed=seed)
    assert not is_equal(weights(tmp_path / "0"), weights(tmp_path / "1"))


def test_caller_s_random_state_is_left_alone(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """The training's seeds are its own."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(make_config(epochs=1), make_data(), tmp_path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
def test_stopped_training_resumes_bit_for_bit(tmp_path: Path, make_config: Config, make_data: Make, schedule: str) -> None:
    """Stopped twice and called again, it ends with the weights, predictions and metrics of the undisturbed one."""
    config = make_config(**DROPOUT, epochs=4, schedule={"name": schedule, "patience": 0})
    whole = run(config, make_data(), tmp_path / "whole")
    for epoch in (1, 3):
        stopped = run(config, make_data(), tmp_path / "parts", on_epoch=stop_after(epoch))
        assert (stopped.stopped, stopped.epochs_run, stopped.predictions) == (True, epoch, None)
    parts = run(config, make_data(), tmp_path / "parts")
    assert not parts.stopped
    assert is_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert np.array_equal(whole.predictions, parts.predictions)
    assert (whole.best_epoch, whole.epochs_run) == (parts.best_epoch, parts.epochs_run)
    timed = {"images_per_s", "epoch_s"}
    assert all(whole.metrics[name] == parts.metrics[name] for name in whole.metrics if name not in timed)


@pytest.mark.parametrize("interval_s", [0.0, 3600.0])
def test_killed_training_resumes_bit_for_bit(tmp_path: Path, make_config: Config, make_data: Make, interval_s: float) -> None:
    """From what lay in the folder when it was killed: a checkpoint of the epoch before, or none at all."""
    config = make_config(**DROPOUT, epochs=3)
    whole = run(config, make_data(), tmp_path / "whole")

    def kill(report: EpochReport) -> Continue:
        if report.epoch == 2:
            shutil.copytree(tmp_path / "killed", tmp_path / "left")
            raise Killed
        return Continue.YES

    with pytest.raises(Killed):
        run(config, make_data(), tmp_path / "killed", interval_s=interval_s, on_epoch=kill)
    assert (tmp_path / "left" / "last.pt").exists() is (interval_s == 0)
    again = run(config, make_data(), tmp_path / "left")
    assert is_equal(weights(tmp_path / "whole"), weights(tmp_path / "left"))
    assert np.array_equal(whole.predictions, again.predictions)


def test_stop_after_the_last_epoch_is_resumable(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Nothing is left to train, only to predict."""
    config = make_config(epochs=1)
    assert run(config, make_data(), tmp_path, on_epoch=stop_after(1)).stopped
    result = run(config, make_data(), tmp_path)
    assert (result.stopped, result.epochs_run) == (False, 1)
    assert result.predictions is not None


def test_finished_training_leaves_no_scratch_file(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Weights and checkpoint are there, whole; the checkpoint stays until the result is stored."""
    run(make_config(epochs=1), make_data(), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"best.safetensors", "last.pt"}


def test_finished_training_is_only_evaluated_again(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """A call after the end trains no epoch and gives the same result."""
    first = run(make_config(), make_data(), tmp_path)
    reports: list[EpochReport] = []

    def listen(report: EpochReport) -> Continue:
        reports.append(report)
        return Continue.YES

    second = run(make_config(), make_data(), tmp_path, on_epoch=listen)
    assert reports == []
    assert np.array_equal(first.predictions, second.predictions)
    assert first.metrics == second.metrics


def test_damaged_checkpoint_starts_anew(
    tmp_path: Path, make_config: Config, make_data: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A truncated last.pt is logged and costs epochs, not the trial."""
    config = make_config()
    run(config, make_data(), tmp_path / "a", on_epoch=stop_after(1))
    last = tmp_path / "a" / "last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    result = run(config, make_data(), tmp_path / "a")
    run(config, make_data(), tmp_path / "b")
    assert result.epochs_run == 2
    assert "last.pt: cannot be read" in caplog.text
    assert is_equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_checkpoint_without_its_weights_starts_anew(
    tmp_path: Path, make_config: Config, make_data: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """What the best epoch was is worth nothing without its weights."""
    run(make_config(), make_data(), tmp_path, on_epoch=stop_after(1))
    (tmp_path / "best.safetensors").unlink()
    assert run(make_config(), make_data(), tmp_path).epochs_run == 2
    assert "lacks its best.safetensors" in caplog.text


def test_checkpoint_of_another_training_is_rejected(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """The message says what differs."""
    run(make_config(), make_data(), tmp_path, on_epoch=stop_after(1))
    with pytest.raises(TrainerError, match=r"belongs to another training: its seed is 0, expected 1"):
        run(make_config(), make_data(), tmp_path, seed=1)


def test_infinite_loss_is_reported_with_epoch_and_step(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """A learning rate of 1e30 does it in the second step."""
    config = make_config(optimizer={"lr": 1e30}, schedule={"name": "constant"}, loss={"name": "cross_entropy"})
    with pytest.raises(DivergedError, match=r"epoch 1, step 2 of 2: the loss is nan"):
        run(config, make_data(), tmp_path)


def test_early_stopping_ends_the_training(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """A network that learns nothing stops after ``patience`` epochs more."""
    config = make_config(epochs=9, optimizer={"lr": 1e-12}, early_stopping={"patience": 2, "min_delta": 0.5})
    result = run(config, make_data(), tmp_path)
    assert result.epochs_run == 3
    assert result.predictions is not None


@pytest.mark.parametrize(
    ("mious", "patience", "min_delta", "expected"),
    [
        ([0.5, 0.4, 0.4], 2, 0.0, True),
        ([0.5, 0.4, 0.6], 2, 0.0, False),
        ([0.50, 0.51, 0.52], 2, 0.1, True),
        ([0.5, 0.5], 1, 0.0, True),
        ([0.5], 1, 0.0, False),
    ],
)
def test_staleness_by_hand(mious: list[float], patience: int, min_delta: float, expected: bool) -> None:
    """Epochs since the last rise by more than ``min_delta``."""
    progress = Progress(history=[{"val/miou": miou} for miou in mious])
    assert is_stale(EarlyStoppingConfig(patience=patience, min_delta=min_delta), progress) is expected


def test_batch_norm_over_one_pixel_names_the_batch_size(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """DeepLabV3 pools to 1x1: batches of one cannot be normalised."""
    config = make_config(arch="DeepLabV3", arch_options={}, batch_size=1)
    with pytest.raises(ConfigError, match="needs batches of at least 2"):
        run(config, make_data(), tmp_path)


def test_odd_last_image_does_not_break_batch_norm(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Seven images in batches of three: the seventh joins the second batch."""
    assert run(make_config(arch="DeepLabV3", arch_options={}, epochs=1), make_data(num_train=7), tmp_path).epochs_run == 1


def test_image_size_that_an_architecture_cannot_take_is_rejected(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Before the first step, with what the library says."""
    config = make_config(arch="DPT", arch_options={}, encoder="tu-vit_tiny_patch16_224")
    with pytest.raises(ConfigError, match=r"'DPT' cannot take images of 32x32: Input height"):
        run(config, make_data(), tmp_path)


def test_validation_without_scored_pixels_is_rejected(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """There would be nothing to choose the best epoch by."""
    data = make_data()
    data.data.masks[data.split.val] = 0
    with pytest.raises(DataError, match="no pixel of a scored class"):
        run(make_config(), data, tmp_path)


def test_colour_images_of_odd_size_train(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Three channels, 40x40 pixels, in bfloat16 where it is asked for."""
    result = run(make_config(epochs=1, precision="bf16"), make_data(channels=3, size=40), tmp_path)
    assert result.facts["precision"] == "bf16"
    assert result.predictions is not None
    assert result.predictions.shape[2:] == (40, 40)


def test_facts_can_be_written_as_json(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """They go into the trial's result."""
    facts = run(make_config(epochs=1), make_data(), tmp_path).facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["num_parameters"] > 0
    assert facts["num_threads"] == 1
    assert facts["peak_memory_mb"] > 0


def test_unknown_device_is_rejected(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """The message says what there is."""
    with pytest.raises(ConfigError, match="device 'tpu9000' cannot be used"):
        train(make_config(), make_data(), seed=0, folder=tmp_path, compute=Compute("tpu9000"))


def test_every_batch_calls_back(tmp_path: Path, make_config: Config, make_data: Make) -> None:
    """Two batches of training and one of validation an epoch: a long validation shows signs of life."""
    calls: list[int] = []
    run(make_config(epochs=2), make_data(num_train=6, num_val=3), tmp_path, on_step=lambda: calls.append(1))
    assert len(calls) == 2 * (2 + 1)
