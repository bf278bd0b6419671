from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator.dispatch.summary import PlanReport
from orchestrator.errors import DataError, SpecError
from orchestrator.planning.plan import make_plan
from orchestrator.planning.preflight import prepare
from orchestrator.spec import SweepSpec, load_spec

SMALL = "data: {synthetic: {num_images: 16, height: 32, width: 32}, val_fraction: 0.25}\n"

MODULE = """
class Loss:
    pass
"""


def read(folder: Path, text: str) -> SweepSpec:
    """Write a sweep file and read it."""
    (folder / "sweep.yaml").write_text(text)
    return load_spec(folder / "sweep.yaml")


def test_facts_of_the_embedded_data(tmp_path: Path) -> None:
    """The set is generated once; its facts are a fingerprint and its size."""
    spec = read(tmp_path, SMALL + "search: {method: grid, space: {epochs: [1, 2], data.limit: [4, 5]}}\n")
    facts = prepare(spec, tmp_path / "cache")

    found = facts.of(spec.data)
    assert len(facts.data) == 1
    assert (found.num_images, found.height, found.width, found.num_classes) == (16, 32, 32, 5)
    assert len(found.fingerprint) == 16
    assert found.folder.is_dir()
    assert prepare(spec, tmp_path / "cache") == facts


def test_each_data_set_of_a_space_is_prepared(tmp_path: Path) -> None:
    """Also those of an open-ended search."""
    text = (
        SMALL
        + "search: {method: tpe, space: {data.synthetic.seed: [1, 2], optimizer.lr: {low: 0.1, high: 1}}}\nbudget: {trials: 3}\n"
    )
    facts = prepare(read(tmp_path, text), tmp_path / "cache")
    assert len({found.fingerprint for found in facts.data.values()}) == 2


def test_a_missing_data_set_names_file_line_and_path(tmp_path: Path) -> None:
    """A missing file is a DataError at the line that names it."""
    spec = read(tmp_path, "name: a\ndata:\n  source: nowhere.npz\n")
    with pytest.raises(DataError, match=rf"^{tmp_path}/sweep\.yaml:3: data\.source: .*{tmp_path}/nowhere\.npz: not found"):
        prepare(spec, tmp_path / "cache")


def test_a_data_set_of_a_row_is_blamed_on_the_row(tmp_path: Path) -> None:
    """The line is that of the row."""
    spec = read(tmp_path, SMALL + "rows:\n  - {id: 1}\n  - id: 2\n    data: {source: nowhere.npz}\n")
    with pytest.raises(DataError, match=r"sweep\.yaml:5: rows\[1\]\.data\.source: "):
        prepare(spec, tmp_path / "cache")


def test_a_misspelled_synthetic_gets_a_hint(tmp_path: Path) -> None:
    """The word is suggested for a path close to it."""
    spec = read(tmp_path, "data: {source: sintetic}\n")
    with pytest.raises(DataError, match="synthetic"):
        prepare(spec, tmp_path / "cache")


def test_a_split_that_cannot_be_made_stops_before_anything_runs(tmp_path: Path) -> None:
    """Classes that do not exist cannot be ignored."""
    spec = read(tmp_path, SMALL + "search: {method: grid, space: {data.ignore_classes: [[0], [9]]}}\n")
    with pytest.raises(DataError, match=r"sweep\.yaml:2: search\.space\.data\.ignore_classes\[1\]: 9 is not a class"):
        prepare(spec, tmp_path / "cache")


def test_a_loss_can_ignore_only_classes(tmp_path: Path) -> None:
    """The ids of the loss are checked against the data."""
    spec = read(tmp_path, SMALL + "base:\n  loss: {name: dice, ignore_classes: [7]}\n")
    with pytest.raises(SpecError, match=r"sweep\.yaml:3: base\.loss\.ignore_classes is \[7\]\. Allowed: ids from 0 to 4"):
        prepare(spec, tmp_path / "cache")


@pytest.mark.parametrize(
    ("base", "pieces"),
    [
        (
            "loss: {name: sum, terms: [{loss: {name: dice}}, {loss: {name: focal, ignore_classes: [7]}}]}",
            r"base\.loss\.terms\[1\]\.loss\.ignore_classes is \[7\]\. Allowed: ids from 0 to 4",
        ),
        (
            "sampling: {repeat: [{classes: [4]}, {classes: [4, 9]}]}",
            r"base\.sampling\.repeat\[1\]\.classes is \[4, 9\]\. Allowed: ids from 0 to 4, rarest, or all",
        ),
        (
            "sampling: {repeat: [{augmentation: [{name: HorizontalFlop}]}]}",
            r"base\.sampling\.repeat\[0\]\.augmentation: .*HorizontalFlop",
        ),
        (
            "loss: {name: sum, terms: [{loss: {name: dice}}, {loss: {name: 'no_such_module:Loss'}}]}",
            r"base\.loss\.terms\[1\]\.loss\.name is 'no_such_module:Loss'",
        ),
    ],
)
def test_the_parts_of_sums_and_repetitions_are_checked_too(tmp_path: Path, base: str, pieces: str) -> None:
    """Terms of a sum, repeated classes, and the augmentation of their copies."""
    spec = read(tmp_path, SMALL + f"base:\n  {base}\n")
    with pytest.raises(SpecError, match=r"sweep\.yaml:3: " + pieces):
        prepare(spec, tmp_path / "cache")


