from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from orchestrator.errors import SpecError
from orchestrator.spec import SweepSpec, load_spec
from trainers.config.loss import FocalLoss

ROOT = Path(__file__).resolve().parents[3]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))

FULL = """
name: full
description: everything at once
data: {source: pictures.npz, val_fraction: 0.2, ignore_classes: [0], id_map: {0: 0, 7: 1}}
base:
  optimizer: {name: adam, lr: 1e-4}
  epochs: 3
search:
  method: tpe
  seed: 4
  space:
    loss: [{name: focal}, {name: dice}]
    loss.gamma: {low: 1, high: 3, when: {loss.name: focal}}
    batch_size: {low: 8, high: 32, step: 8}
    arch: {choices: [Unet, FPN], when: {loss.name: [focal, dice]}}
seeds: [0, 1]
folds: 3
budget: {trials: 12, hours: 0.5}
resources: {slots: 2, trials_per_gpu: auto, threads_per_slot: 1}
schedule: {cron: "0 22 * * 1-5", timezone: Europe/Rome}
priority: 2
keep: {checkpoints: 3, flips: both}
notify: ["${CHAT}", "mailto://me@example.org"]
"""


def write(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    """Write a sweep file."""
    path = folder / name
    path.write_text(text)
    return path


def test_a_full_file_is_read(tmp_path: Path) -> None:
    """Every key of the file reaches its field."""
    spec = load_spec(write(tmp_path, FULL))

    assert (spec.name, spec.seeds, spec.folds) == ("full", (0, 1), 3)
    assert spec.data.id_map == {0: 0, 7: 1}
    assert spec.base.optimizer.lr == 1e-4
    assert spec.budget is not None
    assert (spec.budget.trials, spec.budget.hours) == (12, 0.5)
    assert (spec.resources.slots, spec.resources.trials_per_gpu, spec.resources.threads_per_slot) == (2, "auto", 1)
    assert (spec.keep.checkpoints, spec.keep.flips) == (3, "both")
    assert spec.priority == 2
    assert spec.notify == ("${CHAT}", "mailto://me@example.org")
    assert spec.search is not None
    assert [p.path for p in spec.search.space] == ["loss", "loss.gamma", "batch_size", "arch"]
    assert [p.is_integer for p in spec.search.space[1:3]] == [False, True]
    assert spec.search.space[2].values == (8, 16, 24, 32)


def test_an_almost_empty_file_takes_its_name_from_the_file(tmp_path: Path) -> None:
    """A file without a name is named after itself, and trains base alone with seed 0."""
    spec = load_spec(write(tmp_path, "base: {epochs: 2}\n", "my.sweep-2.yaml"))
    assert (spec.name, spec.seeds, spec.search, spec.rows) == ("my.sweep-2", (0,), None, ())


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    """1e-4 is a number and 'yes' is a word."""
    spec = load_spec(write(tmp_path, "description: yes\nbase: {optimizer: {lr: 1e-4}}\n"))
    assert (spec.description, spec.base.optimizer.lr) == ("yes", 1e-4)


def test_a_spec_survives_a_round_trip(tmp_path: Path) -> None:
    """A spec written as YAML is read back as an equal spec."""
    spec = load_spec(write(tmp_path, FULL))
    with open(tmp_path / "again.yaml", "w") as file:
        YAML().dump(spec.model_dump(mode="json", exclude_defaults=True), file)
    assert load_spec(tmp_path / "again.yaml").model_dump() == spec.model_dump()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_the_included_sweeps_are_valid(path: Path) -> None:
    """Each sweep of the folder can be read, runs on the embedded data, is named after its file and has a description."""
    spec = load_spec(path)
    assert spec.name == path.stem
    assert spec.data.source == "synthetic"
    assert "?" in path.read_text().split("name:")[0]


def test_the_losses_sweep_has_the_four_losses_of_the_report() -> None:
    """The file that the README runs keeps its outline."""
    spec = load_spec(ROOT / "sweeps" / "losses.yaml", ["base.epochs=2"])
    assert spec.search is not None
    (losses,) = spec.search.space
    assert [loss["name"] for loss in losses.choices or ()] == ["focal", "weighted_cross_entropy", "dice", "jaccard"]
    assert (spec.seeds, spec.data.ignore_classes, spec.base.epochs) == ((0,), (0,), 2)


# ------------------------------------------------------------------------------------------ --set


@pytest.mark.parametrize(
    ("option", "place", "expected"),
    [
        ("base.epochs=7", ("base", "epochs"), 7),
        ("base.loss={name: dice}", ("base", "loss", "name"), "dice"),
        ("base.schedule.name=cosine", ("base", "schedule", "name"), "cosine"),
        ("seeds=[3, 4]", ("seeds",), [3, 4]),
        ("seeds[1]=9", ("seeds",), [0, 9]),
        ("seeds.0=9", ("seeds",), [9, 1]),
        ("budget.hours=1e1", ("budget", "hours"), 10.0),
        ("search.space.loss[1].name=jaccard", ("search", "space", "loss", "choices"), [{"name": "focal"}, {"name": "jaccard"}]),
        ("search.space.loss.gamma.high=5", ("search", "space", "loss.gamma", "high"), 5),
        ("search.space.optimizer.lr=[0.1, 0.2]", ("search", "space", "optimizer.lr", "choices"), [0.1, 0.2]),
        ("name=a-b", ("name",), "a-b"),
    ],
)
def test_set_changes_one_place(tmp_path: Path, option: str, place: tuple[str, ...], expected: Any) -> None:
    """An override reaches its place, through lists and through keys with dots."""
    found: Any = load_spec(write(tmp_path, FULL), [option]).model_dump(mode="json")
    for part in place:
        found = found[part]
    assert found == expected


def test_later_overrides_win(tmp_path: Path) -> None:
    """Overrides are applied in order."""
    spec = load_spec(write(tmp_path, FULL), ["base.loss={name: dice}", "base.loss={name: focal}", "base.loss.gamma=1"])
    assert spec.base.loss == FocalLoss(name="focal", gamma=1)


def test_an_error_in_an_override_names_the_option(tmp_path: Path) -> None:
    """The message blames the option instead of the file."""
    with pytest.raises(SpecError, match=r"^--set base\.encoder=resnet81: base\.encoder is 'resnet81', .*Did you mean 'resnet18'"):
        load_spec(write(tmp_path, FULL), ["base.encoder=resnet81"])


# --------------------------------------------------------------------------------- paths of data sets


def test_relative_sources_start_at_the_file(tmp_path: Path) -> None:
    """data.source, a row's and a search space's paths start at the folder of the file; 'synthetic' is a word."""
    (tmp_path / "sweeps").mkdir()
    text = "data: {source: ../a.npz}\nrows:\n  - {id: 1, data: {source: b}}\n  - {id: 2, data: {source: synthetic}}\n"
    spec = load_spec(write(tmp_path / "sweeps", text))
    assert spec.data.source == str(tmp_path / "a.npz")
    assert [row.data["source"] for row in spec.rows] == [str(tmp_path / "sweeps" / "b"), "synthetic"]

    space = "search: {method: grid, space: {data.source: [synthetic, a.npz]}}\n"
    search = load_spec(write(tmp_path, space)).search
    assert search is not None
    assert search.space[0].choices == ("synthetic", str(tmp_path / "a.npz"))


def test_relative_checks_start_at_the_file(tmp_path: Path) -> None:
    """The .json of data.clean, a row or a search space starts at the file's folder; auto and positions are no paths."""
    rows = "rows: [{id: 1}, {id: 2, data: {clean: auto}}, {id: 3, data: {clean: [3, 1]}}]\n"
    spec = load_spec(write(tmp_path, f"data: {{clean: a.json}}\n{rows}"))
    assert spec.data.clean == str(tmp_path / "a.json")
    assert [row.data.get("clean") for row in spec.rows] == [None, "auto", [3, 1]]

    space = "search: {method: grid, space: {data.clean: [null, auto, a.json, [3, 1]]}}\n"
    search = load_spec(write(tmp_path, space)).search
    assert search is not None
    assert list(search.space[0].choices or ()) == [None, "auto", str(tmp_path / "a.json"), [3, 1]]


def test_relative_sources_of_overrides_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path on the command line is relative to the current folder."""
    (tmp_path / "sweeps").mkdir()
    path = write(tmp_path / "sweeps", "data: {source: a.npz}\n")
    monkeypatch.chdir(tmp_path)
    assert load_spec(path, ["data.source=b.npz"]).data.source == str(tmp_path / "b.npz")
    assert load_spec(path, ["base.epochs=1"]).data.source == str(tmp_path / "sweeps" / "a.npz")


# --------------------------------------------------------------------------------------- the whole


def test_reading_a_sweep_is_light() -> None:
    """A spec is read without torch, numpy, optuna or pandas."""
    code = "import sys, orchestrator.spec; print(sorted({n.partition('.')[0] for n in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "numpy", "optuna", "mlflow", "pandas", "sqlalchemy") if f"'{name}'" in loaded]


def complaint_about(path: Path, options: Sequence[str] = ()) -> str:
    """The error about a file; empty for a valid sweep."""
    try:
        load_spec(path, options)
    except SpecError as error:
        return str(error)
    return ""


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(allow_nan=False)
    | st.sampled_from(["focal", "grid", "tpe", "loss.gamma", "synthetic", "Unet", "x", ""])
)
keys = st.sampled_from(
    [
        *SweepSpec.model_fields,
        "method",
        "space",
        "loss",
        "loss.gamma",
        "optimizer.lr",
        "low",
        "high",
        "step",
        "when",
        "id",
        "x",
        "arch",
    ]
)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(document=st.dictionaries(st.sampled_from([*SweepSpec.model_fields, "x"]), trees, max_size=5))
def test_any_document_is_a_spec_or_a_clear_error(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Reading any file ends with a spec or a SpecError that names the file."""
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    assert all(line.startswith(str(path)) for line in complaint_about(path).splitlines())


@pytest.mark.parametrize("key", ["-1", "7"])
def test_numbers_as_keys_are_unknown_fields(tmp_path: Path, key: str) -> None:
    """A negative number too, which JSON writes as a text that is not all digits."""
    path = tmp_path / "a.yaml"
    path.write_text(f"{key}: 3\n")
    with pytest.raises(SpecError, match=r"a\.yaml:1: .*: not a known field"):
        load_spec(path)


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="abc:-[]{}#&*!|>'\"%@`\n\t ,?.0123456789é\x85\u2028", max_size=60))
def test_any_text_is_a_spec_or_a_clear_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No bytes in a file cause a traceback."""
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    path.write_text(text, encoding="utf-8")
    complaint = complaint_about(path)
    assert not complaint or complaint.startswith(str(path))


@settings(max_examples=100, deadline=None)
@given(option=st.text(alphabet="base.epochs=[]0123{}:, \"'&*#", max_size=25))
def test_any_override_is_accepted_or_refused_clearly(option: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No value of --set causes a traceback."""
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    path.write_text("name: a\nbase: {epochs: 2}\nseeds: [0, 1]\n")
    complaint = complaint_about(path, [option])
    assert not complaint or "--set" in complaint or complaint.startswith(str(path))
