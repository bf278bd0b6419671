"""How fast a device can train a network at best: arithmetic and memory traffic of a training step over the device's peaks.

FLOPs of a step: three times those of the forward pass, which torch.utils.flop_counter counts. The counter itself gives too many
for the backward pass of grouped convolutions, which MobileNet is full of. Traffic: each operation of the forward and backward
pass reads its operands from memory and writes its results, as without fusion, in bfloat16; AdamW moves 28 bytes per parameter.
A step takes at least the longer of FLOPs / peak FLOP/s and bytes / peak bytes/s. Peaks are measured: a large matrix product in
bfloat16 and a large copy. Fused operations, such as those of a compiler, may beat the bound on traffic.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from trainers.config import TrainConfig
from trainers.models.build import build_model

ADAMW_BYTES = 28
"""Per parameter and step: weight, gradient and both moments are read, all but the gradient are written, in float32."""

NUM_REPEATS = 10


@dataclass(frozen=True)
class Peaks:
    """Measured rates of a device. bytes_per_s counts bytes read and bytes written."""

    flops_per_s: float
    bytes_per_s: float

    def images_per_s(self, work: Work) -> float:
        """The most images per second that both peaks allow."""
        return 1 / max(work.flops / self.flops_per_s, work.num_bytes / self.bytes_per_s)


@dataclass(frozen=True)
class Work:
    """What training on one image takes, as part of a batch."""

    flops: float
    num_bytes: float


def measure_peaks(device: torch.device) -> Peaks:
    """Time a matrix product and a copy on random data; both take milliseconds, much longer than the call."""
    is_cuda = device.type == "cuda"
    size, num_bytes, dtype = (8192, 2**32, torch.bfloat16) if is_cuda else (512, 2**24, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randint(0, 256, (num_bytes,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    product_s = _median_s(lambda: left @ right, is_cuda=is_cuda)
    copy_s = _median_s(lambda: target.copy_(source), is_cuda=is_cuda)
    return Peaks(2 * size**3 / product_s, 2 * num_bytes / copy_s)


def count_work(config: TrainConfig, size: tuple[int, int], *, in_channels: int = 1, num_classes: int = 5) -> Work:
    """Count on tensors without data, so that nothing is computed."""
    model = build_model(config, in_channels=in_channels, num_classes=num_classes).to("meta", torch.bfloat16).train()
    images = torch.empty(config.batch_size, in_channels, *size, device="meta", dtype=torch.bfloat16)
    with FlopCounterMode(display=False) as flops:
        model(images)
    with _Traffic() as traffic:
        model(images).sum().backward()
    num_bytes = traffic.num_bytes + ADAMW_BYTES * sum(parameter.numel() for parameter in model.parameters())
    return Work(3 * flops.get_total_flops() / config.batch_size, num_bytes / config.batch_size)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of all operands and results; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in str(func):
            tensors = (leaf for leaf in tree_leaves((args, kwargs, results)) if isinstance(leaf, torch.Tensor))
            self.num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return results


def _median_s(run: Callable[[], object], *, is_cuda: bool) -> float:
    seconds = []
    for _ in range(3 + NUM_REPEATS):
        started_s = time.perf_counter()
        run()
        if is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds[3:])
