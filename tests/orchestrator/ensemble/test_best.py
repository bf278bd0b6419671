"""Runs of a sweep -> candidates."""

from __future__ import annotations

from orchestrator.ensemble.best import take_latest_data
from orchestrator.ensemble.candidates import EnsembleCandidate
from orchestrator.tracking.reader.row import RunRow
from orchestrator.tracking.tags import Tag


def make_candidate(key: str, *, start_s: float, scored: str) -> EnsembleCandidate:
    """A finished trial."""
    row = RunRow(key, "1", f"trial {key}", {}, {}, {Tag.KEY: key, Tag.SCORED_FINGERPRINT: scored}, start_s)
    return EnsembleCandidate(key, row.name, (row,))


def test_of_changed_data_the_latest_count() -> None:
    """A sweep that was begun on other data does not stand in the way; what is left out is named, with how to get at it."""
    old = [make_candidate(key, start_s=1, scored="aa") for key in "abc"]
    new = make_candidate("d", start_s=2, scored="bb")
    assert take_latest_data([*old, new])[0] == [new]
    assert "3 candidates (trial a, ...)" in take_latest_data([*old, new])[1][0]
    assert f"--tag {Tag.SCORED_FINGERPRINT}=aa" in take_latest_data([*old, new])[1][0]
    assert take_latest_data(old) == (old, ())
