"""The parts `single` and `crops` of gpu.py: one training at a time, ours and the plain loop, and their share of the roofline."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import plain_script
import torch
from gpu_settings import ENDLESS, Results, Settings
from numpy.typing import NDArray
from roofline import Peaks, Work, count_work, measure_peaks

from trainers.config import DataConfig, TrainConfig
from trainers.data import DataSet, Split, SplitData, load_dataset, split_dataset
from trainers.device import Compute
from trainers.training.train import Callbacks, Continue, EpochReport, train

Pairs = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images with masks, (N, 2, H, W), for training and validation."""

FEEDS: tuple[Literal["loaders", "device"], ...] = ("loaders", "device")
"""Where batches are made, as in Compute."""


def run_single(settings: Settings, results: Results) -> None:
    """One trial at a time on the source."""
    peaks = measure_peaks(torch.device(settings.device))
    results.add("peaks", {"tflop_per_s": peaks.flops_per_s / 1e12, "copy_gb_per_s": peaks.bytes_per_s / 1e9})
    config = DataConfig(source=settings.source, ignore_classes=(0,))
    data = split_dataset(load_dataset(config), config, None)
    images, masks = data.data.images[..., 0], data.data.masks
    train_pairs, val_pairs = (np.stack([images[part], masks[part]], axis=1) for part in (data.split.train, data.split.val))
    compare(settings, results, data, (train_pairs, val_pairs), batch_size=settings.batch_size, peaks=peaks)


def run_crops(settings: Settings, results: Results) -> None:
    """The same comparison on large crops, of noise with the classes as bands of brightness."""
    rng = np.random.default_rng(0)
    num_val = max(2, settings.num_crops // 8)
    count, side = settings.num_crops + num_val, settings.crop
    masks = rng.integers(0, 5, (count, side // 16, side // 16), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    images = masks * 50 + rng.integers(0, 40, masks.shape, dtype=np.uint8)
    names = tuple(f"crop{i}" for i in range(count))
    classes = tuple(f"class{i}" for i in range(5))
    made = DataSet(images[..., None], masks, names, 5, classes, fingerprint="0" * 16, source="crops")
    split = Split(np.arange(settings.num_crops), np.arange(settings.num_crops, count))
    pairs = np.stack([images, masks], axis=1)
    peaks = measure_peaks(torch.device(settings.device))
    parts = (pairs[split.train], pairs[split.val])
    compare(settings, results, SplitData(made, split, (0,), "1" * 16), parts, batch_size=settings.crop_batch, peaks=peaks)


def compare(settings: Settings, results: Results, data: SplitData, pairs: Pairs, *, batch_size: int, peaks: Peaks) -> None:
    """Train each network with ours and with the plain loop; speeds with their share of what the device allows."""
    for encoder in settings.encoders:
        same = {"encoder": encoder, "batch_size": batch_size, "augmentation": "flip", "loss": {"name": "focal"}}
        config = TrainConfig.model_validate(same | {"epochs": ENDLESS})
        work = count_work(config, data.data.images.shape[1:3])
        trainings: dict[str, Callable[[], dict[str, float]]] = {
            "plain": partial(train_plain, settings, pairs, encoder, batch_size=batch_size),
            "plain, bf16": partial(train_plain, settings, pairs, encoder, batch_size=batch_size, bf16=True),
        }
        for feed in FEEDS:
            compute = Compute(settings.device, feed=feed)
            trainings[f"ours, {feed}"] = partial(train_ours, settings, data, config, compute)
        for name, training in trainings.items():
            measure = partial(_measure, training, work, peaks)
            results.measure(f"{encoder}: {name}", measure, settings, at_least_s=2 * settings.measure_s)


def _measure(training: Callable[[], dict[str, float]], work: Work, peaks: Peaks) -> dict[str, float]:
    speed = training()
    rate = speed["images_per_s"]
    return speed | {
        "of_matmul": rate * work.flops / peaks.flops_per_s,
        "of_copy": rate * work.num_bytes / peaks.bytes_per_s,
        "of_roofline": rate / peaks.images_per_s(work),
        "gflop_per_image": work.flops / 1e9,
        "mb_per_image": work.num_bytes / 1e6,
    }


def train_ours(settings: Settings, data: SplitData, config: TrainConfig, compute: Compute) -> dict[str, float]:
    """Train until the time is up; speed of the training alone, and with validation and checkpoints."""
    _free_memory(settings.device)
    ends_s: list[float] = []
    reports: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> Continue:
        ends_s.append(time.perf_counter())
        reports.append(report)
        return Continue.STOP if len(ends_s) > 2 and ends_s[-1] - ends_s[0] >= settings.measure_s else Continue.YES

    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
        train(config, data, seed=0, folder=Path(folder), compute=compute, callbacks=Callbacks(on_epoch))
    num_images = len(data.split.train)
    epoch_s = statistics.median(report.metrics["epoch_s"] for report in reports[1:])
    whole_s = (ends_s[-1] - ends_s[0]) / (len(ends_s) - 1)
    return {
        "images_per_s": num_images / epoch_s,
        "with_validation": num_images / whole_s,
        "first_epoch_s": ends_s[0] - started_s,
        "epochs": len(reports),
        "peak_memory_mb": reports[-1].peak_memory_mb,
    }


def train_plain(settings: Settings, pairs: Pairs, encoder: str, *, batch_size: int, bf16: bool = False) -> dict[str, float]:
    """The loop of plain_script.py. bf16: with the two lines that every guide recommends, autocast and channels_last."""
    _free_memory(settings.device)
    train_loader, val_loader = plain_script.make_loaders(*pairs, batch_size)
    smp = plain_script.smp
    model = smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=plain_script.NUM_CLASSES).to(settings.device)
    if bf16:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = plain_script.build_loss("focal", pairs[0])
    epochs_s, whole_s = [], []
    with torch.autocast(settings.device, dtype=torch.bfloat16, enabled=bf16):
        while len(epochs_s) < 2 or sum(whole_s[1:]) < settings.measure_s:
            started_s = time.perf_counter()
            plain_script.train_epoch(model, train_loader, loss, optimizer)
            epochs_s.append(time.perf_counter() - started_s)
            plain_script.validate(model, val_loader)
            whole_s.append(time.perf_counter() - started_s)
    num_images = len(pairs[0])
    return {
        "images_per_s": num_images / statistics.median(epochs_s[1:]),
        "with_validation": num_images / statistics.median(whole_s[1:]),
        "first_epoch_s": whole_s[0],
        "epochs": len(epochs_s),
        "peak_memory_mb": torch.cuda.max_memory_reserved() / 2**20 if settings.device == "cuda" else 0.0,
    }


def _free_memory(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
