"""Three real trials and the ensemble of them, in a home and an MLflow of their own; made once for all tests here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.ensemble.best import EnsembleOptions, best_ensemble
from orchestrator.ensemble.evaluation.report import EnsembleReport
from orchestrator.launchers.worker.contract import Slot
from orchestrator.launchers.worker.main import work
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.tracking.location import TrackingLocation
from orchestrator.tracking.mirror.recorder import Recorder
from orchestrator.tracking.reader.runs import RunReader
from trainers.data import open_dataset, split_dataset
from trainers.device import limited_threads


@dataclass(frozen=True)
class Trained:
    """What is there: three trials of one sweep, their ensemble, and the validation images that it was chosen on."""

    home: Home
    sweep: str
    keys: tuple[str, ...]
    report: EnsembleReport
    images: NDArray[np.uint8]
    """(V, H, W), gray."""
    masks: NDArray[np.uint8]
    source: Path
    """The same images as .npz."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the trials were validated with: sums of one order give equal bits."""
    with limited_threads(1):
        yield


@pytest.fixture(scope="session")
def trained(make_trial: Callable[..., TrialFolder], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Of small networks; the members' batches differ, and one is validated with flips."""
    home, sweep = Home(tmp_path_factory.mktemp("a home") / "mlruns"), "tiny"
    small = {"arch": "Unet", "encoder": "timm-mobilenetv3_small_100", "arch_options": {"decoder_channels": [16, 16, 8, 8, 8]}}
    variants = ({}, {"batch_size": 3}, {"test_time_flips": "horizontal"})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        recorder, trials = Recorder(TrackingLocation.of(home)), []
        for seed, variant in enumerate(variants):
            scratch = make_trial(home.trials / str(seed), seed=seed, **small, **variant)
            trial = TrialFolder(scratch.path.rename(home.trial_folder(scratch.spec().key)))
            work(trial.path, Slot("cpu-0", "", 1), lambda: False)
            recorder.send(sweep, trial, ended=True)
            trials.append(trial.spec())
        report = best_ensemble(
            RunReader(TrackingLocation.of(home)), [sweep], EnsembleOptions(k=3, exactly=True), cache=home.cache
        )
    data = open_dataset(tiny_data)
    val = split_dataset(data, trials[0].data, None).split.val
    images, masks = np.asarray(data.images[val])[..., 0], np.asarray(data.masks[val])
    np.savez_compressed(home.root / "val.npz", test_set=images)
    return Trained(home, sweep, tuple(spec.key for spec in trials), report, images, masks, home.root / "val.npz")
