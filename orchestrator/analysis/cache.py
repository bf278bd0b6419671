"""What was computed of trials that have ended, kept on this machine: intervals and comparisons of thousands take minutes."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.state.files import replacing

FIGURES_VERSION = 2
"""Raised when they are computed otherwise."""

T = TypeVar("T")


def make_mark(*parts: object) -> str:
    """A name for what follows from ``parts``. Another numpy may draw other samples, which are paired with its own only."""
    said = repr([FIGURES_VERSION, np.__version__, *map(str, parts)])
    return hashlib.sha256(said.encode()).hexdigest()[:24]


class Figures:
    """Figures of a choice of one place's sweeps in a JSON file, and a file for the bootstrap of each trial, which choices share.

    What was not asked for between two saves is forgotten. Losing any of it costs time. Several processes may use one folder, each
    object is used by one thread.
    """

    def __init__(self, folder: Path, sweeps: Sequence[str], *, place: str) -> None:
        self._folder = folder
        self._file = folder / f"{make_mark(place, *sorted(sweeps))}.json"
        self._found = self._load()
        self._kept: dict[str, dict[str, Any]] = defaultdict(dict)
        self._has_new = False

    def recall(self, what: str, mark: str, compute: Callable[[], T]) -> T:
        """What was computed earlier, as JSON has it, or what ``compute`` returns now."""
        known = self._found.get(what, {})
        if mark in known:
            value: T = known[mark]
        else:
            value, self._has_new = compute(), True
        self._kept[what][mark] = value
        return value

    def recall_drawn(self, mark: str, draw: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """The same of bootstrap replicates, (R,): what comes of these again is the same to the last bit."""
        path = self._drawn(mark)
        try:
            drawn: NDArray[np.float64] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # none yet, or torn: drawn again
            drawn = draw()
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as scratch, open(scratch, "wb") as file:
                np.save(file, drawn)
        return drawn

    def save(self) -> None:
        """Write what was asked for, if it is not what was found, and remove the bootstraps of what was not."""
        if not self._has_new and all(len(self._kept.get(what, {})) == len(known) for what, known in self._found.items()):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file) as scratch:
            scratch.write_text(json.dumps({"version": FIGURES_VERSION, "figures": self._kept}), encoding="utf-8")
        for mark in self._found.get("miou", {}).keys() - self._kept["miou"].keys():
            self._drawn(mark).unlink(missing_ok=True)

    def _drawn(self, mark: str) -> Path:
        return self._folder / "drawn" / f"{mark}.npy"

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            document = json.loads(self._file.read_bytes())
            figures: dict[str, dict[str, Any]] = document["figures"]
            return figures if document["version"] == FIGURES_VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, torn, or another's: computed again
            return {}
