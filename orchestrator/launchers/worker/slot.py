"""slot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """What one attempt may use.

    visible_devices: the value of CUDA_VISIBLE_DEVICES; empty on the CPU.
    memory_mb: memory of the GPU, where it is known; of a slot that is held, the part of it that is the attempt's.
    most_per_gpu: attempts that may share the GPU; None: as many as its memory holds.
    """

    name: str
    visible_devices: str
    num_threads: int
    memory_mb: int | None = None
    most_per_gpu: int | None = 1

    @property
    def device(self) -> str:
        """As torch calls it."""
        return "cuda" if self.visible_devices else "cpu"
