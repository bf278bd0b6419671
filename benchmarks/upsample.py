"""Training speed of smp's U-Net on the CPU with smp's decoder blocks and with trainers.models.upsample.

    python benchmarks/upsample.py [--threads 1]

Results (images/s, 64x128, batch 32, float32, channels last, one thread; median of 5 steps, alternating):
2026-11-22, AMD EPYC with AVX2, 2 cores, other processes running: mobilenet_v2 15.5 -> 18.8 (1.21), with a small decoder
24.8 -> 29.1 (1.17), resnet18 11.7 -> 13.5 (1.15). With the matrix product in the deepest block: 14.5 -> 19.9 (1.37), 26.5 -> 30.1
(1.14), 11.1 -> 14.6 (1.32). bf16 and GPUs were not measured, so they use smp's blocks.
"""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch
from training_steps import NUM_CLASSES, images_per_s

from trainers.models.upsample import use_fast_upsampling


def build(encoder: str, channels: tuple[int, ...], *, fast: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    network = smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=NUM_CLASSES, decoder_channels=channels)
    if fast:
        use_fast_upsampling(network)
    return network.to(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for encoder, channels in (
        ("mobilenet_v2", (256, 128, 64, 32, 16)),
        ("mobilenet_v2", (64, 48, 32, 24, 16)),
        ("resnet18", (256, 128, 64, 32, 16)),
    ):
        rate = images_per_s({name: build(encoder, channels, fast=name == "ours") for name in ("smp", "ours")})
        title = f"Unet/{encoder}, decoder {channels}"
        print(f"{title:60} smp {rate['smp']:6.1f}  ours {rate['ours']:6.1f}  ratio {rate['ours'] / rate['smp']:.2f}", flush=True)


if __name__ == "__main__":
    main()
