"""Jobs of a real SLURM cluster work on one sweep; one of them is cancelled."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialState
from tests.orchestrator.slurm_cluster import SlurmCluster, find_daemons

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

EPOCHS = 24

SWEEP = f"""
name: tiny
data: {{source: synthetic, synthetic: {{num_images: 32, height: 32, width: 64}}, val_fraction: 0.25, ignore_classes: [0]}}
base: {{arch: FPN, encoder: resnet18, epochs: {EPOCHS}, batch_size: 8, precision: float32}}
search: {{method: grid, space: {{loss: [{{name: focal}}]}}}}
seeds: [0, 1, 2]
"""

ORCHESTRATE = [shlex.quote(sys.executable), "-m", "orchestrator.cli"]


@pytest.fixture
def cluster() -> Iterator[SlurmCluster]:
    """One node of two CPUs."""
    one = SlurmCluster(*find_daemons())
    yield one
    one.close()


def events_of(folder: Path) -> dict[str, list[Event]]:
    """The events of each trial so far."""
    return {path.name: TrialFolder(path).events()[0] for path in folder.glob("mlruns/trials/*")}


def slots_of_trials(folder: Path) -> set[str]:
    """The slots on which trials have run some epochs."""
    return {str(events[0].facts["slot"]) for events in events_of(folder).values() if len(events) > 3}


def test_two_jobs_work_on_one_sweep_and_one_is_cancelled(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own CPU. The cancelled job keeps its running epoch, the other takes over its trial: no epoch runs twice."""
    monkeypatch.setenv("ORCHESTRATE_SLOTS", str(tmp_path / "slots"))
    for name in ("ORCHESTRATE_HOME", "ORCHESTRATE_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    worker = cluster.submit(tmp_path, [*ORCHESTRATE, "worker", "tiny", "--leave-after", "120"])  # before there is a sweep
    sweep = cluster.submit(tmp_path, [*ORCHESTRATE, "sweep", "tiny.yaml", "--json"])

    deadline_s = time.monotonic() + 240
    while len(slots_of_trials(tmp_path)) < 2:
        assert time.monotonic() < deadline_s, [file.read_text() for file in tmp_path.glob("*.out")]
        time.sleep(0.05)
    cluster.cancel(worker)
    assert cluster.wait(worker, 60) == "CANCELLED"
    stopped = [events for events in events_of(tmp_path).values() if events[-1].kind == "attempt_ended"]
    assert [(events[-1].state, events[-1].reason) for events in stopped] == [(TrialState.WAITING, "stopped")]

    assert cluster.wait(sweep, 400) == "COMPLETED", (tmp_path / f"{sweep}.out").read_text()
    printed = (tmp_path / f"{sweep}.out").read_text()
    trials = json.loads(printed[printed.index("\n{") :])["trials"]
    assert sorted((trial["state"], trial["attempts"]) for trial in trials) == [("COMPLETE", 1), ("COMPLETE", 1), ("COMPLETE", 2)]
    for events in events_of(tmp_path).values():
        assert [event.epoch for event in events if event.kind == "epoch"] == list(range(1, EPOCHS + 1))
