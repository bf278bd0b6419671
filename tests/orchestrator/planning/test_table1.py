"""Table 1 of the report as a sweep file: its rows, its ensembles, and how rows and ensembles are planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.summary import PlanReport
from orchestrator.errors import SpecError
from orchestrator.planning.configuration import DataFacts, Facts, source_part
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.spec import SweepSpec, load_spec

TABLE1 = Path(__file__).resolve().parents[3] / "sweeps" / "table1.yaml"

ROWS = """
seeds: [0, 1]
rows:
  - {id: 1, label: small, reported: 0.5}
  - {id: 2, epochs: 2, seed: 7}
  - {id: 3, epochs: 3}
ensembles:
  - {id: 4, label: 1+3, reported: 0.6, members: [3, 1]}
  - {id: 5, members: [2, 2b]}
"""


def read(folder: Path, text: str) -> SweepSpec:
    """Write a sweep file and read it."""
    (folder / "sweep.yaml").write_text(text)
    return load_spec(folder / "sweep.yaml")


def plan(spec: SweepSpec) -> Plan:
    """The plan of a sweep on its data, without finished trials."""
    known = DataFacts("f" * 16, Path("prepared"), 16, 64, 128, 5, ("a", "b", "c", "d", "e"))
    return make_plan(spec, Facts(data={source_part(spec.data): known}))


def test_the_table_has_the_37_rows_of_the_report() -> None:
    """31 trainings and six ensembles of exactly the members that the report names."""
    spec = load_spec(TABLE1)
    assert sorted([*(row.id for row in spec.rows), *(e.id for e in spec.ensembles)]) == list(range(1, 38))
    assert {e.id: e.members for e in spec.ensembles} == {
        5: (3, 4), 11: (9, 10), 15: (13, 10, 9), 18: (16, 17), 34: (31, 32, 33), 37: (36, 35, 33, 17),
    }  # fmt: skip
    assert [row.id for row in spec.rows if row.reported is None] == [21, 22, 23]
    assert {e.id: e.reported for e in spec.ensembles} == {5: 0.567, 11: 0.57, 15: 0.585, 18: 0.66, 34: 0.656, 37: 0.684}


def test_the_plan_of_the_table_lists_all_rows() -> None:
    """In the table for people and in the document; rows 8 and 9 are one configuration with two seeds."""
    spec = load_spec(TABLE1, ["base.epochs=1", "data.limit=96"])
    made = plan(spec)
    by_row = {trial.configuration.params["row"]: trial.spec for trial in made.trials}
    assert len({trial.spec.key for trial in made.trials}) == 31
    assert by_row[8].configuration == by_row[9].configuration
    assert [(e.id, [trial.configuration.params["row"] for trial in e.members]) for e in made.ensembles] == [
        (e.id, list(e.members)) for e in spec.ensembles
    ]
    assert [trial["row"] for trial in PlanReport(spec, made).to_json()["trials"]] == [str(row.id) for row in spec.rows]


def test_a_label_and_a_published_score_change_no_key(tmp_path: Path) -> None:
    """They are for tables; the training is the same."""
    (tmp_path / "other").mkdir()
    bare = plan(read(tmp_path / "other", "rows: [{id: 1, epochs: 2}]\n")).trials[0]
    labelled = plan(read(tmp_path, "rows: [{id: 17, label: Unet D+M, reported: 0.6, epochs: 2}]\n")).trials[0]
    assert labelled.spec.key == bare.spec.key
    assert (bare.spec.name, labelled.spec.name) == ("row 1", "17: Unet D+M")


def test_an_ensemble_is_planned_for_each_seed(tmp_path: Path) -> None:
    """Members in the file's order; a row with its own seed is the same member each time."""
    made = plan(read(tmp_path, ROWS.replace("members: [2, 2b]", "members: [2, 3]")))
    assert [(e.title, e.seed, [t.spec.name for t in e.members]) for e in made.ensembles] == [
        ("4: 1+3 seed 0", 0, ["row 3 seed 0", "1: small seed 0"]),
        ("4: 1+3 seed 1", 1, ["row 3 seed 1", "1: small seed 1"]),
        ("row 5 seed 0", 0, ["row 2 seed 7", "row 3 seed 0"]),
        ("row 5 seed 1", 1, ["row 2 seed 7", "row 3 seed 1"]),
    ]


def test_an_ensemble_of_rows_with_own_seeds_is_one(tmp_path: Path) -> None:
    """However many seeds the sweep has."""
    made = plan(read(tmp_path, ROWS.replace("members: [2, 2b]", "members: [2]")))
    assert [(e.title, e.seed) for e in made.ensembles if e.id == 5] == [("row 5", None)]


def test_rows_beyond_the_budget_are_missing_members(tmp_path: Path) -> None:
    """The ensemble names them and is not formed from the others."""
    text = ROWS.replace("members: [2, 2b]", "members: [2]") + "budget: {trials: 3}\n"
    made = plan(read(tmp_path, text))
    assert {e.id: e.missing for e in made.ensembles} == {4: (3,), 5: ()}


def test_a_member_that_is_not_a_row_is_refused(tmp_path: Path) -> None:
    """With the known ids and the line."""
    with pytest.raises(SpecError, match=r"sweep\.yaml:9: ensembles\[1\]\.members\[1\] is '2b', not the id of a row"):
        read(tmp_path, ROWS)


@pytest.mark.parametrize("wrong", ["reported: 47.6", "label: ''"])
def test_a_score_is_a_fraction_and_a_label_a_text(tmp_path: Path, wrong: str) -> None:
    """Percentages and empty labels are refused."""
    with pytest.raises(SpecError, match=r"rows\[0\]\.(reported|label)"):
        read(tmp_path, f"rows: [{{id: 1, {wrong}}}]\n")
