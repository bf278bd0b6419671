"""Values computed for trials that have ended, kept on this machine: CIs and comparisons of thousands take minutes."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.state.files import replacing

VERSION = 2
"""Raised when a value is computed in another way."""

T = TypeVar("T")


def make_mark(*parts: object) -> str:
    """A name for what follows from ``parts``. Another numpy may draw other samples, which are paired only with its own."""
    said = repr([VERSION, np.__version__, *map(str, parts)])
    return hashlib.sha256(said.encode()).hexdigest()[:24]


class ValueCache:
    """One JSON file of values per choice of sweeps, and one file per trial for its bootstrap, which all choices share.

    Losing any of it costs only time. Several processes may use one folder; one thread uses each object.
    """

    def __init__(self, folder: Path, sweeps: Sequence[str], *, place: str) -> None:
        self._folder = folder
        self._file = folder / f"{make_mark(place, *sorted(sweeps))}.json"
        self._found = self._load()
        self._used: dict[str, dict[str, Any]] = defaultdict(dict)

    def recall(self, what: str, mark: str, compute: Callable[[], T]) -> T:
        """The cached value, as JSON has it, or what ``compute`` returns now."""
        used, found = self._used[what], self._found.get(what, {})
        if mark not in used:
            used[mark] = found[mark] if mark in found else compute()
        value: T = used[mark]
        return value

    def recall_drawn(self, mark: str, draw: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """The same for bootstrap replicates, (R,), exact to the last bit."""
        path = self._drawn(mark)
        try:
            drawn: NDArray[np.float64] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # none yet, or damaged: drawn again
            drawn = draw()
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as scratch, open(scratch, "wb") as file:
                np.save(file, drawn)
        return drawn

    def save(self, *, keep_unused: bool = False) -> None:
        """Write the values that were used; forget the others and their bootstraps, unless ``keep_unused``."""
        kept = dict(self._used)
        if keep_unused:
            kept = {what: self._found.get(what, {}) | self._used[what] for what in (*self._found, *kept)}
        if kept == self._found:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file) as scratch:
            scratch.write_text(json.dumps({"version": VERSION, "figures": kept}), encoding="utf-8")
        for mark in self._found.get("miou", {}).keys() - kept.get("miou", {}).keys():
            self._drawn(mark).unlink(missing_ok=True)

    def _drawn(self, mark: str) -> Path:
        return self._folder / "drawn" / f"{mark}.npy"

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            document = json.loads(self._file.read_bytes())
            values: dict[str, dict[str, Any]] = document["figures"]
            return values if document["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, damaged, or of another version: computed again
            return {}
