"""What is kept of the validation images: confusion matrices, probabilities, some samples; on request also with flips."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.state.files import write_atomically
from orchestrator.state.trial.folder import TrialFile, TrialFolder
from orchestrator.state.trial.outputs import write_confusions, write_predictions
from orchestrator.state.trial.records import FLIPS, FLIPS_MIOU, OBJECTIVE
from trainers.config import VOID
from trainers.pictures import draw_samples, encode_png, pick_evenly

if TYPE_CHECKING:  # they import torch
    from orchestrator.launchers.worker.contract import Slot
    from trainers.data import SplitData
    from trainers.training.evaluate import Evaluated
    from trainers.training.train import TrainResult

NUM_SAMPLES = 6
"""Validation images drawn into samples.png."""


def write_validation(trial: TrialFolder, trained: TrainResult, data: SplitData) -> None:
    """Write the confusion matrices, probabilities and samples of the best epoch."""
    if trained.confusions is not None:
        write_confusions(trial.path / TrialFile.CONFUSIONS, trained.confusions, ignore_classes=data.ignore_classes)
    if trained.predictions is not None:
        _write_predictions(trial.path, trained.predictions, data)
        _draw_samples(trial.path / TrialFile.SAMPLES, trained.predictions, data)


def add_flips(
    trial: TrialFolder, trained: TrainResult, data: SplitData, *, slot: Slot, on_batch: Callable[[], None]
) -> TrainResult:
    """Write a second set of predictions with the flips that the attempt asks for; returns the result with its score added.

    Flips that the trial was validated with need no second set. An earlier attempt's set is deleted.
    """
    from trainers.device import Compute
    from trainers.training.evaluate import evaluate_checkpoint, score

    shutil.rmtree(trial.path / FLIPS, ignore_errors=True)
    config, attempt = trial.spec().train, trial.attempt()
    if attempt.keep_flips in ("none", config.test_time_flips):
        return trained
    flipped: Evaluated = evaluate_checkpoint(
        trial.path,
        config,
        data,
        flips=attempt.keep_flips,
        compute=Compute(slot.device, slot.num_threads, attempt.accumulate),
        on_batch=on_batch,
    )
    assert flipped.predictions is not None
    (trial.path / FLIPS).mkdir()
    write_confusions(trial.path / TrialFile.FLIPS_CONFUSIONS, flipped.confusions, ignore_classes=data.ignore_classes)
    _write_predictions(trial.path / FLIPS, flipped.predictions, data)
    miou = score(flipped.confusions, data)[OBJECTIVE]
    return replace(trained, metrics=trained.metrics | {FLIPS_MIOU: miou}, facts=trained.facts | {FLIPS: attempt.keep_flips})


def _write_predictions(folder: Path, predictions: NDArray[np.uint8], data: SplitData) -> None:
    indices = data.split.val
    write_predictions(
        folder,
        predictions,
        np.asarray(data.data.masks[indices]),
        ignore_classes=data.ignore_classes,
        scored_fingerprint=data.scored_fingerprint,
        groups=None if data.data.groups is None else data.data.groups[indices],
    )


def _draw_samples(path: Path, predictions: NDArray[np.uint8], data: SplitData) -> None:
    some = pick_evenly(len(data.split.val), NUM_SAMPLES)
    indices = data.split.val[some]
    images, labels = np.asarray(data.data.images[indices]), np.asarray(data.data.masks[indices])
    scored = np.where(np.isin(labels, data.ignore_classes), VOID, labels)
    predicted = predictions[some].argmax(axis=1).astype(np.uint8)
    write_atomically(path, encode_png(draw_samples(images, scored, predicted, num_classes=data.data.num_classes)))
