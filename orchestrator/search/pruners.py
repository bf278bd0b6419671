"""``pruner`` in a sweep file -> one of Optuna's pruners; for pruning.py."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.pruners import BasePruner

from orchestrator.spec.names import class_name
from orchestrator.spec.pruner import PrunerSpec


def build_pruner(spec: PrunerSpec) -> BasePruner:
    """The pruner, with the one that it wraps.

    Raises:
        ValueError, TypeError: Optuna refuses the options.
    """
    options: dict[str, Any] = dict(spec.options)
    if isinstance(options.get("wrapped_pruner"), dict):
        options["wrapped_pruner"] = build_pruner(PrunerSpec.model_validate(options["wrapped_pruner"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)  # whoever names one wants it
        pruner: BasePruner = getattr(optuna.pruners, class_name(spec.name))(**options)
        return pruner
