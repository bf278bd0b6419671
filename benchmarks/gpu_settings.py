"""What a part of gpu.py is asked to do, and the results that it writes; used by gpu_parts.py and the modules of its parts."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.state.files import write_atomically

ENCODERS = ("mobilenet_v2", "resnet34")
ENDLESS = 100_000
"""Epochs of a training that is stopped from outside."""


@dataclass(frozen=True)
class Settings:
    """source: a .npz of the homework's layout. device: as torch calls it. limit_s: time of this part, from started_s (Unix time).

    measure_s: of each training. packed: trials at once. epochs, sweep_options: of Table 1. crop, crop_batch, num_crops: of the
    last part. fault: raise or hang, to test gpu.py.
    """

    source: str
    device: str
    scratch: str
    started_s: float = 0.0
    limit_s: float = 0.0
    measure_s: float = 4.0
    packed: tuple[int, ...] = (1, 2, 4, 8, 16)
    pack_s: float = 6.0
    epochs: int = 2
    sweep_options: tuple[str, ...] = ("resources.trials_per_gpu=8",)
    encoders: tuple[str, ...] = ENCODERS
    batch_size: int = 32
    crop: int = 512
    crop_batch: int = 16
    num_crops: int = 128
    fault: str | None = None

    @classmethod
    def read(cls, path: Path) -> Settings:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    @property
    def left_s(self) -> float:
        return self.started_s + self.limit_s - time.time()


class Results:
    """The part's results so far, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[str, Any] = {}

    def add(self, name: str, result: Any) -> None:
        self._results[name] = result
        write_atomically(self._path, json.dumps(self._results).encode())
        print(f"{name}: {result}", flush=True)

    def measure(self, name: str, measure: Callable[[], Any], settings: Settings, *, at_least_s: float) -> None:
        """Add a measurement, or why there is none; ``at_least_s``: it is left out if less time is left."""
        if settings.left_s < at_least_s:
            self.add(name, {"error": f"left out: only {settings.left_s:.0f} s were left"})
            return
        try:
            self.add(name, measure())
        except Exception as error:
            traceback.print_exc()
            self.add(name, {"error": f"{type(error).__name__}: {error}"[:500]})
