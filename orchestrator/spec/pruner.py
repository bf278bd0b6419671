"""``pruner`` and ``stop`` in a sweep file: when a configuration is given up, and when a search is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator.spec.names import PrunerName
from orchestrator.spec.part import Part


class StopSpec(Part):
    """When a sampled search ends early: after so many finished configurations without one that is better by ``min_delta``."""

    no_improvement: int = Field(ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class PrunerSpec(Part):
    """What gives up configurations that look worse than others: one of Optuna's pruners.

    It compares epochs of a configuration's first trial. Wilcoxon's compares finished trials (folds and seeds) or, with ``over:
    images``, the validation images of these trials.
    """

    name: PrunerName
    over: Literal["trials", "images"] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Handed to the pruner."""
