"""Points of a search space: builds their configurations, says which parameters exist there, and enumerates them."""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from orchestrator.errors import SpecError
from orchestrator.spec.diagnostics import Complaint, validate
from orchestrator.spec.document import Place, write_place
from orchestrator.spec.model import Parameter, Row, SearchSpec
from orchestrator.spec.schema import DATA_PREFIX, are_related
from trainers.config import DataConfig, TrainConfig

Params = Mapping[str, Any]
"""Dotted path -> chosen value, in the order of the space, without parameters that do not exist at this point."""

MAX_POINTS = 10_000
"""Limit of a grid: more would be a typing error, such as in the step of a range."""

SOURCE_PATHS = ("source", "synthetic", "num_classes", "class_names", "id_map", "size", "fit", "color", "split_lists", "clean")
"""Fields of ``data`` that decide what is read and prepared; the others decide how it is split and used."""


class BuildError(SpecError):
    """A point's values make no valid configuration; ``complaints`` have places such as ``loss.gamma`` or ``data.limit``."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(f"{write_place(c.place)}{c.text}" for c in complaints))
        self.complaints = tuple(complaints)


def build_point(train: TrainConfig, data: DataConfig, params: Params) -> tuple[TrainConfig, DataConfig]:
    """Return ``train`` and ``data`` with each parameter's value at its path; an object replaces the previous one completely.

    Raises:
        BuildError: the values do not fit their fields, or each other.
    """
    raw_train, raw_data = _to_raw(train), _to_raw(data)
    for path, value in params.items():
        if path.startswith(DATA_PREFIX):
            _assign(raw_data, path.removeprefix(DATA_PREFIX).split("."), copy.deepcopy(value))
        else:
            _assign(raw_train, path.split("."), copy.deepcopy(value))
    return _validate(raw_train, raw_data)


def build_row(train: TrainConfig, data: DataConfig, row: Row) -> tuple[TrainConfig, DataConfig]:
    """Return ``train`` and ``data`` merged with a row's values; an object with another ``name`` replaces the one in base.

    Raises:
        BuildError: the values do not fit their fields, or each other.
    """
    return _validate(_merge(_to_raw(train), row.train), _merge(_to_raw(data), row.data))


def _to_raw(model: BaseModel) -> dict[str, Any]:
    """Return all fields as JSON; objects hold only non-default values, so that a new ``name`` inherits none of the old ones."""
    raw: dict[str, Any] = model.model_dump(mode="json")
    for field in type(model).model_fields:
        value = getattr(model, field)
        if isinstance(value, BaseModel):
            raw[field] = value.model_dump(mode="json", exclude_defaults=True)
            if hasattr(value, "name"):
                raw[field]["name"] = value.name
    return raw


def _assign(raw: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    for part in parts[:-1]:
        if not isinstance(raw.get(part), dict):
            raw[part] = {}
        raw = raw[part]
    raw[parts[-1]] = value


def _merge(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(raw)
    for key, value in changes.items():
        old = merged.get(key)
        is_same_kind = isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name")
        merged[key] = _merge(old, value) if is_same_kind and isinstance(old, dict) else value
    return merged


def _validate(raw_train: dict[str, Any], raw_data: dict[str, Any]) -> tuple[TrainConfig, DataConfig]:
    train, complaints = validate(TrainConfig, raw_train)
    data, more = validate(DataConfig, raw_data, ("data",))
    if train is None or data is None:
        raise BuildError([*complaints, *more])
    return train, data


def is_active(parameter: Parameter, train: TrainConfig, data: DataConfig, params: Params) -> bool:
    """Whether the parameter's ``when`` holds in the configuration that the ``params`` above it make.

    Raises:
        BuildError: ``params`` make no valid configuration.
    """
    if not parameter.when:
        return True
    train, data = build_point(train, data, params)
    for path, wanted in parameter.when.items():
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        found: Any = data if path.startswith(DATA_PREFIX) else train
        for part in path.removeprefix(DATA_PREFIX).split("."):
            found = found.get(part, _ABSENT) if isinstance(found, dict) else getattr(found, part, _ABSENT)
        if not any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in allowed):
            return False
    return True


_ABSENT = object()


def enumerate_points(
    parameters: Sequence[Parameter],
    train: TrainConfig,
    data: DataConfig,
    *,
    values: Callable[[Parameter], Sequence[Any]],
    params: Params | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield every combination of ``values`` that the conditions allow; the last parameter changes fastest.

    Values that make no valid configuration are yielded as they are: building them raises the error.
    """
    params = dict(params or {})
    if not parameters:
        yield params
        return
    first, rest = parameters[0], parameters[1:]
    try:
        is_here = is_active(first, train, data, params)
    except BuildError:
        yield params
        return
    for chosen in [{first.path: value} for value in values(first)] if is_here else [{}]:
        yield from enumerate_points(rest, train, data, values=values, params={**params, **chosen})