def test_an_unknown_import_path_names_its_place(tmp_path: Path) -> None:
    """A missing module is found while the file is checked."""
    spec = read(tmp_path, SMALL + "base:\n  loss: {name: 'not_there_at_all:Loss'}\n")
    with pytest.raises(SpecError, match=r"sweep\.yaml:3: base\.loss\.name is 'not_there_at_all:Loss': .*not_there_at_all"):
        prepare(spec, tmp_path / "cache")


def test_an_unknown_transform_names_its_place(tmp_path: Path) -> None:
    """Transforms are checked by albumentations."""
    spec = read(
        tmp_path, SMALL + "search:\n  method: grid\n  space:\n    augmentation:\n      - none\n      - [{name: HorizontalFlap}]\n"
    )
    with pytest.raises(SpecError, match=r"sweep\.yaml:7: search\.space\.augmentation\[1\].*HorizontalFlap.*HorizontalFlip"):
        prepare(spec, tmp_path / "cache")


def test_code_in_the_working_directory_is_found_and_hashed(tmp_path: Path) -> None:
    """A loss beside the sweep is imported; its hash changes with its text. torch is not loaded."""
    read(tmp_path, SMALL + "base: {loss: {name: 'my_losses:Loss'}}\n")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from orchestrator.planning.preflight import prepare\nfrom orchestrator.spec import load_spec\n"
        "print(prepare(load_spec(Path('sweep.yaml')), Path('cache')).code['my_losses:Loss'], 'torch' in sys.modules)\n"
    )
    found = []
    for text in (MODULE, MODULE + "# changed\n"):
        (tmp_path / "my_losses.py").write_text(text)
        # -P: as an installed command, which does not look into the working directory by itself
        run = [sys.executable, "-P", "-B", "-c", code]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    assert found[0][0] != found[1][0]
    assert [is_loaded for _, is_loaded in found] == ["False", "False"]


def test_a_real_file_is_read_by_path(tmp_path: Path) -> None:
    """A .npz of the homework's layout, relative to the file, is prepared."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 32, 32), dtype=np.uint8)
    masks = np.tile(np.repeat(np.arange(4, dtype=np.uint8), 8), (12, 32, 1))
    np.savez(tmp_path / "set.npz", training_set=np.stack([images, masks], axis=1))
    spec = read(tmp_path, "data: {source: set.npz, val_fraction: 0.3}\n")
    assert prepare(spec, tmp_path / "cache").of(spec.data).num_classes == 4


TAMPERED = "synthetic: {num_images: 40, height: 32, width: 64, outlier_fraction: 0.1}, val_fraction: 0.25"


def test_cleaning_is_a_fact_of_the_data(tmp_path: Path) -> None:
    """The positions of removed images are facts, however cleaning was requested; the trials are the same."""
    spec = read(tmp_path, f"data: {{{TAMPERED}, clean: auto}}\n")
    facts = prepare(spec, tmp_path / "cache")
    removed = facts.of(spec.data).removed
    assert len(removed) == 4
    assert facts.of(spec.data).num_images == 36
    plan = make_plan(spec, facts)

    check = {"schema_version": 1, "fingerprint": facts.of(spec.data).fingerprint, "outliers": [{"index": i} for i in removed]}
    (tmp_path / "check.json").write_text(json.dumps(check))
    for clean in ("check.json", str(list(removed))):
        other = read(tmp_path, f"data: {{{TAMPERED}, clean: {clean}}}\n")
        assert make_plan(other, prepare(other, tmp_path / "cache")).trials[0].spec.key == plan.trials[0].spec.key
    plain = read(tmp_path, f"data: {{{TAMPERED}}}\n")
    assert make_plan(plain, prepare(plain, tmp_path / "cache")).trials[0].spec.key != plan.trials[0].spec.key


def test_cleaning_may_be_searched_over(tmp_path: Path) -> None:
    """Each variant is prepared, and each remaining set is a separate trial."""
    spec = read(tmp_path, f"data: {{{TAMPERED}}}\nsearch: {{method: grid, space: {{data.clean: [null, auto, [1, 2]]}}}}\n")
    facts = prepare(spec, tmp_path / "cache")
    assert sorted(found.num_images for found in facts.data.values()) == [36, 38, 40]
    assert len({trial.spec.key for trial in make_plan(spec, facts).trials}) == 3


def test_the_plan_says_how_much_was_cleaned_away(tmp_path: Path) -> None:
    """For each data set of the sweep, in the text and in the JSON."""
    spec = read(tmp_path, f"data: {{{TAMPERED}}}\nsearch: {{method: grid, space: {{data.clean: [null, auto, [1, 2]]}}}}\n")
    report = PlanReport(spec, make_plan(spec, prepare(spec, tmp_path / "cache")))
    shown = [(data["source"], data["num_images"], data["num_removed"]) for data in report.to_json()["data"]]
    assert shown == [("synthetic", 40, 0), ("synthetic", 36, 4), ("synthetic", 38, 2)]
    printed = StringIO()
    Console(file=printed, width=200).print(report.render())
    assert [line.rstrip() for line in printed.getvalue().splitlines() if line.startswith("data: ")] == [
        "data: synthetic: 40 images of 32x64, 5 classes",
        "data: synthetic: 36 images of 32x64, 5 classes, 4 more removed by data.clean",
        "data: synthetic: 38 images of 32x64, 5 classes, 2 more removed by data.clean",
    ]


def test_a_wrong_position_names_its_line(tmp_path: Path) -> None:
    """The error is at the line of data.clean."""
    spec = read(tmp_path, "name: a\ndata:\n  synthetic: {num_images: 16}\n  clean: [99]\n")
    with pytest.raises(DataError, match=r"sweep\.yaml:4: data\.clean: 99: no such position"):
        prepare(spec, tmp_path / "cache")
