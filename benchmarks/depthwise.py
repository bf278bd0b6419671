"""Training speed on the CPU with torch's depthwise convolutions and with trainers.models.depthwise.

    python benchmarks/depthwise.py [--threads 1]

Results (images/s, Unet, 64x128, batch 32, float32, channels last, one thread; median of 5 steps, alternating):
2026-11-22, AMD EPYC with AVX2, 2 cores, no other load: mobilenet_v2 26.8 -> 26.8, timm-mobilenetv3_small_100 43.2 -> 45.7,
timm-mobilenetv3_large_100 31.7 -> 32.6, timm-efficientnet-b1 18.3 -> 20.3 (1.00 to 1.11 times).
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from training_steps import NUM_CLASSES, images_per_s

from trainers.config import TrainConfig
from trainers.models.build import build_model, place_model

ENCODERS = ("mobilenet_v2", "timm-mobilenetv3_small_100", "timm-mobilenetv3_large_100", "timm-efficientnet-b1")


def build(encoder: str, *, fast: bool) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(TrainConfig(arch="Unet", encoder=encoder), in_channels=1, num_classes=NUM_CLASSES)
    if not fast:
        for layer in model.modules():
            if type(layer).__name__ == "_DepthwiseConv2d":
                layer.__class__ = nn.Conv2d
    return place_model(model, torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for encoder in ENCODERS:
        rate = images_per_s({name: build(encoder, fast=name == "ours") for name in ("torch", "ours")})
        ratio = rate["ours"] / rate["torch"]
        print(f"{encoder:28} torch {rate['torch']:5.1f}  ours {rate['ours']:5.1f} images/s  ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
