"""The whole workflow by the command, in its own processes: sweep, kill, resume, leaderboard, ensemble, dead server."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SWEEP = """
name: tiny
data: {source: synthetic, synthetic: {num_images: 32, height: 32, width: 64}, val_fraction: 0.25, ignore_classes: [0]}
base: {arch: FPN, encoder: resnet18, epochs: 6, batch_size: 8, precision: float32}
search:
  method: grid
  space:
    loss: [{name: focal}, {name: dice}]
seeds: [0, 1]
"""


def _command(folder: Path, *arguments: str) -> list[str]:
    (folder / "tiny.yaml").write_text(SWEEP, encoding="utf-8")
    return [sys.executable, "-m", "orchestrator.cli", *arguments]


def _environment(folder: Path, **variables: str) -> dict[str, str]:
    """A user's environment with separate slots, so that other sweeps of this machine do not delay the test."""
    clean = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_HOME")}
    return clean | {"ORCHESTRATE_SLOTS": str(folder / "slots")} | variables


def _run(folder: Path, *arguments: str, code: int = 0, **variables: str) -> Any:
    """Run a command with --json; returns its document."""
    environment = _environment(folder, **variables)
    done = subprocess.run(
        [*_command(folder, *arguments), "--json"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def _query(database: Path, statement: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(statement).fetchall()


def _has_trained_an_epoch(folder: Path) -> bool:
    return any(b'"kind":"epoch"' in path.read_bytes() for path in folder.glob("mlruns/trials/*/progress.jsonl"))


def test_a_sweep_survives_the_death_of_its_whole_group(tmp_path: Path) -> None:
    """After kill -9, the same command resumes, runs nothing twice and leaves no run RUNNING; then everything is cached."""
    command = [*_command(tmp_path, "sweep", "tiny.yaml"), "--json"]
    first = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=_environment(tmp_path),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 240
    while not _has_trained_an_epoch(tmp_path):
        assert first.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()

    document = _run(tmp_path, "sweep", "tiny.yaml")

    trials = document["trials"]
    assert len({trial["key"] for trial in trials}) == len(trials) == 4
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "CACHED"}
    assert all(trial["attempts"] <= 2 for trial in trials)
    assert all(0 <= trial["metrics"]["val/miou"] <= 1 and trial["run_id"] for trial in trials)
    assert _query(tmp_path / "mlruns/mlflow.db", "select status, count(*) from runs group by status") == [("FINISHED", 4)]
    assert _query(tmp_path / "mlruns/ledger.db", "select distinct state from ledger_trials") == [("COMPLETE",)]
    for trial in trials:
        lines = (tmp_path / "mlruns/trials" / trial["key"] / "progress.jsonl").read_text().splitlines()
        assert Counter(json.loads(line).get("state") for line in lines)["COMPLETE"] == 1

    again = _run(tmp_path, "sweep", "tiny.yaml")
    assert {trial["state"] for trial in again["trials"]} == {"CACHED"}
    assert {trial["key"]: trial["run_id"] for trial in again["trials"]} == {trial["key"]: trial["run_id"] for trial in trials}

    ranked = _run(tmp_path, "leaderboard", "tiny")
    assert [row["rank"] for row in ranked] == [1, 2, 3, 4]
    assert [row["miou"] for row in ranked] == sorted((trial["metrics"]["val/miou"] for trial in trials), reverse=True)

    ensemble = _run(tmp_path, "best-ensemble", "tiny", "--k", "3")
    assert set(ensemble["members"]) <= {trial["key"] for trial in trials}
    assert ensemble["miou_in_sample"] >= ranked[0]["miou"]
    assert _query(tmp_path / "mlruns/mlflow.db", f"select status from runs where run_uuid = '{ensemble['run_id']}'") == [
        ("FINISHED",)
    ]


@pytest.mark.long
def test_a_dead_tracking_server_delays_only_the_mirror(tmp_path: Path) -> None:
    """With no server at MLFLOW_TRACKING_URI, the trials are trained; the next sweep sends them to MLflow."""
    cut = ("sweep", "tiny.yaml", "--launcher", "inline", "--set", "base.epochs=1", "--set", "seeds=[0]")

    document = _run(tmp_path, *cut, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert [trial["state"] for trial in document["trials"]] == ["COMPLETE", "COMPLETE"]

    later = _run(tmp_path, *cut)
    assert [trial["state"] for trial in later["trials"]] == ["CACHED", "CACHED"]
    assert _query(tmp_path / "mlruns/mlflow.db", "select status, count(*) from runs group by status") == [("FINISHED", 2)]


@pytest.mark.long
def test_a_failed_trial_is_a_result_and_can_be_retried(tmp_path: Path) -> None:
    """The sweep continues, exits with 1 and prints the reason; after `retry` the trial is trained again."""
    (tmp_path / "my_losses.py").write_text(
        "import os\nimport torch\n\n\nclass Fragile(torch.nn.Module):\n"
        "    def forward(self, logits, target):\n"
        "        if not os.path.exists('mended'):\n            raise RuntimeError('[broken] on purpose')\n"
        "        return torch.nn.functional.cross_entropy(logits, target, ignore_index=255)\n",
        encoding="utf-8",
    )
    space = 'search.space.loss=[{name: dice}, {name: "my_losses:Fragile"}]'
    cut = ("sweep", "tiny.yaml", "--launcher", "inline", "--set", "base.epochs=1", "--set", "seeds=[0]", "--set", space)

    document = _run(tmp_path, *cut, code=1)
    states = {trial["name"]: trial["state"] for trial in document["trials"]}
    assert sorted(states.values()) == ["COMPLETE", "FAILED"]
    failed = next(trial for trial in document["trials"] if trial["state"] == "FAILED")
    assert failed["reason"] == "RuntimeError: [broken] on purpose"

    (tmp_path / "mended").touch()
    assert {trial["state"] for trial in _run(tmp_path, *cut, code=1)["trials"]} == {"CACHED", "FAILED"}
    subprocess.run(_command(tmp_path, "retry", "tiny"), cwd=tmp_path, env=_environment(tmp_path), check=True)
    assert {trial["state"] for trial in _run(tmp_path, *cut)["trials"]} == {"CACHED", "COMPLETE"}


@pytest.mark.long
def test_ctrl_c_lets_the_running_epoch_end_and_keeps_it(tmp_path: Path) -> None:
    """SIGINT ends the sweep with exit code 130 and a document; stopped trials wait with their checkpoints."""
    long = ("sweep", "tiny.yaml", "--set", "base.epochs=500", "--set", "seeds=[0]")
    command = [*_command(tmp_path, *long), "--json"]
    sweep = subprocess.Popen(
        command, cwd=tmp_path, env=_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 240
    while not _has_trained_an_epoch(tmp_path):
        assert sweep.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    stdout, stderr = sweep.communicate(timeout=120)

    assert sweep.returncode == 130, stderr
    assert "WAITING" in {trial["state"] for trial in json.loads(stdout)["trials"]}
    checkpoints = list(tmp_path.glob("mlruns/trials/*/last.pt"))
    assert checkpoints
    assert _query(tmp_path / "mlruns/ledger.db", "select distinct state from ledger_trials") == [("WAITING",)]
    assert ("RUNNING",) not in _query(tmp_path / "mlruns/mlflow.db", "select distinct status from runs")
