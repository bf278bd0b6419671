"""What the folder of a trial says of its course, for pruners that compare it with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.analysis.stats import compute_miou
from orchestrator.state.home import Home
from orchestrator.state.trial.folder import TrialFolder
from orchestrator.state.trial.outputs import read_confusions
from orchestrator.state.trial.records import OBJECTIVE, TrialSpec


@dataclass(frozen=True)
class ImageScores:
    """A finished trial's mIoU on each validation image. scored: fingerprint of what was scored. values: NaN: nothing to score."""

    scored: str
    values: tuple[float, ...]


class History(Protocol):
    """The course of trials, running and finished."""

    def epochs(self, trial: TrialSpec) -> Mapping[int, float]:
        """Epoch, from 1 -> val/miou; empty where nothing is known."""

    def images(self, trial: TrialSpec) -> ImageScores | None:
        """The images of a finished trial; None where they are not to be had."""


class NoHistory:
    """Nothing is known of any trial."""

    def epochs(self, trial: TrialSpec) -> Mapping[int, float]:
        return {}

    def images(self, trial: TrialSpec) -> ImageScores | None:
        return None


class FolderHistory:
    """Reads trial folders of this machine; what a finished trial has scored is read once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._images: dict[str, ImageScores] = {}

    def epochs(self, trial: TrialSpec) -> Mapping[int, float]:
        """Of an epoch that was trained again after a kill, the last."""
        events, _ = self._folder(trial).events()
        return {e.epoch: e.metrics[OBJECTIVE] for e in events if e.epoch is not None and OBJECTIVE in e.metrics}

    def images(self, trial: TrialSpec) -> ImageScores | None:
        if trial.key not in self._images and (read := self._read_images(trial)) is not None:
            self._images[trial.key] = read
        return self._images.get(trial.key)

    def _read_images(self, trial: TrialSpec) -> ImageScores | None:
        folder = self._folder(trial)
        result = folder.result()
        if result is None or result.scored_fingerprint is None or not folder.confusions.exists():
            return None
        confusions, ignored = read_confusions(folder.confusions)
        values = tuple(compute_miou(confusions[i : i + 1], ignored) for i in range(len(confusions)))
        return ImageScores(result.scored_fingerprint, values)

    def _folder(self, trial: TrialSpec) -> TrialFolder:
        return TrialFolder(self._home.trial_folder(trial.key))
