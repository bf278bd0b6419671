"""Training steps of two networks in turn, in one process: what upsample.py and depthwise.py share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import nn

BATCH, HEIGHT, WIDTH, NUM_CLASSES, NUM_STEPS = 32, 64, 128, 5, 5


def images_per_s(networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """Median over NUM_STEPS steps of each, taken in turn after one that warms up; cross entropy, AdamW, random pictures."""
    pictures = torch.randn(BATCH, 1, HEIGHT, WIDTH).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, NUM_CLASSES, (BATCH, HEIGHT, WIDTH))
    optimizers = {name: torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True) for name, network in networks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(NUM_STEPS + 1):
        for name, network in networks.items():
            started = time.perf_counter()
            torch.nn.functional.cross_entropy(network(pictures), labels).backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            seconds[name].append(time.perf_counter() - started)
    return {name: BATCH / statistics.median(taken[1:]) for name, taken in seconds.items()}
