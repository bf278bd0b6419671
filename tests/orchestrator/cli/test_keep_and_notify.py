"""A whole sweep that keeps its best checkpoint and sends notifications, by the command, in its own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.orchestrator.conftest import Chat

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

SWEEP = """
name: tiny
data: {source: synthetic, synthetic: {num_images: 32, height: 32, width: 64}, val_fraction: 0.25, ignore_classes: [0]}
base: {arch: FPN, encoder: resnet18, epochs: 1, batch_size: 8, precision: float32}
seeds: [0, 1]
keep: {checkpoints: 1}
notify: ${CHAT}
"""


class Folder:
    """A user's working folder."""

    def __init__(self, path: Path, chat: Chat) -> None:
        self.path = path
        (path / "tiny.yaml").write_text(SWEEP)
        known = ("MLFLOW_TRACKING_URI", "ORCHESTRATE_STORAGE", "ORCHESTRATE_HOME", "ORCHESTRATE_NOTIFY")
        self._environment = {k: v for k, v in os.environ.items() if k not in known}
        self._environment |= {"ORCHESTRATE_SLOTS": str(path / "slots"), "CHAT": chat.address}

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator.cli", *arguments]
        done = subprocess.run(command, cwd=self.path, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    def sweep(self, *options: str) -> list[dict[str, Any]]:
        """The sweep's trials, best first."""
        done = self.run("sweep", "tiny.yaml", "--launcher", "inline", "--json", *options)
        trials: list[dict[str, Any]] = json.loads(done.stdout)["trials"]
        return sorted(trials, key=lambda trial: -trial["metrics"]["val/miou"])

    def checkpoints(self) -> set[str]:
        """Keys of the trials with a checkpoint in their folder, and of those with one among their artifacts."""
        kept = {path.parent.name for path in self.path.glob("mlruns/trials/*/best.safetensors")}
        assert len(list(self.path.glob("mlruns/artifacts/*/*/artifacts/best.safetensors"))) == len(kept)
        return kept


@pytest.fixture
def folder(tmp_path: Path, chat: Chat) -> Folder:
    """A folder with a chat to notify."""
    return Folder(tmp_path, chat)


def test_a_checkpoint_is_removed_by_the_rule_and_trained_again_on_request(folder: Folder, chat: Chat) -> None:
    """The sweep keeps only the best one and says so; on request the other trial is trained again, to the same mIoU."""
    best, other = folder.sweep()
    assert folder.checkpoints() == {best["key"]}
    assert [got["title"] for got in chat.received] == ["tiny: done"]
    assert best["name"] in chat.received[0]["message"]
    np.savez(folder.path / "test.npz", test_set=np.zeros((4, 32, 64), np.uint8))
    refused = folder.run("predict", other["key"], "test.npz", "--out", "masks.npz", code=2).stderr
    assert f"orchestrate retry SWEEP --trial {other['key']}" in refused

    folder.run("retry", "tiny", "--trial", other["key"])
    anew = ("--set", "keep.checkpoints=all", "--set", "keep.flips=horizontal")
    again = {trial["key"]: trial for trial in folder.sweep(*anew)}
    assert {key: trial["state"] for key, trial in again.items()} == {best["key"]: "CACHED", other["key"]: "COMPLETE"}
    assert again[other["key"]]["metrics"]["val/miou"] == other["metrics"]["val/miou"]
    assert folder.checkpoints() == {best["key"], other["key"]}
    _check_flips(folder, again[other["key"]])
    folder.run("clean")
    assert not list(folder.path.glob("mlruns/trials/*/best.safetensors"))
    folder.run("predict", other["key"], "test.npz", "--out", "masks.npz")


def _check_flips(folder: Folder, other: dict[str, Any]) -> None:
    """Only the trial trained again has flips, on its run too; the ensemble uses them where they score higher."""
    assert [path.parent.parent.name for path in folder.path.glob("mlruns/trials/*/flips/predictions.zst")] == [other["key"]]
    assert len(list(folder.path.glob("mlruns/artifacts/*/*/artifacts/flips/predictions.zst"))) == 1
    alone = json.loads(folder.run("best-ensemble", "tiny", "--tag", f"key={other['key']}", "--json").stdout)
    plain, flipped = other["metrics"]["val/miou"], other["metrics"]["val/miou_flips"]
    assert alone["flips"] == [None if plain >= flipped else "horizontal"]
    assert alone["miou_in_sample"] == max(plain, flipped)
