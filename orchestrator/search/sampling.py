"""Search space -> Optuna's sampler and distributions, and back from its suggestions to a point."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, QMCSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from orchestrator.spec.model import Parameter, SearchSpec, SweepSpec
from orchestrator.spec.sections import class_name
from orchestrator.spec.space import is_active


def build_sampler(search: SearchSpec) -> SeededPerTrial:
    """Build the sampler of a search.

    Raises:
        ValueError, TypeError: Optuna refuses the options.
    """
    return SeededPerTrial(lambda seed: _build(search, seed), search.seed)


def _build(search: SearchSpec, seed: int) -> BaseSampler:
    sampler: type[BaseSampler] = getattr(optuna.samplers, class_name(search.method))
    options: dict[str, Any] = {"seed": seed}  # a sampler named by its class keeps Optuna's own defaults
    warns = inspect.signature(sampler).parameters.get("warn_independent_sampling")
    if search.method == "tpe":  # with conditional parameters, ``group`` samples jointly those that exist together
        options |= {"multivariate": True, "group": any(p.when for p in search.space), "constant_liar": True}
    elif warns is not None and warns.default is True:
        options["warn_independent_sampling"] = False
    options |= search.options
    if sampler is QMCSampler:  # its sequence depends on the seed, so the seed must stay the same for all trials
        options |= {"seed": search.seed, "independent_sampler": RandomSampler(seed)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)  # a sweep file that names one accepts it
        return sampler(**options)


class SeededPerTrial(BaseSampler):
    """A sampler whose choices depend only on the seed, the trial's number and the results so far.

    An interrupted search proposes the same points when it resumes, and two dispatchers on one study propose different ones.
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
        if not isinstance(self._inner, BruteForceSampler):  # it would only end Study.optimize, which we do not call
            self._inner.after_trial(study, trial, state, values)


def suggest_point(
    trial: optuna.Trial, spec: SweepSpec, search: SearchSpec, dimensions: Mapping[str, Dimension]
) -> dict[str, Any]:
    """Let the sampler choose each parameter that exists, given the values of those above it."""
    params: dict[str, Any] = {}
    for parameter in search.space:
        if is_active(parameter, spec.base, spec.data, params):
            dimension = dimensions[parameter.path]
            params[parameter.path] = dimension.decode(_suggest(trial, parameter.path, dimension.distribution))
    return params


def _suggest(trial: optuna.Trial, path: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(path, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(path, distribution.low, distribution.high, log=distribution.log, step=distribution.step)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(path, distribution.low, distribution.high, log=distribution.log, step=distribution.step)


def make_dimensions(search: SearchSpec | None, rows: Sequence[str]) -> dict[str, Dimension]:
    """Return dotted path -> dimension; rows have the one dimension ``row``."""
    if search is None:
        return {"row": _categories(rows)} if rows else {}
    return {parameter.path: _dimension(parameter) for parameter in search.space}


def _dimension(parameter: Parameter) -> Dimension:
    if parameter.choices is not None:
        return _categories(parameter.choices)
    low, high, step = parameter.low, parameter.high, parameter.step
    assert low is not None, "Parameter validates it"
    assert high is not None, "Parameter validates it"
    if parameter.is_integer:
        return Dimension(IntDistribution(int(low), int(high), log=parameter.log, step=int(step or 1)))
    return Dimension(FloatDistribution(float(low), float(high), log=parameter.log, step=step))


def _categories(choices: Sequence[Any]) -> Dimension:
    """Keep choices of one plain type readable in the study; for mixed ones, JSON distinguishes 1, 1.0, true and '1'."""
    kinds = {type(choice) for choice in choices}
    are_plain = len(kinds) == 1 and kinds <= {str, int, float}
    decoded = {choice if are_plain else _canonical(choice): choice for choice in choices}
    return Dimension(CategoricalDistribution(tuple(decoded)), decoded)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True)
class Dimension:
    """A parameter in Optuna's terms. Its categories must be scalars, so objects become canonical JSON."""

    distribution: BaseDistribution
    decoded: Mapping[Any, Any] | None = None

    def encode(self, value: Any) -> Any:
        return value if self.decoded is None else self._codes[_canonical(value)]

    @cached_property
    def _codes(self) -> dict[str, Any]:
        """Choice as canonical JSON -> its category."""
        return {_canonical(choice): code for code, choice in (self.decoded or {}).items()}

    def decode(self, suggested: Any) -> Any:
        return suggested if self.decoded is None else self.decoded[suggested]
