"""What `orchestrate sweep` prints before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(200)]

SWEEP = """
data: {source: synthetic, synthetic: {num_images: 16, height: 32, width: 64}, val_fraction: 0.25, ignore_classes: [0]}
base: {arch: FPN, encoder: resnet18, epochs: 1, batch_size: 6, precision: float32}
rows:
  - {id: 1}
  - {id: 2, loss: {name: dice}}
"""


def run(folder: Path, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the sweep, in one process."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_HOME")
    }
    command = [sys.executable, "-m", "orchestrator.cli", "sweep", "tiny.yaml", "--launcher", "inline", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def plan(folder: Path, *options: str) -> dict[str, Any]:
    """The plan as JSON."""
    read: dict[str, Any] = json.loads(run(folder, "--plan", "--json", *options).stdout)
    return read


def test_edits_of_a_sweep_are_shown_before_it_runs(tmp_path: Path) -> None:
    """The plan shows what changed, what it trains, how long that takes and where it is stored; it leaves no trace."""
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    first = plan(tmp_path)
    assert (first["changes"], first["estimate"], first["disk"], first["drift"]) == (None, None, None, None)
    assert "nothing has been trained on the CPU" in first["notes"][0]
    run(tmp_path, "--json")

    (tmp_path / "tiny.yaml").write_text(
        SWEEP.replace("dice", "jaccard") + "  - {id: 3, arch: Linknet, epochs: 2}\nlimits: {silence_s: 800}\n"
    )
    edited = plan(tmp_path)
    changes, estimate = edited["changes"], edited["estimate"]
    assert [(entry["row"], entry["fields"]) for entry in changes["changed"]] == [
        (
            "2",
            [
                {
                    "field": "loss",
                    "old": {"name": "dice", "ignore_classes": None},
                    "new": changes["changed"][0]["fields"][0]["new"],
                }
            ],
        )
    ]
    assert [entry["row"] for entry in changes["added"]] == ["3"]
    assert changes["unchanged"] == 1
    assert [difference["field"] for difference in changes["settings"]] == ["limits.silence_s"]
    assert [trial["state"] for trial in edited["trials"]] == ["CACHED", "WAITING", "WAITING"]
    assert [trial["estimated_s"] is None for trial in edited["trials"]] == [True, False, False]
    assert (estimate["num_trials"], estimate["slots"], estimate["guessed"]) == (2, 1, {"others": 1})
    assert 0 < estimate["wall_s"] < 600
    assert 0 < edited["disk"]["kept_gb"] < 1

    printed = run(tmp_path, "--plan", "--set", "limits.free_disk_gb=1000000000").stdout
    printed = " ".join(printed.split())  # lines are as long as the terminal
    assert "row 2 changed: loss {name: dice} -> {name: jaccard} (1 to train)" in printed
    assert "the sweep will stop before it is complete" in printed
    refused = run(
        tmp_path, "--set", "limits.free_disk_gb=1000000000", "--set", "rows[2].arch=FPN", "--set", "rows[2].epochs=3", code=2
    )
    assert "Nothing was started" in refused.stderr
    assert plan(tmp_path)["changes"] == changes

    done = run(tmp_path, "--json")
    assert done.stderr.index("started  row 3") < done.stderr.index("started  row 2"), "the long one goes first"
    assert [trial["name"] for trial in json.loads(done.stdout)["trials"]] == ["row 1", "row 2", "row 3"]
    assert plan(tmp_path)["changes"]["changed"] == []
