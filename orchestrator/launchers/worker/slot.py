"""What an attempt may use of a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A share of a GPU, or of the CPU.

    visible_devices: the value of CUDA_VISIBLE_DEVICES; empty on the CPU.
    memory_mb: memory of the GPU, if known; in a held slot, the attempt's part of it.
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
