"""Times training steps of several networks, alternating in one process; used by upsample.py and depthwise.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import nn

BATCH, HEIGHT, WIDTH, NUM_CLASSES, NUM_STEPS = 32, 64, 128, 5, 5


def images_per_s(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Return the median speed of each network over NUM_STEPS steps after a warm-up; cross entropy, AdamW, random images."""
    images = torch.randn(BATCH, 1, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (BATCH, HEIGHT, WIDTH))
    optimizers = {name: torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(NUM_STEPS + 1):
        for name, network in networks.items():
            started = time.perf_counter()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            seconds[name].append(time.perf_counter() - started)
    return {name: BATCH / statistics.median(taken[1:]) for name, taken in seconds.items()}