def group_parameters(search: SearchSpec) -> list[list[Parameter]]:
    """Group parameters that may depend on each other; the validity of one group does not depend on another.

    Equal and nested paths are related, and so are conditions and their paths, and all fields that decide which data are prepared.
    """
    groups: list[list[Parameter]] = []
    for parameter in search.space:
        touching = [g for g in groups if any(_are_together(parameter, other) for other in g)]
        for group in touching:
            groups.remove(group)
        groups.append([*itertools.chain(*touching), parameter])
    order = {p.path: i for i, p in enumerate(search.space)}
    return [sorted(group, key=lambda p: order[p.path]) for group in groups]


def _are_together(one: Parameter, other: Parameter) -> bool:
    if reads_source(one.path) and reads_source(other.path):
        return True
    return any(are_related(a, b) for a in (one.path, *(one.when or ())) for b in (other.path, *(other.when or ())))


def reads_source(path: str) -> bool:
    """Whether a parameter decides which data are read and prepared."""
    return path.startswith(DATA_PREFIX) and path.removeprefix(DATA_PREFIX).split(".")[0] in SOURCE_PATHS


def sample_points(search: SearchSpec, train: TrainConfig, data: DataConfig) -> Iterator[dict[str, Any]]:
    """Yield points that together hold every choice of every parameter, in every context that could matter to it.

    Each group of related parameters is enumerated (up to MAX_POINTS points) while the others stay at their first point.
    """

    def values(parameter: Parameter) -> tuple[Any, ...]:
        return parameter.values or (parameter.low, parameter.high)

    groups = [enumerate_points(group, train, data, values=values) for group in group_parameters(search)]
    points = [list(itertools.islice(group, MAX_POINTS)) for group in groups]
    for i, group_points in enumerate(points):
        for point in group_points:
            others = [p[0] for j, p in enumerate(points) if j != i]
            merged = {path: value for part in (point, *others) for path, value in part.items()}
            yield {p.path: merged[p.path] for p in search.space if p.path in merged}


def place_of(search: SearchSpec | None, params: Params, place: Place) -> Place:
    """Return where in the sweep file a place of the built configuration, such as ``loss.gamma``, gets its value."""
    for parameter in reversed(search.space if search else ()):
        parts = tuple(parameter.path.split("."))
        if parameter.path in params and place[: len(parts)] == parts:
            at: Place = ("search", "space", parameter.path)
            if parameter.choices is None:
                return at
            return (*at, *_index(parameter.choices, params[parameter.path]), *place[len(parts) :])
    return place if place[:1] == ("data",) else ("base", *place)


def _index(choices: Sequence[Any], value: Any) -> tuple[int, ...]:
    written = json.dumps(value, sort_keys=True)
    return tuple(i for i, choice in enumerate(choices) if json.dumps(choice, sort_keys=True) == written)[:1]


def fits(search: SearchSpec, train: TrainConfig, data: DataConfig, params: Params) -> bool:
    """Whether ``params`` are a point of this space: an allowed value for every parameter that exists there, and no others."""
    chosen: dict[str, Any] = {}
    for parameter in search.space:
        if not is_active(parameter, train, data, chosen):
            continue
        if parameter.path not in params:
            return False
        value = chosen[parameter.path] = params[parameter.path]
        if parameter.values is not None:
            is_allowed = bool(_index(parameter.values, value))
        else:
            is_number = isinstance(value, int if parameter.is_integer else int | float) and not isinstance(value, bool)
            is_allowed = is_number and parameter.low <= value <= parameter.high
        if not is_allowed:
            return False
    return chosen.keys() == params.keys()
