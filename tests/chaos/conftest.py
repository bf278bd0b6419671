"""The sweep as it goes where nobody disturbs it: what it finds then, and how long it takes here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.state.trial.folder import TrialFolder
from orchestrator.tracking.client import connect
from orchestrator.tracking.location import TrackingLocation
from tests.chaos.scene import Scene


@dataclass(frozen=True)
class Undisturbed:
    """What every sweep has to come to."""

    scene: Scene
    document: Any
    wall_s: float

    @property
    def keys(self) -> set[str]:
        return {trial["key"] for trial in self.document["trials"]}

    @property
    def num_configurations(self) -> int:
        return len({trial["config"]["train"]["loss"]["name"] for trial in self.document["trials"]})

    def folder(self, key: str) -> TrialFolder:
        return TrialFolder(self.scene.home.trial_folder(key))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Run once, with MLflow embedded."""
    scene = Scene(tmp_path_factory.mktemp("undisturbed") / "scene")
    began_s = time.monotonic()
    ended = scene.run()
    assert ended.code == 0, ended.stderr
    return Undisturbed(scene, ended.document, time.monotonic() - began_s)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, for servers to start from."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(TrackingLocation(f"sqlite:///{folder}/mlflow.db", folder / "artifacts", folder / "trials", folder / "locks"))
    return folder / "mlflow.db"
