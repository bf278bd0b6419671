"""benchmarks/gpu.py as a dry run on the CPU: every part runs, and a part that fails or hangs leaves the others alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


def run(out: Path, *options: str, code: int) -> dict[str, Any]:
    """Run the script; returns the parts of its document."""
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(out), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    parts: dict[str, Any] = json.loads((out / "gpu.json").read_text())["parts"]
    return parts


def test_every_part_gives_its_results(tmp_path: Path) -> None:
    """A speed for each training, a state for each of the 37 rows; at most eight files, as few as can be copied back."""
    parts = run(tmp_path / "out", "--budget-s", "800", code=0)
    assert list(parts) == ["tests", "single", "packing", "table1", "crops"]
    assert {part["state"] for part in parts.values()} == {"ok"}
    results = {name: part["results"] for name, part in parts.items()}
    counts = results["tests"]["counts"]
    assert counts["skipped"] == counts["tests"] > 0
    trainings = {
        f"{encoder}: {how}"
        for encoder in ("mobilenet_v2", "resnet34")
        for how in ("plain", "plain, bf16", "ours, loaders", "ours, device")
    }
    for name in ("single", "crops"):
        assert trainings <= results[name].keys()
        assert all(results[name][training]["images_per_s"] > 0 for training in trainings)
        assert all(results[name][training]["of_roofline"] > 0 for training in trainings)
    assert results["packing"].keys() == {"1 at once", "2 at once", "auto"}
    assert all(result["images_per_s"] > 0 for result in results["packing"].values())
    assert {row["state"] for row in results["table1"]["rows"]} == {"COMPLETE"}
    assert len(results["table1"]["rows"]) == 37
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert all(row["row"] in page for row in results["table1"]["rows"])
    assert len(list((tmp_path / "out").iterdir())) <= 8


def test_a_part_that_fails_or_hangs_leaves_the_others_alone(tmp_path: Path) -> None:
    """It is recorded with the end of its output; of one that hangs, even with SIGTERM ignored, no process is left."""
    faults = ("--fault", "single=raise", "--fault", "crops=hang")
    parts = run(tmp_path / "out", "--parts", "single,crops,tests", "--budget-s", "60", *faults, code=1)
    assert {name: part["state"] for name, part in parts.items()} == {"single": "error", "crops": "time-out", "tests": "ok"}
    assert "this part fails on purpose" in parts["single"]["output_end"]
    hung = re.search(r"hangs on purpose, with process (\d+)", parts["crops"]["output_end"])
    assert hung is not None
    assert not psutil.pid_exists(int(hung[1]))
    assert parts["crops"]["wall_s"] < parts["crops"]["limit_s"] + 10
    assert parts["tests"]["results"]["counts"]["tests"] > 0
