"""The list of a trial folder's files, against what a real trial leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.launchers.worker.contract import ExitCode, Slot
from orchestrator.launchers.worker.main import work
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import ADOPTED, ARTIFACTS, OF_ATTEMPTS, TrialFile, TrialFolder, write_removal
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from trainers.prediction.weights import BEST
from trainers.training.checkpoint import LAST


def list_files(folder: Path) -> set[str]:
    """Paths of all files, relative to the folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_every_file_of_a_trial_is_listed(make_trial: Callable[..., TrialFolder], tmp_path: Path) -> None:
    """A trial that is stopped, resumed, mirrored and cleaned writes the files of the list, and no others."""
    home = Home(tmp_path / "mlruns")
    trial = make_trial(home.trials / "t", epochs=2)
    trial.write_attempt(trial.attempt().model_copy(update={"keep_flips": "horizontal"}))
    slot = Slot("cpu-0", "", 1)

    assert work(trial.path, slot, lambda: bool(trial.events()[0][1:])) is ExitCode.STOPPED
    seen = list_files(trial.path)
    assert {TrialFile.CHECKPOINT, TrialFile.CHECKPOINT_INFO} <= seen
    assert work(trial.path, slot, lambda: False) is ExitCode.COMPLETE
    (trial.path / TrialFile.LOG).touch()  # a process of its own prints there
    Recorder(TrackingLocation.of(home)).send("s", trial, ended=True)
    write_removal(trial, "keep")
    seen |= list_files(trial.path)

    assert seen == set(TrialFile) - {TrialFile.MIRRORED, TrialFile.STOP}  # of takeovers, and of Ray
    assert set(ARTIFACTS) <= list_files(trial.path)


def test_an_adopted_trial_keeps_no_results_of_attempts_here() -> None:
    """The fetched files replace those that were there, the result last."""
    assert ADOPTED[-1] is ARTIFACTS[-1] is TrialFile.RESULT
    assert {
        "trial.json", "best.safetensors", "predictions.json", "predictions.zst", "predictions.labels.zst", "confusions.npz",
        "samples.png", "log.txt", "progress.jsonl", "result.json",
    } <= set(ARTIFACTS)  # fmt: skip
    assert set(ADOPTED) <= set(OF_ATTEMPTS)
    kept = set(TrialFile) - set(OF_ATTEMPTS)
    assert {TrialFile.SPEC, TrialFile.ATTEMPT, TrialFile.LOCK, TrialFile.MIRROR_LOCK, TrialFile.LOG} <= kept


def test_the_trainers_use_the_same_names() -> None:
    """So that code that needs only a name need not import torch."""
    assert (TrialFile.WEIGHTS, TrialFile.CHECKPOINT) == (BEST, LAST)
