"""Results of gpu.py -> a page with one table per part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SPEED_COLUMNS = {
    "images/s": "images_per_s",
    "with validation": "with_validation",
    "of the roofline": "of_roofline",
    "of the matmul peak": "of_matmul",
    "of the copy peak": "of_copy",
    "first epoch s": "first_epoch_s",
    "peak MB": "peak_memory_mb",
}
PACKING_COLUMNS = {
    "trials": "trials",
    "threads each": "threads",
    "images/s in all": "images_per_s",
    "first epochs after s": "first_epochs_after_s",
    "peak MB each": "peak_memory_mb",
}
ROW_COLUMNS = {"state": "state", "mIoU": "miou", "images/s": "images_per_s", "s": "attempts_s", "peak MB": "peak_memory_mb"}


def write_table(document: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    host, parts = document["host"], document["parts"]
    versions = ", ".join(f"{name.removeprefix('version/')} {version}" for name, version in host["versions"].items())
    lines = [
        f"# {', '.join(host['gpus']) or 'CPU'}, {host['time']}",
        "",
        f"{host['cores']} cores, commit {host['commit']}; {versions}; {document['settings']['source']}",
        "",
        *_table("part", {"state": "state", "s": "wall_s", "at most": "limit_s"}, parts),
    ]
    for name, part in parts.items():
        lines += ["", f"## {name}: {part['state']}", "", *_describe(name, part["results"])]
        if "output_end" in part:
            lines += ["", "```", *part["output_end"].splitlines()[-25:], "```"]
    return "\n".join(lines) + "\n"


def _describe(name: str, results: Mapping[str, Any]) -> Iterable[str]:
    if name in ("single", "crops"):
        yield from _facts(results.get("peaks", {}))
        yield from _table("training", SPEED_COLUMNS, {key: value for key, value in results.items() if key != "peaks"})
    elif name == "packing":
        yield from _table("", PACKING_COLUMNS, results)
    elif name == "table1":
        yield from _facts(results.get("sweep", {}))
        yield from _table("row", ROW_COLUMNS, {row["row"]: row for row in results.get("rows", [])})
    else:
        yield from _facts(results)


def _facts(facts: Mapping[str, Any]) -> Iterable[str]:
    if facts:
        yield "; ".join(f"{name}: {_cell(value)}" for name, value in facts.items())
        yield ""


def _table(first: str, columns: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """One line per row; an error takes the place of the numbers."""
    lines = [f"| {' | '.join([first, *columns])} |", f"|{'---|' * (1 + len(columns))}"]
    for name, row in rows.items():
        cells = [_cell(row["error"])] if "error" in row else [_cell(row.get(key)) for key in columns.values()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value).replace("\n", " ").replace("|", "/")
