"""A sweep of rows with fixed ensembles and its report, by the command."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.documented import documented_fields, fields_of

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400)]

SWEEP = """
name: tiny
data: {source: synthetic, synthetic: {num_images: 32, height: 32, width: 64}, val_fraction: 0.25, ignore_classes: [0]}
base: {arch: FPN, encoder: resnet18, epochs: 1, batch_size: 8, precision: float32}
rows:
  - {id: 1, label: FPN focal, reported: 0.5, loss: {name: focal}}
  - {id: 2, label: FPN dice, loss: {name: dice}}
ensembles:
  - {id: 3, label: 1+2, reported: 0.6, members: [1, 2]}
"""

BROKEN = """
import torch


class Broken(torch.nn.Module):
    def forward(self, logits, target):
        raise RuntimeError("[broken] on purpose")
"""


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run a command; returns what it printed."""
    (folder / "tiny.yaml").write_text(SWEEP, encoding="utf-8")
    hidden = ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"ORCHESTRATE_SLOTS": str(folder / "slots")}
    command = [sys.executable, "-m", "orchestrator.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def read(folder: Path, *arguments: str, code: int = 0) -> Any:
    """Run a command with --json; returns its document."""
    return json.loads(run(folder, *arguments, "--json", code=code))


def test_a_table_is_run_combined_and_reported(tmp_path: Path) -> None:
    """Ensembles are evaluated once; a member that fails later is named; the report is written as JSON and as a page."""
    planned = read(tmp_path, "sweep", "tiny.yaml", "--plan")
    keys = [trial["key"] for trial in planned["trials"]]
    assert [trial["row"] for trial in planned["trials"]] == ["1", "2"]
    assert [(e["id"], e["members"], e["state"]) for e in planned["ensembles"]] == [(3, keys, "WAITING")]

    first = read(tmp_path, "sweep", "tiny.yaml", "--launcher", "inline")
    (ensemble,) = first["ensembles"]
    assert (ensemble["state"], ensemble["members"], ensemble["reported"]) == ("COMPLETE", keys, 0.6)
    assert ensemble["ci95"][0] <= ensemble["miou"] <= ensemble["ci95"][1]
    assert fields_of(first) == documented_fields("sweep")
    best = max(trial["metrics"]["val/miou"] for trial in first["trials"])
    assert ensemble["gain_over_best_member"] == pytest.approx(ensemble["miou"] - best)

    (again,) = read(tmp_path, "sweep", "tiny.yaml", "--launcher", "inline")["ensembles"]
    assert again == ensemble | {"state": "CACHED"}
    with sqlite3.connect(tmp_path / "mlruns/mlflow.db") as database:
        names = database.execute("select name, status from runs order by name").fetchall()
    assert names == [("1: FPN focal", "FINISHED"), ("2: FPN dice", "FINISHED"), ("3: 1+2", "FINISHED")]

    document = read(tmp_path, "report", "--out", "table.html")
    assert [(line["row"], line["name"], line["reported"]) for line in document["lines"]] == [
        ("1", "FPN focal", 0.5), ("2", "FPN dice", None), ("3", "1+2", 0.6),
    ]  # fmt: skip
    mious = [line["miou"] for line in document["lines"]]
    assert mious == pytest.approx([*(trial["metrics"]["val/miou"] for trial in first["trials"]), ensemble["miou"]])
    assert document["lines"][2]["gain_ci95"] == pytest.approx(ensemble["gain_ci95"])
    assert document["class_names"] == [name for name in document["class_names"] if name in ensemble["class_iou"]]
    page = (tmp_path / "table.html").read_text(encoding="utf-8")
    assert "FPN dice" in page
    assert "data:image/png;base64," in page

    (tmp_path / "my_losses.py").write_text(BROKEN, encoding="utf-8")
    changed = read(
        tmp_path, "sweep", "tiny.yaml", "--launcher", "inline", "--set", 'rows[1].loss={name: "my_losses:Broken"}', code=1
    )
    (ensemble,) = changed["ensembles"]
    assert (ensemble["state"], ensemble["miou"]) == ("MISSING", None)
    assert "2: FPN dice is FAILED" in ensemble["reason"]
    document = read(tmp_path, "report")
    lines = document["lines"]
    assert [(line["row"], line["miou"] is None) for line in lines] == [("1", False), ("2", True), ("3", True)]
    assert "[broken] on purpose" in lines[1]["failures"][0]["reason"]
    assert "2: FPN dice is FAILED" in lines[2]["failures"][0]["reason"]
    assert document["num_left_out"] == 1
