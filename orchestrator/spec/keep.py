"""``keep`` in a sweep file: what of a sweep stays on the disk when it has ended."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from orchestrator.spec.part import Part
from orchestrator.spec.schema import nearest
from trainers.config import Flips

Rule = Literal["all", "none"] | int
"""Which checkpoints stay: every one, none, or those of the best N trials."""

WORDS = ("all", "none")


def _check_rule(value: Any) -> Any:
    if value in WORDS or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    found = "empty" if value is None else repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    hint = f" Did you mean {near!r}?" if isinstance(value, str) and (near := nearest(value, WORDS)) else ""
    raise ValueError(f"is {found}. Allowed: all, none, or a whole number from 1: those of the best N trials.{hint}")


class KeepSpec(Part):
    """What a sweep keeps when it has ended. Results, confusion matrices and predictions always stay, and so do the checkpoints of
    members of ensembles that were logged.

    The best are those of the highest val/miou; trials that were scored on other images or classes, such as those of another fold,
    are ranked apart. A trial that several sweeps share keeps its checkpoint while one of them wants it.

    predictions: ``u16`` stores those of the trials that the sweep trains in 16 bits too, for ``best-ensemble --audit``.
    flips: of each trial that the sweep trains a second set of predictions is stored, averaged over these mirror images, which
    ``best-ensemble`` may choose instead.
    """

    checkpoints: Annotated[Rule, BeforeValidator(_check_rule)] = "all"
    predictions: Literal["u8", "u16"] = "u8"
    flips: Flips = "none"
