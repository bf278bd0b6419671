"""`orchestrate data check`: finds outliers, duplicates and imbalance; as text, as JSON for `data.clean`, as a contact sheet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.operations.data.sheet import Cell, Section, title_class, write_sheet
from orchestrator.operations.data.source import read_source
from orchestrator.state.units import format_count
from trainers.data import DataSet
from trainers.data.quality.inspection import DuplicateGroup, Findings, inspect_dataset

SCHEMA_VERSION: Literal[1] = 1
NUM_LISTED = 12
"""Indices printed per finding; all are in the JSON and on the sheet."""


@dataclass(frozen=True)
class CheckReport:
    """What was found in a data set. Printed indices are positions in the source, before cleaning."""

    data: DataSet
    findings: Findings
    sheet: Path | None

    def to_json(self) -> dict[str, Any]:
        found, names, positions = self.findings, self.data.names, self.data.positions.tolist()
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.data.source,
            "fingerprint": self.data.fingerprint,
            "num_images": len(names),
            "class_names": list(self.data.class_names),
            "class_shares": [round(share, 6) for share in found.class_shares],
            "images_per_class": list(found.images_per_class),
            "outliers": [
                {"index": positions[outlier.index], "name": names[outlier.index], "reasons": list(outlier.reasons)}
                for outlier in found.outliers
            ],
            "duplicates": [
                {
                    "indices": self._places(group.indices),
                    "identical": group.identical,
                    "mask_disagreement": round(group.disagreement, 4),
                }
                for group in found.duplicates
            ],
            "repeated_masks": [self._places(indices) for indices in found.repeated_masks],
            "all_ignored": self._places(found.all_ignored),
            "odd_intensities": [
                {"index": positions[odd.index], "name": names[odd.index], "reason": odd.reason} for odd in found.odd_intensities
            ],
            "sheet": str(self.sheet) if self.sheet else None,
        }

    def render(self) -> Group:
        classes = Table(box=None, padding=(0, 2), header_style="dim")
        for title in ("class", "share of pixels", "images"):
            classes.add_column(title, justify="left" if title == "class" else "right")
        rows = zip(self.data.class_names, self.findings.class_shares, self.findings.images_per_class, strict=True)
        for number, (name, share, num_images) in enumerate(rows):
            classes.add_row(escape(title_class(number, name)), f"{share:.2%}", str(num_images))
        height, width, channels = self.data.images.shape[1:]
        size = f"{height}x{width}, {'gray' if channels == 1 else 'RGB'}"
        cleaned = f", {len(self.data.removed)} more removed by data.clean" if self.data.removed else ""
        title = f"{self.data.source}: {format_count(len(self.data.names), 'image')} of {size}{cleaned}"
        return Group(Text(title), classes, *map(Text, self._lines()))

    def _lines(self) -> Iterator[str]:
        found = self.findings
        outliers = [outlier.index for outlier in found.outliers]
        yield self._line("outliers", outliers, "data.clean: auto removes them")
        contradicting = [group for group in found.duplicates if group.contradicts]
        yield self._groups("nearly identical images", [group.indices for group in found.duplicates])
        yield self._groups("  of these, with different masks", [group.indices for group in contradicting])
        yield self._groups("equal detailed masks on different images", found.repeated_masks)
        yield self._line("entirely ignored", found.all_ignored, "no pixel is scored")
        yield self._line("unusual intensities", [odd.index for odd in found.odd_intensities])
        if self.sheet:
            yield f"contact sheet: {self.sheet}"

    def _line(self, what: str, indices: Sequence[int], note: str = "") -> str:
        if not indices:
            return f"{what}: none"
        listed = ", ".join(map(str, self._places(indices[:NUM_LISTED]))) + (", ..." if len(indices) > NUM_LISTED else "")
        return f"{what}: {len(indices)}{f' ({note})' if note else ''}: {listed}"

    def _groups(self, what: str, groups: Sequence[Sequence[int]]) -> str:
        if not groups:
            return f"{what}: none"
        shown = "; ".join(
            "+".join(map(str, self._places(group[:4]))) + ("+..." if len(group) > 4 else "") for group in groups[:5]
        )
        return f"{what}: {format_count(len(groups), 'group')}: {shown}" + ("; ..." if len(groups) > 5 else "")

    def _places(self, indices: Sequence[int]) -> list[int]:
        positions = self.data.positions
        return [int(positions[index]) for index in indices]


def check_data(source: str, overrides: Sequence[str], *, out: Path | None) -> CheckReport:
    """Inspect ``source`` and draw what was found; out: .png or .html; None: no drawing.

    Raises:
        SpecError: an override or the suffix of ``out`` is wrong.
        DataError: the source cannot be read, or ``out`` cannot be written.
    """
    config, data = read_source(source, overrides)
    findings = inspect_dataset(data, config.ignore_classes)
    if out is not None:
        write_sheet(out, data, list(_sections(data, findings)), title=f"{data.source}, fingerprint {data.fingerprint}")
    return CheckReport(data, findings, out)


def _sections(data: DataSet, findings: Findings) -> Iterator[Section]:
    """The sections of the sheet; an outlier is shown only as an outlier."""
    gone = {outlier.index for outlier in findings.outliers}
    reasons = {outlier.index: "; ".join(outlier.reasons) for outlier in findings.outliers}
    yield Section("Outliers (data.clean: auto removes them)", [Cell(index, text) for index, text in reasons.items()])
    rest = [(group, [index for index in group.indices if index not in gone]) for group in findings.duplicates]
    left = [(group, indices) for group, indices in rest if len(indices) > 1]
    contradicting = [pair for pair in left if pair[0].contradicts]
    agreeing = [pair for pair in left if not pair[0].contradicts]
    yield Section("Nearly identical images with different masks", list(_group_cells(data, contradicting)))
    repeated = [indices for indices in findings.repeated_masks if not gone & set(indices)]
    cells = [Cell(index, f"same mask as {len(indices) - 1} others") for indices in repeated for index in indices]
    yield Section("Equal detailed masks on different images", cells)
    yield Section("Nearly identical images", list(_group_cells(data, agreeing)))
    yield Section("Unusual intensities", [Cell(odd.index, odd.reason) for odd in findings.odd_intensities])
    yield Section("Entirely ignored", [Cell(index, "no pixel is scored") for index in findings.all_ignored])


def _group_cells(data: DataSet, groups: Sequence[tuple[DuplicateGroup, list[int]]]) -> Iterator[Cell]:
    positions = data.positions
    for number, (group, indices) in enumerate(groups, start=1):
        kind = "identical" if group.identical else "nearly identical"
        for index in indices:
            others = ", ".join(str(positions[other]) for other in indices[:4] if other != index)
            yield Cell(index, f"group {number}: {kind} to {others}; masks differ in up to {group.disagreement:.0%}")
