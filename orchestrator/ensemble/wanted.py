"""Which of the finished trials may become members, and what they may cost together: the options of ``best-ensemble``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.ensemble.selection import Limit
from orchestrator.errors import EnsembleError
from orchestrator.timings import VIEWS

if TYPE_CHECKING:
    from orchestrator.ensemble.folds import Candidate
    from orchestrator.tracking.rows import RunRow

PARAMETERS, LATENCY = "system.num_parameters", "system.latency_ms"
"""Tags of a trial's run."""


@dataclass(frozen=True)
class Wanted:
    """Candidates of these architectures, with all these tags; members of at most so many parameters and milliseconds together."""

    archs: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    """Name and value, as MLflow's page shows them: of a tag, or of a parameter of the configuration."""
    max_params: float | None = None
    max_latency_ms: float | None = None

    def narrow(self, rows: Sequence[RunRow]) -> tuple[list[RunRow], tuple[str, ...]]:
        """The rows that are wanted and whose costs are known, and sentences about those left out for what nobody knows of them.

        Raises:
            EnsembleError: none is left; the message says what there is.
        """
        kept = list(rows)
        if self.archs:
            kept = _keep(kept, lambda row: row.params.get("arch", ""), self.archs, what="architecture")
        for name, value in self.tags:
            kept = _keep(kept, lambda row, name=name: _read(row, name), (value,), what=f"tag {name}")  # type: ignore[misc]  # mypy sees no default of a lambda
        notes = []
        for most, tag in self._limits():
            unknown = [row.name for row in kept if most is not None and not row.tags.get(tag)]
            if unknown:
                notes.append(
                    f"Left out: {len(unknown)} trials whose run has no tag {tag} ({unknown[0]}, ...), of an earlier version."
                )
                kept = [row for row in kept if row.tags.get(tag)]
        if not kept:
            raise EnsembleError(" ".join(["No candidate is left.", *notes, "Train them again, or ask for no such limit."]))
        return kept, tuple(notes)

    def make_limits(self, candidates: Iterable[Candidate]) -> tuple[Limit, ...]:
        """What the search has to keep to; every trial must have its costs, which those of folds are all of."""
        costly = list(candidates)
        return tuple(
            Limit(tag.removeprefix("system."), most, {candidate.key: _add_up(candidate, tag) for candidate in costly})
            for most, tag in self._limits()
            if most is not None
        )

    def _limits(self) -> tuple[tuple[float | None, str], ...]:
        return (self.max_params, PARAMETERS), (self.max_latency_ms, LATENCY)


EVERYTHING = Wanted()


def _add_up(candidate: Candidate, tag: str) -> float:
    """What the trials cost together; one picture takes as long for each of its mirror images, which no trial measures itself."""
    if tag != LATENCY:
        return sum(float(row.tags[tag]) for row in candidate.rows)
    views = [VIEWS.get(candidate.flips or row.params.get("test_time_flips", "none"), 1) for row in candidate.rows]
    return sum(float(row.tags[tag]) * number for row, number in zip(candidate.rows, views, strict=True))


def parse_tag(text: str) -> tuple[str, str]:
    """``name=value``.

    Raises:
        EnsembleError: it is something else.
    """
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise EnsembleError(f"--tag is {text!r}, expected NAME=VALUE, such as encoder=resnet18 or seed=0.")
    return name, value


def _read(row: RunRow, name: str) -> str:
    return row.tags.get(name, row.params.get(name, ""))


def _keep(rows: Sequence[RunRow], read: Callable[[RunRow], str], values: Sequence[str], *, what: str) -> list[RunRow]:
    found = {read(row) for row in rows}
    kept = [row for row in rows if read(row) in values]
    if not kept:
        known = ", ".join(sorted(value for value in found if value)) or "none"
        raise EnsembleError(f"No finished trial has {what} {' or '.join(values)}. Found: {known}.")
    return kept
