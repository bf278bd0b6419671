"""Walks the pydantic models of a sweep file: which paths exist, and which types they hold."""

import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from trainers.config import DataConfig, TrainConfig

DATA_PREFIX = "data."
"""Paths with this prefix lead into ``data``; all others lead into ``base``."""


def variants(annotation: Any) -> Iterator[Any]:
    """Yield the types that a field may hold, without None: members of unions, without ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from variants(get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for member in get_args(annotation):
            yield from variants(member)
    elif annotation is not type(None):
        yield annotation


def model_for(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Return the model that ``value`` is meant for; among several, its ``name`` chooses. None where no model is allowed."""
    models = [kind for kind in variants(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    name = value.get("name") if isinstance(value, Mapping) else None
    for model in models:
        if "name" in model.model_fields and name in literals(model.model_fields["name"].annotation):
            return model
    return models[-1] if models else None


def literals(annotation: Any) -> tuple[Any, ...]:
    """Return the values that a ``Literal`` allows; empty for other types."""
    return tuple(value for v in variants(annotation) if get_origin(v) is Literal for value in get_args(v))


def element(annotation: Any) -> Any:
    """Return the type of the items of a list or a mapping; None for other types."""
    for variant in variants(annotation):
        if get_origin(variant) is tuple:
            return get_args(variant)[0]
        if get_origin(variant) is dict:
            return get_args(variant)[1]
    return None


@cache
def known_paths() -> Mapping[str, frozenset[Any]]:
    """Return every dotted path that a search space may set -> its types."""
    found: dict[str, frozenset[Any]] = {}

    def collect(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            path, kinds = prefix + name, list(variants(field.annotation))
            found[path] = found.get(path, frozenset()).union(get_origin(kind) or kind for kind in kinds)
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    collect(kind, f"{path}.")

    collect(TrainConfig, "")
    collect(DataConfig, DATA_PREFIX)
    return found


def is_known_path(path: str) -> bool:
    """Whether the path leads to a field, or into free options such as ``arch_options.decoder_channels``."""
    if path in known_paths():
        return True
    parents = (path[:i] for i, character in enumerate(path) if character == ".")
    return not path.endswith(".") and any(dict in known_paths().get(parent, ()) for parent in parents)


def is_whole(path: str, values: Iterable[Any]) -> bool:
    """Whether a range of ``values`` at ``path`` is of whole numbers; in free options the written values decide."""
    kinds = known_paths().get(path, frozenset())
    if int in kinds or float in kinds:
        return float not in kinds
    return all(isinstance(value, int) for value in values)


def are_related(one: str, other: str) -> bool:
    """Whether setting one path may change the value at the other: they are equal, or one is inside the other."""
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")
