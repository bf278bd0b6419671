"""Search space -> Optuna's distributions, and back from a sampler's suggestions to a point; for searches.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.spec.model import Parameter, SearchSpec, SweepSpec
from orchestrator.spec.space import is_active


@dataclass(frozen=True)
class Dimension:
    """A parameter as Optuna sees it: categories must be scalars, so objects stand there as canonical JSON."""

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


def make_distributions(search: SearchSpec | None, rows: Sequence[str]) -> dict[str, Dimension]:
    """Dotted path -> dimension; for rows the one dimension ``row``."""
    if search is None:
        return {"row": _categories(rows)} if rows else {}
    return {parameter.path: _dimension(parameter) for parameter in search.space}


def _dimension(parameter: Parameter) -> Dimension:
    if parameter.choices is not None:
        return _categories(parameter.choices)
    low, high, step = parameter.low, parameter.high, parameter.step
    assert low is not None, "Parameter checks it"
    assert high is not None, "Parameter checks it"
    if parameter.is_integer:
        return Dimension(IntDistribution(int(low), int(high), log=parameter.log, step=int(step or 1)))
    return Dimension(FloatDistribution(float(low), float(high), log=parameter.log, step=step))


def _categories(choices: Sequence[Any]) -> Dimension:
    """Words and numbers stay as they are, for people who look into the study; mixed, JSON keeps 1, 1.0, true and '1' apart."""
    kinds = {type(choice) for choice in choices}
    are_plain = len(kinds) == 1 and kinds <= {str, int, float}
    decoded = {choice if are_plain else _canonical(choice): choice for choice in choices}
    return Dimension(CategoricalDistribution(tuple(decoded)), decoded)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def suggest_point(
    trial: optuna.Trial, spec: SweepSpec, search: SearchSpec, dimensions: Mapping[str, Dimension]
) -> dict[str, Any]:
    """Let the sampler choose each parameter that exists, given those chosen above it."""
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
