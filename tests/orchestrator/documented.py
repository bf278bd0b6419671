"""The fields of ``--json`` that docs/reference/json.md documents, to compare with what the commands print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md"

BY_NAME = {"classes", "class_iou", "class_gains", "trials"}
"""Objects with a field for each class, member or state; lists of the same name hold objects with documented fields."""

OPAQUE = {"config", "metrics"}
"""Objects whose fields come from the sweep file or the trainer."""


def documented_fields(command: str) -> set[str]:
    """Every name in the first column of the command's table."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## `{command}`\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\|([^|]*`[^|]*)\|", section, re.MULTILINE)
    assert cells, f"{PAGE.name} has no table for {command}"
    return {name for cell in cells for path in re.findall(r"`([^`]+)`", cell) for name in re.findall(r"\w+", path)}


def fields_of(document: Any) -> set[str]:
    """Every field of a document, at any depth."""
    return set(_walk(document))


def _walk(value: Any, *, are_names: bool = True) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if are_names:
                yield name
            if name not in OPAQUE:
                yield from _walk(inner, are_names=name not in BY_NAME)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _walk(inner)
