"""What the plan shows of an edited sweep file, compared with the snapshot of the last run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.errors import TrialError
from orchestrator.planning.configuration import DataFacts, Facts, source_part
from orchestrator.planning.forecast.diff import PlanDiff, compare
from orchestrator.planning.forecast.snapshot import read_snapshot, take_snapshot, write_snapshot
from orchestrator.planning.plan import make_plan
from orchestrator.spec import SweepSpec, load_spec
from trainers.config import DataConfig

KNOWN = DataFacts("f" * 16, Path("prepared"), 16, 64, 128, 5, ("a", "b", "c", "d", "e"))
FACTS = Facts(data={source_part(DataConfig()): KNOWN})
ROWS = "seeds: [0, 1]\nrows:\n  - {id: 11, epochs: 2}\n  - {id: 12, loss: {name: focal, gamma: 2}}\n  - {id: 13, arch: FPN}\n"
GRID = "search: {method: grid, space: {loss.gamma: [1, 2], arch: [Unet, FPN]}}\n"


def read(folder: Path, text: str) -> SweepSpec:
    """Write a sweep file and read it."""
    (folder / "sweep.yaml").write_text(text)
    return load_spec(folder / "sweep.yaml")


def edit(folder: Path, before: str, after: str, facts: Facts = FACTS) -> PlanDiff:
    """Store the snapshot of one text as a run does, and compare another text with it."""
    old = read(folder, before)
    write_snapshot(folder / "plans", take_snapshot(old, make_plan(old, FACTS)))
    kept = read_snapshot(folder / "plans", "sweep")
    assert kept is not None
    new = read(folder, after)
    return compare(kept, take_snapshot(new, make_plan(new, facts)))


def lines(changes: PlanDiff, num_left: Mapping[str, int] | None = None) -> list[str]:
    """As a person sees them."""
    return changes.describe(num_left or {})


def test_nothing_was_changed(tmp_path: Path) -> None:
    """A file with the same content in another form is the same."""
    changes = edit(tmp_path, ROWS, ROWS.replace("{id: 13, arch: FPN}", "{arch: FPN, id: 13, epochs: 30}"))
    assert changes.is_empty
    assert changes.num_unchanged == 3


def test_rows_are_known_by_their_ids(tmp_path: Path) -> None:
    """A changed row names its fields and the number of trials to train."""
    changes = edit(tmp_path, ROWS, ROWS.replace("gamma: 2", "gamma: 3").replace("id: 13", "id: 14"))
    [(changed, _)] = changes.changed
    assert lines(changes, {changed.id: 2}) == ["row 12 changed: loss.gamma 2 -> 3 (2 to train)"]
    assert changes.num_unchanged == 2


def test_added_and_removed_rows_are_named(tmp_path: Path) -> None:
    """By their titles."""
    changes = edit(tmp_path, ROWS, ROWS.replace("{id: 13, arch: FPN}", "{id: 20, arch: Linknet}"))
    assert [entry.row for entry in changes.added] == ["20"]
    assert [entry.row for entry in changes.removed] == ["13"]
    assert lines(changes)[0] == "added: row 20 (already done)"


def test_an_object_under_another_name_is_one_difference(tmp_path: Path) -> None:
    """From focal to dice the loss changes as a whole, not field by field."""
    changes = edit(tmp_path, ROWS, ROWS.replace("{name: focal, gamma: 2}", "{name: dice}"))
    assert lines(changes) == ["row 12 changed: loss {name: focal, gamma: 2} -> {name: dice} (already done)"]


def test_an_edit_of_base_is_shown_once(tmp_path: Path) -> None:
    """Not once per configuration."""
    changes = edit(tmp_path, GRID, GRID + "base: {batch_size: 8}\n")
    assert lines(changes) == ["all 4 configurations changed: batch_size 32 -> 8 (already done)"]
    assert not changes.added
    assert not changes.removed


def test_other_images_under_the_same_path_are_shown(tmp_path: Path) -> None:
    """The file is unchanged, and yet everything has to be trained."""
    other = Facts(data={source_part(DataConfig()): dataclasses.replace(KNOWN, fingerprint="e" * 16)})
    changes = edit(tmp_path, ROWS, ROWS, other)
    assert lines(changes) == [f"all 3 configurations changed: data.content {'f' * 16} -> {'e' * 16} (already done)"]
    edited = edit(tmp_path, ROWS, ROWS + "data: {ignore_classes: [0]}\n", other)
    assert lines(edited) == ["all 3 configurations changed: data.ignore_classes [] -> [0] (already done)"], "and no hash"


def test_a_point_takes_the_place_of_its_nearest(tmp_path: Path) -> None:
    """A replaced value of a grid is a change; an additional one is new."""
    changes = edit(tmp_path, GRID, GRID.replace("[1, 2]", "[1, 3]"))
    assert lines(changes) == ["gamma=3-Unet, gamma=3-FPN changed: loss.gamma 2 -> 3 (already done)"]
    changes = edit(tmp_path, GRID, GRID.replace("[1, 2]", "[1, 2, 3]"))
    assert [entry.label for entry in changes.added] == ["gamma=3-Unet", "gamma=3-FPN"]
    assert changes.num_unchanged == 4


def test_in_doubt_points_were_added_and_removed(tmp_path: Path) -> None:
    """If two old points are equally near, neither counts as changed."""
    changes = edit(tmp_path, GRID, GRID.replace("[1, 2]", "[3]"))
    assert not changes.changed
    assert len(changes.removed) == 4
    assert len(changes.added) == 2


def test_a_new_dimension_keeps_what_stands_at_its_default(tmp_path: Path) -> None:
    """The earlier points are among the new ones."""
    changes = edit(tmp_path, GRID, GRID.replace("FPN]", "FPN], epochs: [30, 40]"))
    assert changes.num_unchanged == 4
    assert len(changes.added) == 4
    assert not changes.changed


def test_settings_that_change_no_trial_are_listed_separately(tmp_path: Path) -> None:
    """Seeds decide what is trained, a budget does not."""
    changes = edit(tmp_path, GRID, GRID + "seeds: [0, 1]\nbudget: {hours: 8}\nretry: {exception: 3}\n")
    assert lines(changes) == [
        "seeds [0] -> [0, 1]",
        "settings that change no trial: budget none -> {hours: 8}; retry.exception 1 -> 3",
    ]


def test_an_open_ended_search_is_known_by_its_space(tmp_path: Path) -> None:
    """Its configurations come later; a person edits the space."""
    search = "search: {method: random, space: {epochs: {low: 1, high: 9}}}\nbudget: {trials: 3}\nbase: {batch_size: 4}\n"
    changes = edit(tmp_path, search, search.replace("high: 9", "high: 10").replace("batch_size: 4", "batch_size: 8"))
    assert lines(changes) == ["base.batch_size 4 -> 8", "search.space.epochs.high 9 -> 10"]
    assert lines(edit(tmp_path, GRID, search)) == [
        "search.method grid -> random",
        "settings that change no trial: budget none -> {trials: 3}",
    ]


def test_a_snapshot_with_the_retired_field_for_16_bits_is_no_change(tmp_path: Path) -> None:
    """Earlier versions wrote `keep.predictions`; it is ignored."""
    spec = read(tmp_path, ROWS)
    content = take_snapshot(spec, make_plan(spec, FACTS))
    content.settings["keep"]["predictions"] = "u16"
    write_snapshot(tmp_path / "plans", content)
    kept = read_snapshot(tmp_path / "plans", spec.name)
    assert kept is not None
    assert compare(kept, take_snapshot(spec, make_plan(spec, FACTS))).is_empty


def test_a_damaged_snapshot_says_where_it_is(tmp_path: Path) -> None:
    """It raises TrialError, which the plan reports as a note."""
    (tmp_path / "sweep.json").write_text('{"schema_version": 2}')
    with pytest.raises(TrialError, match=r"sweep\.json: this version cannot read it"):
        read_snapshot(tmp_path, "sweep")
    assert read_snapshot(tmp_path, "another") is None
