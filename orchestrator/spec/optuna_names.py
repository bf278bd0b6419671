"""Names of Optuna's samplers and pruners, to read a sweep file without importing Optuna; search.options asks Optuna itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Method = Literal[
    "grid", "random", "tpe",
    "BruteForceSampler", "CmaEsSampler", "GPSampler", "NSGAIISampler", "NSGAIIISampler", "QMCSampler", "RandomSampler",
    "TPESampler",
]  # fmt: skip

NOT_METHODS: Mapping[str, str] = {
    "GridSampler": "write 'grid', which repeats no point and resumes after a kill",
    "PartialFixedSampler": "put fixed values into 'base' instead of 'space'",
    "BaseSampler": "it is abstract",
    "BaseGASampler": "it is abstract",
}
"""Optuna's other samplers -> what to do instead."""

PrunerName = Literal[
    "median", "asha", "hyperband", "wilcoxon",
    "HyperbandPruner", "MedianPruner", "NopPruner", "PatientPruner", "PercentilePruner", "SuccessiveHalvingPruner",
    "ThresholdPruner", "WilcoxonPruner",
]  # fmt: skip

_ALIASES: Mapping[str, str] = {
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "median": "MedianPruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
}


def class_name(name: str) -> str:
    """Return Optuna's class name of a sampler or pruner."""
    return _ALIASES.get(name, name)


def compares_trials(pruner: str) -> bool:
    """Whether the pruner compares finished trials of configurations; all others compare epochs."""
    return class_name(pruner) == "WilcoxonPruner"
