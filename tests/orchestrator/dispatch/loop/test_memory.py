"""Estimates of the GPU memory that trials take."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.loop.memory import MemoryEstimates, Terms, read_peaks
from orchestrator.launchers.base import UNKNOWN, MemoryEstimate
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.records import Attempt, Event, TrialResult, TrialSpec, TrialState
from trainers.config import DataConfig, TrainConfig

GPU = "NVIDIA H100 80GB HBM3"


def make_spec(key: str, **train: object) -> TrialSpec:
    """A trial that is never trained."""
    parts = {"configuration": key, "name": key, "data": DataConfig(), "seed": 0, "source_fingerprint": "f"}
    return TrialSpec(key=key, train=TrainConfig.model_validate(train), **parts)


def finish(home: Home, spec: TrialSpec, peak_mb: float | None, *, device: str = GPU, accumulate: int = 1) -> TrialFolder:
    """Write what a completed trial writes."""
    folder = TrialFolder(home.trial_folder(spec.key))
    folder.create(spec)
    folder.write_attempt(Attempt(number=1, data_folder="/nowhere", accumulate=accumulate))
    facts = {"device": device} | ({} if peak_mb is None else {"peak_memory_mb": peak_mb})
    times = {"started_s": 1.0, "ended_s": 2.0}
    folder.write_result(TrialResult(key=spec.key, state=TrialState.COMPLETE, attempt=1, facts=facts, **times))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path)


def test_a_trial_needs_what_similar_trials_needed(home: Home) -> None:
    """The largest peak with the same network, images and optimizer plus a margin; other fields do not matter."""
    finish(home, make_spec("a"), 4000)
    finish(home, make_spec("b", optimizer={"lr": 0.5}), 5000)
    needs = MemoryEstimates(read_peaks(home))
    assert needs.of(make_spec("new", loss={"name": "dice"}, epochs=99)) == MemoryEstimate(6200, is_measured=True)
    for other in ({"encoder": "resnet18"}, {"batch_size": 64}, {"input_size": [32, 64]}, {"optimizer": {"name": "sgd"}}):
        assert needs.of(make_spec(f"other {other}", **other)) == UNKNOWN


def test_only_gpus_are_measured(home: Home) -> None:
    """Results of the CPU or without a peak, folders of another version and other files are ignored."""
    finish(home, make_spec("a"), 4000, device="cpu (x86_64)")
    finish(home, make_spec("b"), None)
    (finish(home, make_spec("c"), 4000).path / "trial.json").write_text("{}")
    (home.trials / "stray").touch()
    assert list(read_peaks(home)) == []
    assert list(read_peaks(Home(home.root / "nothing"))) == []


def test_parts_of_a_batch_are_a_separate_kind(home: Home) -> None:
    """A peak with half the images per step says nothing about whole batches."""
    finish(home, make_spec("a"), 4000, accumulate=2)
    needs = MemoryEstimates(read_peaks(home))
    cut, whole = make_spec("cut"), make_spec("whole")
    needs.terms[cut.key] = Terms(accumulate=2)
    assert needs.of(whole) == UNKNOWN
    assert needs.of(cut).is_measured


def test_a_running_attempt_reports_its_peak() -> None:
    """After its first epoch, for all trials of its kind; on the CPU there is none."""
    needs = MemoryEstimates()
    needs.record_epoch(make_spec("a"), Event(kind="epoch", time_s=0, attempt=1, epoch=1))
    assert needs.of(make_spec("b")) == UNKNOWN
    needs.record_epoch(make_spec("a"), Event(kind="epoch", time_s=0, attempt=1, epoch=1, facts={"peak_memory_mb": 1000}))
    assert needs.of(make_spec("b")) == MemoryEstimate.of_peak(1000)


def test_more_than_what_was_too_little_replaces_a_peak(home: Home) -> None:
    """However little similar trials took."""
    needs = MemoryEstimates([*read_peaks(home)])
    spec = make_spec("a")
    needs.record_epoch(spec, Event(kind="epoch", time_s=0, attempt=1, epoch=1, facts={"peak_memory_mb": 1000}))
    needs.terms[spec.key] = Terms(more_than_mb=24000)
    assert needs.of(spec) == MemoryEstimate(24001)
