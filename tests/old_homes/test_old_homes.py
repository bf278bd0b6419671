"""A home that the code of dfd54e9 wrote (make_old_home.py) is read by this code: its ledger, study, MLflow runs and models.

Every command is run as a person runs it; what the old code answered is in ``expected/`` of the archive.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = Path(__file__).with_name("old_home.tar.xz")
MADE_AT = "/tmp/old-home"  # where the old code wrote it; MLflow stores absolute paths
FOREIGN = ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_NOTIFY", "ORCHESTRATE_DATA")
ENDED = ("COMPLETE", "PRUNED", "FAILED")

LOAD = """
import importlib.util, sys
from pathlib import Path
import numpy as np
how, uri, folder = sys.argv[1:]
# an editable installation answers for modules that the checkout in PYTHONPATH lacks
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
if how == "carried":
    sys.path = [path for path in sys.path if not (Path(path) / "trainers").is_dir()]
    assert importlib.util.find_spec("trainers") is importlib.util.find_spec("orchestrator") is None
elif how == "imported":  # as in a process that has trained something
    import orchestrator, trainers
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(uri)
import trainers
is_carried = Path(trainers.__file__).parent.parent.name == "code"
assert is_carried == (how != "imported"), trainers.__file__
np.save(Path(folder) / "masks.npy", model.predict(np.load(Path(folder) / "project/images.npz")["test_set"]))
"""


@dataclass(frozen=True)
class OldHome:
    """The unpacked archive; commands run in ``project/``, where the sweep files and the user's own code lie."""

    folder: Path

    @property
    def trials(self) -> Path:
        return self.folder / "mlruns" / "trials"

    def run(self, *arguments: str, code: int = 0) -> Any:
        """Run a command of the code under test with --json; returns its document."""
        return json.loads(self.start(*arguments, "--json", code=code).stdout)

    def start(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of the code under test."""
        command = [sys.executable, "-m", "orchestrator.cli", *arguments]
        done = subprocess.run(
            command, cwd=self.folder / "project", env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done

    def environment(self) -> dict[str, str]:
        """A person's, with slots apart from those of other sweeps on this machine."""
        own = {
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(ROOT),
            "ORCHESTRATE_HOME": str(self.folder / "mlruns"),
            "ORCHESTRATE_SLOTS": str(self.folder / "slots"),
        }
        return {name: value for name, value in os.environ.items() if name not in FOREIGN} | own

    def expected(self, name: str) -> Any:
        """What the old code answered."""
        return json.loads((self.folder / "expected" / f"{name}.json").read_text(encoding="utf-8"))

    def results(self) -> dict[str, bytes]:
        """How trials ended, by their keys."""
        return {path.parent.name: path.read_bytes() for path in self.trials.glob("*/result.json")}

    def epochs(self, key: str) -> dict[int, list[int]]:
        """The epochs that each attempt of a trial has trained."""
        lines = (self.trials / key / "progress.jsonl").read_text(encoding="utf-8").splitlines()
        epochs: dict[int, list[int]] = {}
        for event in map(json.loads, lines):
            if event["kind"] == "epoch":
                epochs.setdefault(event["attempt"], []).append(event["epoch"])
        return epochs

    def masks(self, name: str) -> np.ndarray:
        """What the old code predicted."""
        masks: np.ndarray = np.load(self.folder / "expected" / f"{name}.npz")["masks"]
        return masks


def unpack(folder: Path) -> OldHome:
    """Unpack the archive as if the home had been written in ``folder``."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    home = folder / "mlruns"
    for path in [*home.glob("trials/*/attempt.json"), *home.glob("trials/*/mirror.json"), *folder.rglob("MLmodel")]:
        path.write_text(path.read_text(encoding="utf-8").replace(MADE_AT, str(folder)), encoding="utf-8")
    for name, mtime_ns in json.loads((folder / "mtimes.json").read_text(encoding="utf-8")).items():
        os.utime(folder / name, ns=(mtime_ns, mtime_ns))
    for dump in home.glob("*.sql"):
        with contextlib.closing(sqlite3.connect(dump.with_suffix(".db"))) as connection:
            connection.executescript(dump.read_text(encoding="utf-8").replace(MADE_AT, str(folder)))
        dump.unlink()
    return OldHome(folder)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> OldHome:
    """For tests that only read."""
    return unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture
def changing(tmp_path: Path) -> OldHome:
    """For tests that go on with it."""
    return unpack(tmp_path)


def close_to(value: Any) -> Any:
    """The same figure, interval or null, but for the last digits."""
    return None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)


def agree(masks: np.ndarray, expected: np.ndarray) -> bool:
    """Whether masks are the same but for a few pixels, at which another CPU may round to another class."""
    return masks.shape == expected.shape and float(np.mean(masks == expected)) > 0.99


@pytest.mark.parametrize("sweep", ["searched", "rows", "folded"])
def test_the_leaderboard_is_the_same(old: OldHome, sweep: str) -> None:
    """Trials stand in the same order, with the same figures, intervals and runs; so do configurations with folds."""
    expected = old.expected(f"leaderboard-{sweep}")
    keys = {row["key"] for row in expected}  # the old code was asked before the trials that it was to leave unfinished
    rows = [row for row in old.run("leaderboard", sweep) if row["key"] in keys]
    facts = ("key", "state", "rank", "run_id", "configuration")
    assert [[row[fact] for fact in facts] for row in rows] == [[row[fact] for fact in facts] for row in expected]
    for row, known in zip(rows, expected, strict=True):
        assert [row["miou"], row["ci95"]] == [close_to(known["miou"]), close_to(known["ci95"])]
        if known.get("configuration_result"):
            for figure in ("rank", "miou", "ci95"):
                assert row["configuration_result"][figure] == close_to(known["configuration_result"][figure])


def test_the_comparison_is_the_same(old: OldHome) -> None:
    """Two trials are known by their names, and compared by their stored confusion matrices."""
    found, expected = old.run("compare", "1: focal", "3: wide", "--sweep", "rows"), old.expected("compare")
    for figure in ("difference", "ci95", "probability_first_is_better"):
        assert found[figure] == close_to(expected[figure])
    assert [found[side]["keys"] for side in ("first", "second")] == [expected[side]["keys"] for side in ("first", "second")]


def test_the_status_is_the_same(old: OldHome) -> None:
    """As many trials in each state, the same ones failed and interrupted."""
    found, expected = old.run("status", "searched", "rows", "reusing", "folded", "killed"), old.expected("status")
    for sweep, known in zip(found["sweeps"], expected["sweeps"], strict=True):
        assert [sweep["sweep"], sweep["trials"]] == [known["sweep"], known["trials"]]
        assert [trial["key"] for trial in sweep["failed"]] == [trial["key"] for trial in known["failed"]]
        assert [sweep["interrupted"], sweep["running"], sweep["unreadable"]] == [known["interrupted"], [], []]
    assert any(sweep["interrupted"] for sweep in found["sweeps"])


@pytest.mark.parametrize("model", ["best-run", "ensemble"])
def test_old_runs_predict_the_same(old: OldHome, tmp_path: Path, model: str) -> None:
    """The best trial's run, and the ensemble that was chosen last of a sweep."""
    name = old.expected("leaderboard-rows")[0]["run_id"] if model == "best-run" else "rows"
    old.run("predict", name, "images.npz", "--out", str(tmp_path / "masks.npz"))
    assert agree(np.load(tmp_path / "masks.npz")["masks"], old.masks(model))


@pytest.mark.parametrize("how", ["carried", "installed", "imported"])
def test_an_exported_model_loads(old: OldHome, tmp_path: Path, how: str) -> None:
    """With the code that it carries alone, beside this code, and where this code has been imported before."""
    load(old, how, str(old.folder / "model"))


def test_a_logged_model_loads_by_its_uri(old: OldHome) -> None:
    """MLflow finds what ``orchestrate export`` logged to the ensemble's run."""
    load(old, "installed", old.expected("export")["uri"])


def load(old: OldHome, how: str, uri: str) -> None:
    """Load a model in a fresh process that knows nothing of ``project/``, and compare what it predicts."""
    (old.folder / "elsewhere").mkdir(exist_ok=True)
    environment = old.environment() | {"MLFLOW_TRACKING_URI": f"sqlite:///{old.folder / 'mlruns' / 'mlflow.db'}"}
    command = [sys.executable, "-c", LOAD, how, uri, str(old.folder)]
    done = subprocess.run(command, cwd=old.folder / "elsewhere", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert agree(np.load(old.folder / "masks.npy"), old.masks("ensemble"))


def test_the_report_is_the_same(old: OldHome) -> None:
    """Rows and ensembles, with the figure published elsewhere."""
    found, expected = old.run("report", "rows"), old.expected("report")
    for line, known in zip(found["lines"], expected["lines"], strict=True):
        assert [line["row"], line["kind"], line["members"]] == [known["row"], known["kind"], known["members"]]
        for figure in ("rank", "miou", "ci95", "reported", "gain_over_best_member"):
            assert line[figure] == close_to(known[figure])


@pytest.mark.parametrize("sweep", ["rows", "folded"])
def test_the_same_ensemble_is_chosen(changing: OldHome, sweep: str) -> None:
    """From the stored predictions, with the same weights and figures."""
    exactly = ["--exactly"] if sweep == "rows" else []
    found, expected = changing.run("best-ensemble", sweep, "--k", "2", *exactly), changing.expected(f"best-ensemble-{sweep}")
    assert (found["members"], found["weights"]) == (expected["members"], expected["weights"])
    for figure in ("miou", "ci95", "miou_in_sample", "gain_over_best_single", "gain_ci95"):
        assert found[figure] == close_to(expected[figure])


def test_the_study_goes_on(changing: OldHome) -> None:
    """Nothing that has ended is trained again, the stopped trial is resumed, and the search proposes more."""
    before = changing.results()
    (stopped,) = changing.expected("interrupted")["searched"]
    trials = {trial["key"]: trial for trial in changing.run("sweep", "searched.yaml", "--set", "budget.trials=14")["trials"]}
    known = {row["key"]: row["state"] for row in changing.expected("leaderboard-searched")}
    assert {key: trials[key]["state"] for key in known} == {
        key: "CACHED" if state == "COMPLETE" else state for key, state in known.items()
    }
    assert before.items() <= changing.results().items()
    assert trials[stopped]["state"] in ENDED
    first, second = changing.epochs(stopped).values()
    assert second[0] == first[-1] + 1
    assert len(trials) == 14


def test_a_killed_trial_goes_on_from_its_checkpoint(changing: OldHome) -> None:
    """The claim of the dispatcher that died with it does not hold it up."""
    (killed,) = changing.expected("interrupted")["killed"]
    (trial,) = changing.run("sweep", "killed.yaml")["trials"]
    assert (trial["key"], trial["state"]) == (killed, "COMPLETE")
    first, second = changing.epochs(killed).values()
    assert 1 < second[0] <= first[-1] + 1


@pytest.mark.parametrize(("sweep", "code"), [("rows", 1), ("reusing", 0), ("folded", 0)])
def test_a_sweep_that_has_ended_trains_nothing(changing: OldHome, sweep: str, code: int) -> None:
    """Complete trials are reused, the failed one waits for ``retry``."""
    before = changing.results()
    trials = changing.run("sweep", f"{sweep}.yaml", code=code)["trials"]
    known = {row["key"]: "FAILED" if row["state"] == "FAILED" else "CACHED" for row in changing.expected(f"leaderboard-{sweep}")}
    assert {trial["key"]: trial["state"] for trial in trials} == known
    assert changing.results() == before


def test_a_failed_trial_can_be_tried_again(changing: OldHome) -> None:
    """After ``retry`` it is the only one that is trained."""
    before = changing.results()
    changing.start("retry", "rows")
    trials = changing.run("sweep", "rows.yaml", code=1)["trials"]
    (failed,) = [row["key"] for row in changing.expected("leaderboard-rows") if row["state"] == "FAILED"]
    assert {trial["key"] for trial in trials if trial["state"] != "CACHED"} == {failed}
    assert {key for key, result in changing.results().items() if before[key] != result} == {failed}


def test_the_plan_tells_what_was_edited(old: OldHome) -> None:
    """Since the old code began the sweep, by the record that it kept."""
    shown = old.start("sweep", "rows.yaml", "--set", "base.epochs=21", "--plan").stdout
    (line,) = [line for line in shown.splitlines() if "epochs" in line and "20" in line]
    assert "21" in line


def test_sync_sends_only_what_a_kill_left_unsent(changing: OldHome) -> None:
    """What the old code has mirrored is known as such, to the last file."""
    (killed,) = changing.expected("interrupted")["killed"]
    sweeps = changing.run("sync")["sweeps"]
    assert [key for sweep in sweeps for key in sweep["sent"]] == [killed]
    assert not [sweep for sweep in sweeps if sweep["refused"] or sweep["problem"]]
    assert sum(sweep["checked"] for sweep in sweeps) == 20


def test_cleaning_removes_nothing_in_a_dry_run(old: OldHome) -> None:
    """It can read every trial, and says what would go."""
    before = sorted(path for path in old.trials.rglob("*") if path.is_file())
    found = old.run("clean", "--dry-run")
    assert (found["freed_bytes"], found["skipped"]) == (0, [])
    assert {row["key"] for row in old.expected("leaderboard-folded")} <= {find["trial"] for find in found["found"]}
    assert sorted(path for path in old.trials.rglob("*") if path.is_file()) == before
