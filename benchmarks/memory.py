"""Images per second of a training step on the CPU with glibc's usual memory and with what a worker does, each in a fresh process.

    python benchmarks/memory.py

Unet/mobilenet_v2, 64x128, batch 32, float32, channels last, one thread; usual and ours in turn.
Figures:
2026-11-22, AMD EPYC with AVX2, 2 cores: 18.3 and 19.8 images/s as usual (53,000 to 86,000 page faults a step), 26.0 with both
measures of a worker (216 faults); 21.8 with mallopt alone, 20.4 with huge pages alone.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

BATCH, NUM_STEPS, NUM_ROUNDS = 32, 6, 2


def measure(name: str) -> None:
    if name == "ours":
        from orchestrator.process import keep_memory

        keep_memory()
    import torch

    from trainers.config import TrainConfig
    from trainers.models import build_model

    torch.set_num_threads(1)
    model = build_model(TrainConfig(), in_channels=1, num_classes=5).to(memory_format=torch.channels_last)
    pictures = torch.rand(BATCH, 1, 64, 128).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 5, (BATCH, 64, 128))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for step in range(NUM_STEPS + 2):
        if step == 2:  # the first two warm up
            started, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    rate = BATCH * NUM_STEPS / (time.perf_counter() - started)
    num_faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) // NUM_STEPS
    print(f"{name:6} {rate:6.1f} images/s  {num_faults:7} page faults a step", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        for _ in range(NUM_ROUNDS):
            for side in ("usual", "ours"):
                subprocess.run([sys.executable, __file__, side], check=True)
