"""Which trials may become members: by architecture, tag and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.ensemble.candidates import Wanted, list_candidates, parse_tag
from orchestrator.errors import EnsembleError
from orchestrator.tracking.reader.row import RunRow
from orchestrator.tracking.tags import Tag


def make_row(key: str, arch: str, **tags: str) -> RunRow:
    """A finished trial's."""
    return RunRow(key, "1", f"trial {key}", {}, {"arch": arch, "seed": "0"}, tags | {"key": key, "state": "COMPLETE"}, 0.0)


ROWS = [
    make_row("a", "Unet", **{Tag.NUM_PARAMETERS: "100", Tag.LATENCY_MS: "2.5"}),
    make_row("b", "FPN", **{Tag.NUM_PARAMETERS: "200"}),
    make_row("c", "Unet", **{Tag.NUM_PARAMETERS: "300", Tag.LATENCY_MS: "4", "row": "7"}),
]


def keys_of(wanted: Wanted) -> list[str]:
    """Of the rows that are left."""
    return [row.key for row in wanted.narrow(ROWS)[0]]


def test_all_that_is_asked_for_must_hold() -> None:
    """Any of the architectures, and every tag, of which a parameter of the configuration is one."""
    assert keys_of(Wanted()) == ["a", "b", "c"]
    assert keys_of(Wanted(archs=("Unet",))) == ["a", "c"]
    assert keys_of(Wanted(archs=("Unet", "FPN"), tags=(("seed", "0"), ("row", "7")))) == ["c"]
    with pytest.raises(EnsembleError, match=r"tag row 8\. Found: 7\."):
        Wanted(tags=(("row", "8"),)).narrow(ROWS)


def test_trials_of_unknown_cost_are_left_out_and_named() -> None:
    """Limits need every candidate's cost; without a limit nobody is left out."""
    rows, notes = Wanted(max_latency_ms=5).narrow(ROWS)
    assert [row.key for row in rows] == ["a", "c"]
    assert "1 trials whose run has no tag system.latency_ms (trial b" in notes[0]
    (limit,) = Wanted(max_latency_ms=5).make_limits(list_candidates(rows))
    assert (limit.most, limit.costs) == (5, {"a": 2.5, "c": 4.0})


def test_the_latency_of_an_image_is_multiplied_by_its_mirror_images() -> None:
    """Whether the trial was validated with flips or stores a second set; parameters count once."""
    costs = {Tag.NUM_PARAMETERS: "100", Tag.LATENCY_MS: "2.5"}
    own = replace(make_row("own", "Unet", **costs), params={"arch": "Unet", "test_time_flips": "horizontal"})
    found = list_candidates([own, make_row("beside", "Unet", **costs, flips="both")])
    params, latency = Wanted(max_params=1, max_latency_ms=1).make_limits(found)
    assert latency.costs == {"own": 5, "beside": 2.5, "beside+both": 10}
    assert set(params.costs.values()) == {100}


def test_a_tag_has_a_name_and_a_value() -> None:
    """Values may hold the sign themselves."""
    assert parse_tag("note=a=b") == ("note", "a=b")
    with pytest.raises(EnsembleError, match="expected NAME=VALUE"):
        parse_tag("Unet")
