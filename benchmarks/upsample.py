"""Images per second of a training step of smp's U-Net on the CPU, as smp computes it and with trainers.upsample, in one process.

    python benchmarks/upsample.py [--threads 1]

Figures (images/s, 64x128, batch 32, float32, channels last, one thread; median of 5 steps, the two in turn):
2026-11-22, AMD EPYC with AVX2, 2 cores, other processes running: mobilenet_v2 15.5 -> 18.8 (1.21), with a small decoder
24.8 -> 29.1 (1.17), resnet18 11.7 -> 13.5 (1.15). With the matrix product in the deepest block: 14.5 -> 19.9 (1.37), 26.5 -> 30.1
(1.14), 11.1 -> 14.6 (1.32). bf16 and GPUs were not measured, so smp's own blocks compute there.
"""

from __future__ import annotations

import argparse
import statistics
import time

import segmentation_models_pytorch as smp
import torch

from trainers.upsample import cheapen_upsampling

BATCH, HEIGHT, WIDTH, NUM_CLASSES, NUM_STEPS = 32, 64, 128, 5, 5


def build_step(encoder: str, channels: tuple[int, ...], *, cheap: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = smp.Unet(encoder, encoder_weights=None, in_channels=1, classes=NUM_CLASSES, decoder_channels=channels)
    model = model.to(memory_format=torch.channels_last)
    if cheap:
        cheapen_upsampling(model)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def time_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, pictures: torch.Tensor, labels: torch.Tensor) -> float:
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
    for encoder, channels in (
        ("mobilenet_v2", (256, 128, 64, 32, 16)),
        ("mobilenet_v2", (64, 48, 32, 24, 16)),
        ("resnet18", (256, 128, 64, 32, 16)),
    ):
        sides = {name: build_step(encoder, channels, cheap=name == "ours") for name in ("smp", "ours")}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for step in range(NUM_STEPS + 1):
            for name, (model, optimizer) in sides.items():
                took_s = time_step(model, optimizer, pictures, labels)
                if step > 0:  # the first one warms up
                    seconds[name].append(took_s)
        rate = {name: BATCH / statistics.median(times) for name, times in seconds.items()}
        title = f"Unet/{encoder}, decoder {channels}"
        print(f"{title:60} smp {rate['smp']:6.1f}  ours {rate['ours']:6.1f}  ratio {rate['ours'] / rate['smp']:.2f}", flush=True)


if __name__ == "__main__":
    main()
