"""A machine is lost during training, and another, which shares only the two servers with it, resumes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event
from tests.orchestrator.cli.test_two_machines import Machine, _wait_until
from tests.orchestrator.tracking.conftest import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # mlflow 3.17, SQLAlchemy 2.1
]

SWEEP = """
name: tiny
data: {source: synthetic, synthetic: {num_images: 24, height: 32, width: 64}, val_fraction: 0.25, ignore_classes: [0]}
base: {arch: FPN, encoder: resnet18, epochs: 20, batch_size: 6, precision: float32}
rows: [{id: 1, loss: {name: dice}}]
resources: {slots: 1, threads_per_slot: 1}
limits: {free_disk_gb: 0, checkpoint_s: 0, takeover_s: 0}
"""


@pytest.fixture
def machines(tmp_path: Path, server: Server) -> Iterator[tuple[Machine, Machine, Machine]]:
    """The machine that is lost, the one that resumes, and one by itself."""
    (tmp_path / "shared").mkdir()
    server.start()
    shared = {"MLFLOW_TRACKING_URI": server.uri}
    found = (
        Machine(tmp_path / "lost", tmp_path / "shared", **shared),
        Machine(tmp_path / "next", tmp_path / "shared", **shared),
        Machine(tmp_path / "alone", tmp_path / "shared", ORCHESTRATE_STORAGE="", MLFLOW_TRACKING_URI=""),
    )
    for machine in found:
        (machine.folder / "tiny.yaml").write_text(SWEEP)
    yield found
    for machine in found:
        machine.kill()


def find_run(client: MlflowClient) -> Run | None:
    """The sweep's only one."""
    experiment = client.get_experiment_by_name("tiny")
    runs = [] if experiment is None else client.search_runs([experiment.experiment_id])
    assert len(runs) <= 1
    return runs[0] if runs else None


def folder_of(machine: Machine) -> TrialFolder:
    """Of its only trial."""
    [path] = (machine.folder / "mlruns/trials").iterdir()
    return TrialFolder(path)


def course(events: list[Event]) -> dict[int, float]:
    """Epoch -> val/miou, as first reported."""
    return {event.epoch: event.metrics["val/miou"] for event in reversed(events) if event.epoch is not None}


def test_a_lost_machines_trial_resumes_from_its_uploaded_checkpoint(
    machines: tuple[Machine, Machine, Machine], server: Server
) -> None:
    """After kill -9 of everything on it, the weights equal those of an undisturbed training, and each epoch is reported once."""
    lost, other, alone = machines
    client = MlflowClient(tracking_uri=server.uri)
    mirrored: dict[str, Any] = {}

    def is_mirrored() -> bool:
        run = find_run(client)
        if run is not None and "checkpoint" in run.data.tags:
            mirrored.update(json.loads(run.data.tags["checkpoint"]))
        return mirrored.get("epoch", 0) >= 3

    sweep = lost.start("sweep", "tiny.yaml")
    _wait_until(is_mirrored, sweep)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    (lost.folder / "mlruns").rename(lost.folder / "gone")

    [trial] = other.run("worker", "tiny")["trials"]
    assert (trial["state"], trial["attempts"]) == ("COMPLETE", 2)
    events = folder_of(other).events()[0]
    first = next(event for event in events if event.kind == "epoch" and event.attempt == 2)
    assert first.epoch is not None
    assert mirrored["epoch"] < first.epoch <= 20
    [undisturbed] = alone.run("sweep", "tiny.yaml")["trials"]
    assert trial["metrics"]["val/miou"] == undisturbed["metrics"]["val/miou"]
    assert course(events) == course(folder_of(alone).events()[0])
    weights, expected = (load_file(folder_of(one).path / "best.safetensors") for one in (other, alone))
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(expected[name]) for name in weights)

    run = find_run(client)
    assert run is not None
    assert (run.info.status, run.data.tags["attempt"]) == ("FINISHED", "2")
    assert run.data.tags["goes_on_from"].startswith(f"resumed from epoch {first.epoch - 1} of attempt 1 on ")
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "epoch/val/miou")]
    assert sorted(steps) == list(range(1, 21))
    assert "checkpoint" not in run.data.tags
    assert not [file.path for file in client.list_artifacts(run.info.run_id) if file.path == "checkpoint"]
