"""Time and disk space of finished trials, from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.launchers.worker.main import measure_times
from orchestrator.planning.forecast.timings import read_timings
from orchestrator.state.machine import describe_drift
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Event, TrialResult, TrialSpec, TrialState
from trainers.config import DataConfig, TrainConfig


def event(kind: Any, attempt: int, time_s: float, epoch: int | None = None) -> Event:
    """One line of a trial's progress; an epoch with 7 s of training and 2 s of validation."""
    said: dict[str, Any] = {"metrics": {"epoch_s": 7.0}, "facts": {"val_s": 2.0}} if epoch else {}
    return Event(kind=kind, time_s=time_s, attempt=attempt, epoch=epoch, **said)


def lay(trials: Path, key: str, facts: dict[str, Any], **changed: Any) -> None:
    """A finished trial's folder."""
    identity = {"configuration": key, "name": key, "seed": 0, "source_fingerprint": "f"}
    folder = TrialFolder(trials / key)
    folder.create(TrialSpec(key=key, train=TrainConfig(encoder="resnet18"), data=DataConfig(size=(8, 16)), **identity))
    (folder.path / "best.safetensors").write_bytes(bytes(5000))
    figures: dict[str, Any] = {"attempt": 1, "started_s": 100, "ended_s": 160, "epochs_run": 5, "facts": facts}
    folder.write_result(TrialResult(key=key, state=TrialState.COMPLETE, **(figures | changed)))


def test_a_night_between_two_attempts_takes_no_time() -> None:
    """Attempts count from start to end, a killed one to its last event; an epoch from one end to the next."""
    events = [
        event("attempt_started", 1, 0),
        event("epoch", 1, 15, 1),
        event("epoch", 1, 25, 2),
        event("attempt_started", 2, 40_000),
        event("epoch", 2, 40_014, 3),
        event("epoch", 2, 40_024, 4),
    ]
    assert measure_times(events, 40_030) == {"attempts_s": 55, "epoch_s": 10, "val_s": 2}


def test_a_single_epoch_is_its_training_and_its_validation() -> None:
    """The start of its attempt would otherwise count once per epoch of a longer training."""
    found = measure_times([event("attempt_started", 1, 0), event("epoch", 1, 15, 1)], 20)
    assert found == {"attempts_s": 20, "epoch_s": 9, "val_s": 2}


def test_folders_are_read(tmp_path: Path) -> None:
    """With the facts of their results, also of older ones; unreadable folders are skipped."""
    new = {"device": "cpu (x86_64)", "num_threads": 2, "num_samples": 90, "num_val": 10}
    lay(tmp_path, "new", new | {"attempts_s": 50.0, "epoch_s": 8.0, "val_s": 1.5, "input_size": [4, 8], "version/torch": "2.1"})
    lay(tmp_path, "old", new)
    lay(tmp_path, "resumed", new | {"images_per_s": 9.0}, attempt=2, started_s=0)
    lay(tmp_path, "other", {})
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "result.json").write_text("{")
    read = {timing.key: timing for timing in read_timings(tmp_path, ["new"], {})}
    assert read.keys() == {"new", "old", "resumed"}
    assert (read["new"].size, read["new"].train_s, read["new"].val_s, read["new"].overhead_s) == ((4, 8), 6.5, 1.5, 10.0)
    assert (read["new"].device, read["new"].num_threads, read["new"].versions) == ("cpu", 2, {"version/torch": "2.1"})
    assert (read["old"].size, read["old"].overhead_s) == ((8, 16), 0.0)
    assert read["old"].val_s == pytest.approx(12 * 10 / 3 / (90 + 10 / 3)), "by a rule"
    assert read["old"].train_s + read["old"].val_s == pytest.approx(12)
    assert (read["resumed"].train_s + read["resumed"].val_s, read["resumed"].overhead_s) == (10.0, 0.0)
    assert read["new"].weights_bytes == 5000
    assert read["new"].other_bytes == pytest.approx(sum(f.stat().st_size for f in (tmp_path / "new").iterdir()) - 5000)
    assert read_timings(tmp_path / "not yet", [], {}) == []


def test_drift_is_described_in_one_line() -> None:
    """By library, with the number of results."""
    today = {"version/torch": "2.15.0", "version/timm": "1.0"}
    results = [{"version/torch": "2.11.0", "version/timm": "1.0"}, dict(today), {"version/gone": "1"}]
    text = describe_drift(results, today)
    assert text is not None
    assert text.startswith("1 of 3 reused results were made with other versions: torch 2.11.0 (now 2.15.0).")
    assert describe_drift(results[1:], today) is None
