"""``search.method`` and ``search.options`` -> one of Optuna's samplers; for searches.py."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, QMCSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from orchestrator.spec.model import SearchSpec
from orchestrator.spec.names import SAMPLERS, class_name


class SeededPerTrial(BaseSampler):
    """A sampler whose choices for a trial depend on the seed, the trial's number and the results so far, not on what ran before.

    A search that is interrupted and goes on proposes what it would have proposed anyway, and two dispatchers on one study do not
    propose the same.
    """

    def __init__(self, build: Callable[[int], BaseSampler], seed: int) -> None:
        self._build = build
        self._seed = seed
        self._inner = build(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        digest = hashlib.sha256(f"{self._seed}/{trial.number}".encode()).digest()
        self._inner = self._build(int.from_bytes(digest[:4], "big"))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        if not isinstance(self._inner, BruteForceSampler):  # all it does is to end Study.optimize, which nobody has called
            self._inner.after_trial(study, trial, state, values)


def build_sampler(search: SearchSpec) -> SeededPerTrial:
    """The sampler of a search.

    Raises:
        ValueError: Optuna refuses an option's value.
    """
    return SeededPerTrial(lambda seed: _build(search, seed), search.seed)


def _build(search: SearchSpec, seed: int) -> BaseSampler:
    name = class_name(search.method)
    options = {**_defaults(search, name), **search.options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)  # whoever names one wants it
        if name == "QMCSampler":  # its sequence hangs on its seed
            return QMCSampler(seed=search.seed, independent_sampler=RandomSampler(seed), **options)
        sampler: BaseSampler = getattr(optuna.samplers, name)(seed=seed, **options)
        return sampler


def _defaults(search: SearchSpec, name: str) -> dict[str, Any]:
    """What suits a sweep; under its own name a sampler is as Optuna has it."""
    if search.method == "tpe":  # where parameters are conditional, ``group`` samples jointly what exists together
        return {"multivariate": True, "group": any(p.when for p in search.space), "constant_liar": True}
    return {"warn_independent_sampling": False} if "warn_independent_sampling" in SAMPLERS[name] else {}
