"""Names of Optuna 5's samplers and pruners with their options, so that a sweep file is checked without Optuna.

A test holds them to the library. Left out are options that take code, those that Optuna has given up, and ``seed``, which is
``search.seed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Method = Literal[
    "grid", "random", "tpe",
    "BruteForceSampler", "CmaEsSampler", "GPSampler", "NSGAIISampler", "NSGAIIISampler", "QMCSampler", "RandomSampler",
    "TPESampler",
]  # fmt: skip

PrunerName = Literal[
    "median", "asha", "hyperband", "wilcoxon",
    "HyperbandPruner", "MedianPruner", "NopPruner", "PatientPruner", "PercentilePruner", "SuccessiveHalvingPruner",
    "ThresholdPruner", "WilcoxonPruner",
]  # fmt: skip

Options = Mapping[str, tuple[type, ...]]
"""Option -> the types that it takes; a float takes whole numbers too."""

_GENETIC: Options = {
    "population_size": (int,),
    "mutation_prob": (float, type(None)),
    "crossover_prob": (float,),
    "swapping_prob": (float,),
}

SAMPLERS: Mapping[str, Options] = {
    "BruteForceSampler": {"avoid_premature_stop": (bool,)},
    "CmaEsSampler": {
        "n_startup_trials": (int,),
        "warn_independent_sampling": (bool,),
        "consider_pruned_trials": (bool,),
        "popsize": (int, type(None)),
        "use_separable_cma": (bool,),
        "with_margin": (bool,),
        "lr_adapt": (bool,),
    },
    "GPSampler": {"n_startup_trials": (int,), "deterministic_objective": (bool,), "warn_independent_sampling": (bool,)},
    "NSGAIISampler": _GENETIC,
    "NSGAIIISampler": {**_GENETIC, "dividing_parameter": (int,)},
    "QMCSampler": {"qmc_type": (str,), "scramble": (bool,), "warn_independent_sampling": (bool,)},
    "RandomSampler": {},
    "TPESampler": {
        "n_startup_trials": (int,),
        "n_ei_candidates": (int,),
        "multivariate": (bool, type(None)),
        "group": (bool,),
        "constant_liar": (bool,),
    },
}

NOT_METHODS: Mapping[str, str] = {
    "GridSampler": "write 'grid', which repeats and forgets no point",
    "PartialFixedSampler": "what is fixed stands in 'base' instead of in 'space'",
    "BaseSampler": "it is abstract",
    "BaseGASampler": "it is abstract",
}
"""Optuna's other samplers -> what to do instead."""

PRUNERS: Mapping[str, Options] = {
    "HyperbandPruner": {
        "min_resource": (int,),
        "max_resource": (int, str),
        "reduction_factor": (int,),
        "bootstrap_count": (int,),
    },
    "MedianPruner": {
        "n_startup_trials": (int,),
        "n_warmup_steps": (int,),
        "interval_steps": (int,),
        "n_min_trials": (int,),
    },
    "NopPruner": {},
    "PatientPruner": {"wrapped_pruner": (dict, type(None)), "patience": (int,), "min_delta": (float,)},
    "PercentilePruner": {
        "percentile": (float,),
        "n_startup_trials": (int,),
        "n_warmup_steps": (int,),
        "interval_steps": (int,),
        "n_min_trials": (int,),
    },
    "SuccessiveHalvingPruner": {
        "min_resource": (int, str),
        "reduction_factor": (int,),
        "min_early_stopping_rate": (int,),
        "bootstrap_count": (int,),
    },
    "ThresholdPruner": {
        "lower": (float, type(None)),
        "upper": (float, type(None)),
        "n_warmup_steps": (int,),
        "interval_steps": (int,),
    },
    "WilcoxonPruner": {"p_threshold": (float,), "n_startup_steps": (int,)},
}

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "PatientPruner": ("wrapped_pruner", "patience"),
    "PercentilePruner": ("percentile",),
}
"""Options without a default."""

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "CmaEsSampler": ("cmaes",),
    "GPSampler": ("scipy", "torch"),
    "QMCSampler": ("scipy",),
    "WilcoxonPruner": ("scipy",),
}
"""What Optuna imports for it when it is used."""

_SHORT: Mapping[str, str] = {
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "median": "MedianPruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
}


def class_name(name: str) -> str:
    """Optuna's own name of a sampler or pruner."""
    return _SHORT.get(name, name)
