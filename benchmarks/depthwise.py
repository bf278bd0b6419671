"""Images per second of a training step on the CPU, with torch's depthwise convolutions and with trainers.depthwise.

    python benchmarks/depthwise.py [--threads 1]

Figures (images/s, Unet, 64x128, batch 32, float32, channels last, one thread; median of 5 steps, the two in turn):
2026-11-22, AMD EPYC with AVX2, 2 cores, four other processes running, which is too many to trust it: mobilenet_v2 9.1 -> 9.3,
timm-mobilenetv3_small_100 15.3 -> 14.5, timm-mobilenetv3_large_100 9.7 -> 9.9, timm-efficientnet-b1 6.1 -> 7.3.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from trainers.config import TrainConfig
from trainers.models import build_model, place_model

BATCH, HEIGHT, WIDTH, NUM_CLASSES, NUM_STEPS = 32, 64, 128, 5, 5
ENCODERS = ("mobilenet_v2", "timm-mobilenetv3_small_100", "timm-mobilenetv3_large_100", "timm-efficientnet-b1")


def build_step(encoder: str, *, quick: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = build_model(TrainConfig(arch="Unet", encoder=encoder), in_channels=1, num_classes=NUM_CLASSES)
    if not quick:
        for layer in model.modules():
            if type(layer).__name__ == "_DepthwiseConv2d":
                layer.__class__ = nn.Conv2d
    model = place_model(model, torch.device("cpu"))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def time_step(model: nn.Module, optimizer: torch.optim.Optimizer, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.nn.functional.cross_entropy(model(pictures), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    pictures = torch.randn(BATCH, 1, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (BATCH, HEIGHT, WIDTH))
    for encoder in ENCODERS:
        sides = {name: build_step(encoder, quick=name == "ours") for name in ("torch", "ours")}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for step in range(NUM_STEPS + 1):
            for name, (model, optimizer) in sides.items():
                took_s = time_step(model, optimizer, pictures, labels)
                if step > 0:  # the first one warms up
                    seconds[name].append(took_s)
        torchs, ours = (BATCH / statistics.median(seconds[name]) for name in ("torch", "ours"))
        print(f"{encoder:28} torch {torchs:5.1f}  ours {ours:5.1f} images/s  ratio {ours / torchs:.2f}")


if __name__ == "__main__":
    main()
