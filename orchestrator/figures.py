"""What was computed of finished trials for a leaderboard, kept on this machine: intervals and ties of thousands take minutes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES_VERSION = 1
"""Raised when they are computed otherwise."""


@dataclass(frozen=True)
class Figures:
    """Of a trial that has ended, and so for good. config: as documents show it."""

    config: dict[str, Any]
    miou: float
    ci95: tuple[float, float]


class FigureCache:
    """The figures of one choice of sweeps, in one file; what was not asked for between two saves is forgotten."""

    def __init__(self, folder: Path, sweeps: Sequence[str]) -> None:
        name = hashlib.sha256("\n".join(sorted(sweeps)).encode()).hexdigest()[:12]
        self._file = folder / f"{name}.json"
        self._found, self._ties = self._load()
        self._kept: dict[str, Figures] = {}
        self._kept_ties: dict[str, bool] = {}

    def find(self, identity: str) -> Figures | None:
        return self._found.get(identity)

    def keep(self, identity: str, figures: Figures) -> None:
        self._kept[identity] = figures

    def find_tie(self, best: str, other: str) -> bool | None:
        """Whether two are told apart; None where that is not known."""
        return self._ties.get(f"{best} {other}")

    def keep_tie(self, best: str, other: str, *, is_tied: bool) -> None:
        self._kept_ties[f"{best} {other}"] = is_tied

    def save(self) -> None:
        """Write what was kept, if it is not what was found."""
        if (self._kept, self._kept_ties) == (self._found, self._ties):
            return
        figures = {identity: [f.config, f.miou, *f.ci95] for identity, f in self._kept.items()}
        document = {"version": FIGURES_VERSION, "figures": figures, "ties": self._kept_ties}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.replace(self._file)

    def _load(self) -> tuple[dict[str, Figures], dict[str, bool]]:
        try:
            document = json.loads(self._file.read_bytes())
            if document["version"] != FIGURES_VERSION:
                return {}, {}
            listed = document["figures"].items()
            return {name: Figures(config, miou, (low, high)) for name, (config, miou, low, high) in listed}, document["ties"]
        except (OSError, ValueError, KeyError, TypeError):  # none yet, torn, or another's: computed again
            return {}, {}
