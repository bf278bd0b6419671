"""What a sweep says about its runs beyond what their trials say themselves: names, rows of its table, fixed ensembles.

Imports no mlflow: the dispatcher's side makes these, the mirror's thread writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Run

_MAX_NAME = 250


_WEIGHT = "weight."


ROW, REPORTED, FORMER_ROW = "row", "reported", "former_row"
"""Tags: the row of the sweep's table, the figure published for it, and the row of an earlier form of the sweep file."""

MEAN = "mean"
"""Tag of an ensemble: how its members' probabilities are combined, if not as their arithmetic mean."""

WIDENING = "widening"
"""Tag of a chosen ensemble: by how much wider than by images alone intervals of its difference to others are."""

CHOSEN = "chosen_s"
"""Tag of a chosen ensemble: when that was done last, which its run's start does not say where it was chosen before."""

KEEP = "keep"
"""Tag of a sweep's experiment: which checkpoints it keeps."""

REMOVED = "checkpoint_removed"
"""Tag of a run whose checkpoint was removed: by what."""

CHECKPOINT, ORIGIN = "checkpoint", "goes_on_from"
"""Tags of a trial's run: which of its files another machine would go on from, until it has ended; what it has gone on from."""


@dataclass(frozen=True)
class RunLabel:
    """How one sweep calls a trial, which other sweeps may share and call otherwise. row: its id in the sweep's table."""

    name: str
    row: str | None = None
    reported: float | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The tags that are the sweep's own."""
        return make_row_tags(self.row, self.reported)


def make_row_tags(row: str | None, reported: float | None) -> dict[str, str]:
    """``row`` and ``reported`` as far as there are any."""
    values = {ROW: row, REPORTED: None if reported is None else f"{reported:g}"}
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class EnsembleRecord:
    """What is recorded of an ensemble; two with the same document are one run of their sweep.

    members: key -> weight. document: what ``ensemble.json`` will say. tags: further ones. files: uploaded under their own names.
    reason: why it has no figures; None where it has. flips: of the members that are averaged over other mirror images than they
    were validated with.
    """

    name: str
    members: Mapping[str, float]
    metrics: Mapping[str, float]
    document: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    reason: str | None = None
    flips: Mapping[str, str] = field(default_factory=dict)


def read_weights(run: Run) -> dict[str, float]:
    """Key -> weight of an ensemble's members."""
    return {key: float(weight) for key, weight in read_params(run, _WEIGHT).items()}


def legalize(names: Iterable[str]) -> list[str]:
    """Spell names, each given once, so that MLflow takes them; different names stay different, and legal ones as they are.

    A class may be called ``rock (big)``: allowed are letters, digits, space and ``_-.:/``, in paths without empty parts.
    """
    given = list(names)
    spelled = {name: _spell(name) for name in given}
    taken = {name for name in given if spelled[name] == name}
    for name in given:
        if spelled[name] == name:
            continue
        stem, number = spelled[name], 2
        while spelled[name] in taken:
            spelled[name], number = f"{stem[: _MAX_NAME - 8]} {number}", number + 1
        taken.add(spelled[name])
    return [spelled[name] for name in given]


def read_params(run: Run, prefix: str) -> dict[str, str]:
    """Parameters of a run whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in run.data.params.items() if name.startswith(prefix)}


def _spell(name: str) -> str:
    parts = re.sub(r"[^/\w.\- :]", "_", name)[:_MAX_NAME].split("/")
    return "/".join("_" if part in {"", ".", ".."} else part for part in parts)
