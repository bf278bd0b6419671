"""Sampling configuration -> the samples of an epoch: which training images, how often and with which augmentation."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainers.config import SamplingConfig
from trainers.config.train import RepeatConfig
from trainers.data import SplitData
from trainers.data.checks import count_labels
from trainers.errors import ConfigError

Indices = NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """The samples of an epoch.

    indices: (S,) images, possibly repeated; augmentations: (S,) 0 for the training's augmentation, i for that of the i-th
    repetition, from 1; probabilities: (S,) of being drawn, or None if each sample is shown once.
    """

    indices: Indices
    augmentations: Indices
    probabilities: NDArray[np.float64] | None

    def draw(self, rng: np.random.Generator) -> Indices:
        """Return (S,) positions in the samples, in the order in which an epoch shows them."""
        count = len(self.indices)
        if self.probabilities is None:
            return rng.permutation(count)
        return rng.choice(count, size=count, p=self.probabilities)


def list_samples(data: SplitData, config: SamplingConfig) -> Samples:
    """Repeat and weigh the training images; validation images have no influence.

    Raises:
        ConfigError: a class does not exist.
    """
    indices = np.asarray(data.split.train)
    samples = Samples(indices, np.zeros_like(indices), None)
    if not config.repeat and not config.weight_power:
        return samples
    holds = _find_classes(data)
    for number, repeat in enumerate(config.repeat, start=1):
        samples = _repeat(samples, repeat, number, chosen=_choose(data, repeat, holds))
    if config.weight_power:
        weight = np.zeros(len(data.data.images))
        weight[indices] = _weigh(holds[indices][:, data.scored_classes], config.weight_power)
        drawn = weight[samples.indices]
        samples = Samples(samples.indices, samples.augmentations, drawn / drawn.sum())
    return samples


def count_occurrences(indices: Indices) -> Indices:
    """For each entry of (S,), the number of equal entries before it."""
    order = np.argsort(indices, kind="stable")
    in_order = indices[order]
    starts = np.flatnonzero(np.diff(in_order, prepend=-1))
    counted = np.arange(len(indices)) - np.repeat(starts, np.diff(np.append(starts, len(indices))))
    occurrences = np.empty(len(indices), np.int64)
    occurrences[order] = counted
    return occurrences


def _find_classes(data: SplitData) -> NDArray[np.bool_]:
    """(N, C): which classes each training image holds; all False for other images."""
    holds = np.zeros((len(data.data.images), data.data.num_classes), np.bool_)
    holds[data.split.train] = count_labels((data.data.masks[index] for index in data.split.train), data.data.num_classes) > 0
    return holds


def _choose(data: SplitData, repeat: RepeatConfig, holds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,): which images a repetition applies to."""
    if repeat.classes == "all":
        return np.ones(len(holds), np.bool_)
    if repeat.classes == "rarest":
        counts = holds[:, data.scored_classes].sum(axis=0)
        rarest = data.scored_classes[int(np.argmin(np.where(counts > 0, counts, len(holds) + 1)))]  # of those that occur
        return np.asarray(holds[:, rarest])
    classes = list(repeat.classes)
    unknown = [number for number in classes if not 0 <= number < data.data.num_classes]
    if unknown:
        listed = ", ".join(f"{number} ({name})" for number, name in enumerate(data.data.class_names))
        raise ConfigError(f"sampling.repeat: {unknown} is not a class. Known: {listed}, or rarest, or all")
    chosen = np.asarray(holds[:, classes].any(axis=1))
    if not chosen.any():
        _log.warning("sampling.repeat: none of %d training images holds a class of %s", len(data.split.train), classes)
    return chosen


def _repeat(samples: Samples, repeat: RepeatConfig, number: int, *, chosen: NDArray[np.bool_]) -> Samples:
    again = chosen[samples.indices]
    copies = np.tile(samples.indices[again], repeat.factor - 1)
    kept = np.tile(samples.augmentations[again], repeat.factor - 1)
    augmentations = kept if repeat.augmentation is None else np.full_like(kept, number)
    return Samples(
        np.concatenate([samples.indices, copies]), np.concatenate([samples.augmentations, augmentations]), samples.probabilities
    )


def _weigh(holds: NDArray[np.bool_], power: float) -> NDArray[np.float64]:
    """(T,) weights from (T, C): the largest rarity of an image's classes, one over the share of images with the class.

    An image without a scored class weighs as much as one whose classes are in every image.
    """
    share = holds.mean(axis=0)
    rarity = np.ones(holds.shape[1])
    np.divide(1.0, share, out=rarity, where=share > 0)
    weights: NDArray[np.float64] = np.where(holds, rarity**power, 1.0).max(axis=1, initial=1.0)
    return weights
