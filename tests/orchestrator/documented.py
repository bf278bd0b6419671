"""The fields of ``--json`` that the README names, to be held against what the commands print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[2] / "README.md"

BY_NAME = {"classes", "class_iou", "class_gains", "trials"}
"""Objects with a field for each class, member or state; lists of the same name hold what has fields."""

OPAQUE = {"config", "metrics"}
"""Objects whose fields are the sweep file's, and the trainer's."""


def fields_told(command: str) -> set[str]:
    """What the command's row of the README's table names."""
    table = README.read_text(encoding="utf-8").partition("## What `--json` prints")[2].partition("\n## ")[0]
    row = re.search(rf"^\| `{command}` \|(.*)\|$", table, re.MULTILINE)
    assert row is not None, f"the README has no row of {command}"
    return set(re.findall(r"`(\w+)`", row[1]))


def fields_of(document: Any) -> set[str]:
    """Every field of a document, at whatever depth."""
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
