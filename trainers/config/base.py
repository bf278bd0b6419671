"""Constants, the frozen base model, and checks of names that all parts of the configuration share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
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
    if name in names:
        return name
    listed = (", ".join(names) or "none") if len(names) <= 24 else f"{', '.join(names[:20])}, ... ({len(names)} in all)"
    raise ValueError(f"{name!r} is not a known {what}. Known: {listed}.{suggest(name, names)}")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or "" if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 1:
        raise ValueError(f"{list(size)} is not a size: [height, width] in pixels, both positive")
    return size


Size = Annotated[tuple[int, int], AfterValidator(_check_size)]
"""(height, width) in pixels."""


def is_import_path(name: str) -> bool:
    """Whether ``name`` is the import path of custom code, ``package.module:attribute``."""
    return ":" in name
