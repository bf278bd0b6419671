"""Sweeps by the command, on the CPU and on a real GPU: trials that share it, and one that does not fit into it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialResult

pytestmark = pytest.mark.timeout(400)

SWEEP = """
name: tiny
data: {{source: synthetic, synthetic: {{num_images: 32, height: 32, width: 64}}, val_fraction: 0.25, ignore_classes: [0]}}
base: {{arch: FPN, encoder: resnet18, epochs: {epochs}, batch_size: 8, loss: {{name: {loss}}}}}
resources: {resources}
seeds: {seeds}
"""
TOGETHER = {"cpu": "{slots: 2}", "gpu": "{trials_per_gpu: 2}", "auto": "{trials_per_gpu: auto}"}

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
on_each = pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.long), pytest.param("gpu", marks=ON_GPU)])
on_each_and_auto = pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.long), *(pytest.param(name, marks=ON_GPU) for name in ("gpu", "auto"))],
)


@pytest.fixture
def sweep(tmp_path: Path, user_code: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs the sweep and returns its trials."""
    hidden = ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}

    def run(device: str, *, seeds: list[int], epochs: int, loss: str = "focal") -> list[dict[str, Any]]:
        text = SWEEP.format(epochs=epochs, loss=loss, resources=TOGETHER[device], seeds=seeds)
        (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
        root = str(Path(__file__).parents[3])  # where the project is not installed
        ours = {"ORCHESTRATE_SLOTS": str(tmp_path / "slots"), "PYTHONPATH": os.pathsep.join([str(user_code), root, *sys.path])}
        if device == "cpu":
            ours["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "orchestrator.cli", "sweep", "tiny.yaml", "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=kept | ours, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        trials: list[dict[str, Any]] = json.loads(done.stdout)["trials"]
        return trials

    return run


def read_result(folder: Path, trial: dict[str, Any]) -> TrialResult:
    """The result in the trial's folder."""
    result = TrialFolder(folder / "mlruns" / "trials" / trial["key"]).result()
    assert result is not None
    return result


@on_each_and_auto
def test_two_trials_share_a_device(device: str, sweep: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    """Both run at the same time; with auto, the second starts when the first has measured their peak."""
    trials = sweep(device, seeds=[0, 1], epochs=4 if device == "cpu" else 200)
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 2
    results = sorted((read_result(tmp_path, trial) for trial in trials), key=lambda result: result.started_s)
    assert results[1].started_s < results[0].ended_s, "one after the other"
    assert len({result.facts["device"] for result in results}) == 1
    assert results[0].facts["device"].startswith("cpu") == (device == "cpu")
    if device == "auto":
        events = TrialFolder(tmp_path / "mlruns" / "trials" / results[0].key).events()[0]
        first_epoch = next(event for event in events if event.kind == "epoch")
        assert first_epoch.time_s < results[1].started_s
        assert first_epoch.facts["memory_mb"] < events[0].facts["memory_mb"]


@on_each
def test_a_trial_that_does_not_fit_trains_with_half_its_batch(
    device: str, sweep: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    """On a GPU, CUDA itself runs out of memory in the second epoch; the trial's only current run says what was changed."""
    [trial] = sweep(device, seeds=[0], epochs=3, loss="'provoking:Growing', options: {most: 4}")
    deviation = "batch of 8 in 2 parts after CUDA out of memory in epoch 2"
    assert (trial["state"], trial["attempts"], trial["deviation"]) == ("COMPLETE", 2, deviation)
    result = read_result(tmp_path, trial)
    assert (result.deviation, result.epochs_run) == (deviation, 3)
    query = "select value from tags where key = ? and run_uuid in (select run_uuid from tags where key = 'key' and value = ?)"
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        current = [value for (value,) in database.execute(query, ("current", trial["key"]))]
        deviations = [value for (value,) in database.execute(query, ("deviation", trial["key"]))]
    assert current.count("true") == 1
    assert deviations.count(deviation) == 1
    assert len(current) == len(deviations) <= 2
