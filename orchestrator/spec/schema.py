"""Which places a sweep file has: walks the pydantic models, for nearest names and for the paths of a search space."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from trainers.config import DataConfig, TrainConfig

DATA_PREFIX = "data."
"""Paths into the data begin with it; all others lead into ``base``."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like ``name``, if one does."""
    names = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.55)
    return names[near[0]] if near else None


def variants(annotation: Any) -> Iterator[Any]:
    """The types that a field may hold, without None: members of unions, stripped of ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from variants(get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for member in get_args(annotation):
            yield from variants(member)
    elif annotation is not type(None):
        yield annotation


def models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models among the types that a field may hold."""
    return [v for v in variants(annotation) if isinstance(v, type) and issubclass(v, BaseModel)]


def model_for(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model that ``value`` was meant for; among several, the one that its ``name`` chooses."""
    candidates = models(annotation)
    name = value.get("name") if isinstance(value, Mapping) else None
    for candidate in candidates:
        if name in literals(candidate.model_fields["name"].annotation if "name" in candidate.model_fields else None):
            return candidate
    return candidates[-1] if candidates else None


def literals(annotation: Any) -> tuple[Any, ...]:
    """The values that a ``Literal`` allows; empty for other types."""
    return tuple(value for v in variants(annotation) if get_origin(v) is Literal for value in get_args(v))


def element(annotation: Any) -> Any:
    """What a list or a mapping of this type holds; None where it is neither."""
    for variant in variants(annotation):
        if get_origin(variant) is tuple:
            return get_args(variant)[0]
        if get_origin(variant) is dict:
            return get_args(variant)[1]
    return None


@cache
def known_paths() -> Mapping[str, frozenset[Any]]:
    """Every dotted path that a search space may set -> the types that stand there."""
    found: dict[str, set[Any]] = {}
    _collect(TrainConfig, "", found)
    _collect(DataConfig, DATA_PREFIX, found)
    return {path: frozenset(kinds) for path, kinds in found.items()}


def _collect(model: type[BaseModel], prefix: str, found: dict[str, set[Any]]) -> None:
    for name, field in model.model_fields.items():
        kinds = found.setdefault(prefix + name, set())
        for variant in variants(field.annotation):
            kinds.add(get_origin(variant) or variant)
            if isinstance(variant, type) and issubclass(variant, BaseModel):
                _collect(variant, f"{prefix}{name}.", found)


def is_known_path(path: str) -> bool:
    """Whether the path leads to a field, or into a mapping of free options such as ``arch_options.decoder_channels``."""
    if path in known_paths():
        return True
    parents = (path[:i] for i, character in enumerate(path) if character == ".")
    return not path.endswith(".") and any(dict in known_paths().get(parent, ()) for parent in parents)


def is_whole(path: str, values: Iterable[Any]) -> bool:
    """Whether a range of ``values`` at ``path`` is one of whole numbers; free options go by how the values were written."""
    kinds = known_paths().get(path, frozenset())
    if int in kinds or float in kinds:
        return float not in kinds
    return all(isinstance(value, int) for value in values)


def are_related(one: str, other: str) -> bool:
    """Whether setting one of the paths may change what the other finds: the same one, or one inside the other."""
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")
