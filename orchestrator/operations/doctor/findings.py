"""What `orchestrate doctor` found: one line per subject, for people and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.errors import redact


class Level(StrEnum):
    """How bad it is. WARNING: sweeps run, but perhaps not as expected. ERROR: they do not run."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


@dataclass(frozen=True)
class Finding:
    """subject: what was checked. found: what there is. advice: what to do; empty if nothing is wrong."""

    level: Level
    subject: str
    found: str
    advice: str = ""


ok = partial(Finding, Level.OK)
warning = partial(Finding, Level.WARNING)
error = partial(Finding, Level.ERROR)


@dataclass(frozen=True)
class Diagnosis:
    """What ``orchestrate doctor`` prints, without passwords."""

    findings: Sequence[Finding]

    @property
    def exit_code(self) -> int:
        """1 if there is an error; warnings do not count."""
        return int(any(finding.level is Level.ERROR for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        described = [
            {"subject": f.subject, "level": str(f.level), "found": redact(f.found), "advice": redact(f.advice)}
            for f in self.findings
        ]
        return {"is_healthy": self.exit_code == 0, "findings": described}

    def render(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for finding in self.findings:
            text = Text(redact(finding.found))
            if finding.advice:
                text.append(f"\n{redact(finding.advice)}", style="italic")
            table.add_row(Text(finding.level, style=COLOURS[finding.level]), Text(finding.subject), text)
        return table
