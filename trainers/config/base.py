"""Constants, the frozen base model, and checks of names that all parts of the configuration share."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

OBJECTIVE = "val/miou"
"""The metric by which epochs and trials are ranked."""

TRAINER_VERSION = 2
"""Part of every trial's key; raised by hand whenever the same configuration would give another result."""

CHECKPOINT_INTERVAL_S = 15.0
"""Default minimum time between two checkpoints."""

VOID = 255
"""Mask value of pixels that are neither trained on nor scored (padding, unlabelled)."""


class Config(BaseModel):
    """Immutable; rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def check_known(name: str, known: Iterable[str], what: str) -> str:
    """Return ``name`` if it is known; otherwise raise ValueError naming the nearest known one."""
    names = list(known)
    if name not in names:
        raise ValueError(describe_unknown(name, names, what))
    return name


def describe_unknown(name: str, known: Sequence[str], what: str) -> str:
    """Say that ``name`` is not a known one, which ones are, and the nearest of them."""
    listed = (", ".join(known) or "none") if len(known) <= 24 else f"{', '.join(known[:20])}, ... ({len(known)} in all)"
    return f"{name!r} is not a known {what}. Known: {listed}.{suggest(name, known)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or "" if none is near."""
    near = find_nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, in upper or lower case; None if none is near."""
    names = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return names[near[0]] if near else None


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 1:
        raise ValueError(f"{list(size)} is not a size: [height, width] in pixels, both positive")
    return size


Size = Annotated[tuple[int, int], AfterValidator(_check_size)]
"""(height, width) in pixels."""


def is_import_path(name: str) -> bool:
    """Whether ``name`` is the import path of custom code, ``package.module:attribute``."""
    return ":" in name
