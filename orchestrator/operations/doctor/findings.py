"""What `orchestrate doctor` found: one line a subject, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.errors import redact


class Level(StrEnum):
    """How bad it is. WARNING: sweeps run, but not as one may expect. ERROR: they do not."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


@dataclass(frozen=True)
class Finding:
    """subject: what was looked at. found: what there is. advice: what to do; empty where all is well."""

    subject: str
    level: Level
    found: str
    advice: str = ""


def well(subject: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(subject, Level.OK, found)


def doubtful(subject: str, found: str, advice: str) -> Finding:
    """Sweeps run, but not as one may expect."""
    return Finding(subject, Level.WARNING, found, advice)


def wrong(subject: str, found: str, advice: str) -> Finding:
    """Sweeps do not run."""
    return Finding(subject, Level.ERROR, found, advice)


@dataclass(frozen=True)
class Diagnosis:
    """What ``orchestrate doctor`` prints; holds no password, whatever the servers said."""

    findings: Sequence[Finding]

    @property
    def exit_code(self) -> int:
        """1 where anything is wrong; warnings are none."""
        return int(any(finding.level is Level.ERROR for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        described = [
            {"subject": f.subject, "level": str(f.level), "found": redact(f.found), "advice": redact(f.advice)}
            for f in self.findings
        ]
        return {"is_well": self.exit_code == 0, "findings": described}

    def render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for finding in self.findings:
            text = Text(redact(finding.found))
            if finding.advice:
                text.append(f"\n{redact(finding.advice)}", style="italic")
            table.add_row(Text(finding.level, style=COLOURS[finding.level]), Text(finding.subject), text)
        return table
