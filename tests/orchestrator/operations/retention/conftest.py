"""A home with ended trials in ledger, folders and a real MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.state.home import Home
from orchestrator.state.ledger import Ledger
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import TrialState
from orchestrator.tracking.checkpoints.retention import CheckpointRecords
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.runs import RunReader
from tests.orchestrator.tracking.conftest import Worker, empty_database, location

__all__ = ["empty_database", "location"]

CHECKPOINT = "best.safetensors"


@dataclass
class Bench:
    """Ends trials in a home."""

    home: Home
    ledger: Ledger
    recorder: Recorder
    worker: Worker

    def end(
        self, key: str, *, best: float = 0.5, sweep: str = "s", state: TrialState = TrialState.COMPLETE, is_sent: bool = True
    ) -> TrialFolder:
        """A trial of ``sweep`` that ended, with all that it may leave."""
        folder = self.worker.start(key)
        self.worker.epoch(folder, 1, best)
        for name in ("last.pt", "predictions.json", "predictions.zst", "predictions.labels.zst"):
            (folder.path / name).write_bytes(b"x" * 100)
        self.worker.finish(folder, state=state, best=best)
        self.enter(key, sweep, state)
        if is_sent:
            self.recorder.send(sweep, folder, ended=True)
        return folder

    def enter(self, key: str, sweep: str, state: TrialState) -> None:
        """Into the ledger."""
        self.ledger.register(sweep, [(key, "c1")])
        assert self.ledger.claim(key, sweep, "me") is not None
        self.ledger.finish(key, "me", state)

    def artifacts(self, key: str) -> list[Path]:
        """The checkpoints of a trial in the artifact store."""
        runs = [run for run in RunReader(TrackingLocation.of(self.home)).list_runs() if run.key == key]
        return [path for run in runs for path in self.home.artifacts.glob(f"*/{run.files_run_id}/artifacts/{CHECKPOINT}")]

    def has_checkpoint(self, key: str) -> bool:
        """In its folder and among its artifacts; in neither: False."""
        there = {(self.home.trial_folder(key) / CHECKPOINT).exists(), bool(self.artifacts(key))}
        assert len(there) == 1
        return there.pop()

    def records(self) -> CheckpointRecords:
        return CheckpointRecords(TrackingLocation.of(self.home))


@pytest.fixture
def bench(location: TrackingLocation) -> Bench:
    """Nothing has ended yet."""
    home = Home(location.trials.parent)
    return Bench(home, Ledger(home.ledger_url), Recorder(location), Worker(location.trials))
