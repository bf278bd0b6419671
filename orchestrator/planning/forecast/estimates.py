"""Estimates time and disk space of the remaining trials from the timings of finished ones; pure.

Times are seconds of one core on the CPU, because slots differ in their number of threads, and seconds of the GPU otherwise.
Both scale with epochs and with the pixels per epoch, for training and validation separately.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any

from orchestrator.planning.forecast.timings import Size, Timing
from orchestrator.state.trial.records import TrialSpec
from orchestrator.state.units import format_duration
from trainers.config import FLIPPED_AXES

BEST_CHECKPOINTS_OF_LAST = 3
"""Size of the checkpoint to resume from, in best checkpoints: weights and two moments of each."""


class Basis(StrEnum):
    """Which finished trials an estimate is based on, the best first; all but the first are guesses."""

    SAME = "the same architecture, encoder and size"
    ARCHITECTURE = "the same architecture and size with other encoders"
    OTHERS = "other architectures or sizes"


@dataclass(frozen=True)
class Machine:
    """The slots on which the trials will run. device: ``cpu`` or a GPU's name in torch. num_gpus: None: one per slot."""

    device: str
    num_slots: int
    num_threads: int
    num_gpus: int | None = None

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


@dataclass(frozen=True)
class Workload:
    """What decides the cost of a trial. size: (height, width) of the network's input."""

    spec: TrialSpec
    size: Size
    num_train: int
    num_val: int


@dataclass(frozen=True)
class Cost:
    """Expected cost of a trial. kept_bytes: stay in its folder; running_bytes: in addition while it runs."""

    seconds: float
    kept_bytes: float
    running_bytes: float
    basis: Basis


@dataclass(frozen=True)
class SweepEstimate:
    """Expected cost of the rest of a sweep on ``machine``.

    durations_s: by key. num_unlisted: trials among ``num_trials`` that the search has not proposed yet, estimated from points of
    its space. kept_bytes: stay; running_bytes: in addition while trials run; first_bytes: needed by the first trial of each slot.
    """

    machine: Machine
    num_trials: int
    wall_s: float
    slot_s: float
    kept_bytes: float
    running_bytes: float
    first_bytes: float
    durations_s: Mapping[str, float] = field(default_factory=dict)
    num_unlisted: int = 0
    guesses: Mapping[Basis, int] = field(default_factory=dict)

    @property
    def is_guess(self) -> bool:
        return bool(self.guesses or self.num_unlisted)

    @property
    def device_hours(self) -> float:
        """GPU-hours, or core-hours on the CPU; attempts that share a GPU count once, as in ``budget.gpu_hours``."""
        machine = self.machine
        each = machine.num_threads if machine.is_cpu else (machine.num_gpus or machine.num_slots) / machine.num_slots
        return self.slot_s * each / 3600

    def to_json(self) -> dict[str, Any]:
        hours = round(self.device_hours, 4)
        return {
            "num_trials": self.num_trials,
            "wall_s": round(self.wall_s, 1),
            "gpu_hours": None if self.machine.is_cpu else hours,
            "core_hours": hours if self.machine.is_cpu else None,
            "device": self.machine.device,
            "slots": self.machine.num_slots,
            "guessed": {basis.name.lower(): count for basis, count in self.guesses.items()},
            "not_proposed_yet": self.num_unlisted,
        }

    def describe(self) -> str:
        kind, what = ("core", "the CPU") if self.machine.is_cpu else ("GPU", self.machine.device)
        slots = f"{self.machine.num_slots} slot{'s' * (self.machine.num_slots > 1)}"
        text = f"estimate: {format_duration(self.wall_s)} on {slots} of {what}, {write_hours(self.device_hours)} {kind}-hours"
        guesses = [f"{count} of {self.num_trials} trials by {basis}" for basis, count in self.guesses.items()]
        guesses += [f"{self.num_unlisted} not proposed yet, estimated from points of the space"] if self.num_unlisted else []
        return f"{text} (guess: {'; '.join(guesses)})" if guesses else text


@dataclass(frozen=True)
class _Rates:
    """Medians over similar trials. train_s, val_s: seconds per epoch, image and pixel. overhead_s: per trial, outside epochs.

    weights_bytes: of the best checkpoint. other_bytes: what else stays, per validation image and pixel.
    """

    train_s: float
    val_s: float
    overhead_s: float
    weights_bytes: float
    other_bytes: float


class Estimator:
    """Estimates trials on ``machine`` from timings on the same kind of device."""

    def __init__(self, timings: Iterable[Timing], machine: Machine) -> None:
        self.machine = machine
        self._groups: defaultdict[tuple[object, ...], list[Timing]] = defaultdict(list)
        for timing in timings:
            if timing.device == machine.device and timing.size is not None:
                for group in _groups(timing.arch, timing.encoder, timing.size):
                    self._groups[group].append(timing)
        self._rates: dict[tuple[object, ...], _Rates] = {}

    def cost_of(self, work: Workload) -> Cost | None:
        """None if nothing has run on this kind of device yet."""
        groups = _groups(work.spec.train.arch, work.spec.train.encoder, work.size)
        known = next(((basis, group) for basis, group in zip(Basis, groups, strict=True) if group in self._groups), None)
        if known is None:
            return None
        basis, group = known
        rates, train = self._measure(group), work.spec.train
        # how often each image is shown, as far as that does not depend on its content
        repetitions = math.prod(repeat.factor for repeat in train.sampling.repeat if repeat.classes == "all")
        train_s = rates.train_s * work.num_train * repetitions
        val_s = rates.val_s * work.num_val * len(FLIPPED_AXES[train.test_time_flips])
        epochs_s = train.epochs * (train_s + val_s) * _pixels(work.size)
        return Cost(
            seconds=epochs_s / self._cores(self.machine) + rates.overhead_s,
            kept_bytes=rates.weights_bytes + rates.other_bytes * work.num_val * _pixels(work.size),
            running_bytes=rates.weights_bytes * (1 + 2 * BEST_CHECKPOINTS_OF_LAST),  # a new one is written beside the last
            basis=basis,
        )

    def _measure(self, group: tuple[object, ...]) -> _Rates:
        if group not in self._rates:
            timings = self._groups[group]
            self._rates[group] = _Rates(
                train_s=median(t.train_s * self._cores(t) / (t.num_samples * _pixels(t.size)) for t in timings),
                val_s=median(t.val_s * self._cores(t) / (max(1, t.num_val * t.views) * _pixels(t.size)) for t in timings),
                overhead_s=median(t.overhead_s for t in timings),
                weights_bytes=median([t.weights_bytes for t in timings if t.weights_bytes] or [0]),
                other_bytes=median(t.other_bytes / (max(1, t.num_val) * _pixels(t.size)) for t in timings),
            )
        return self._rates[group]

    def _cores(self, who: Timing | Machine) -> int:
        return who.num_threads if self.machine.is_cpu else 1


def estimate(work: Sequence[Workload], estimator: Estimator, *, unlisted: Sequence[Workload] = ()) -> SweepEstimate | None:
    """Estimate trials in the order in which they start; None if nothing has run on this kind of device yet.

    unlisted: sample points for trials that the search has not proposed yet.
    """
    machine = estimator.machine
    costs = [estimator.cost_of(one) for one in (*work, *unlisted)]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    listed = known[: len(work)]
    guessed = Counter(cost.basis for cost in listed)
    first, seconds = known[: machine.num_slots], [cost.seconds for cost in known]
    return SweepEstimate(
        machine=machine,
        num_trials=len(known),
        wall_s=run_on(seconds, machine.num_slots),
        slot_s=sum(seconds),
        kept_bytes=sum(cost.kept_bytes for cost in known),
        running_bytes=sum(sorted((cost.running_bytes for cost in known), reverse=True)[: machine.num_slots]),
        first_bytes=sum(cost.kept_bytes + cost.running_bytes for cost in first),
        durations_s={one.spec.key: cost.seconds for one, cost in zip(work, listed, strict=True)},
        num_unlisted=len(unlisted),
        guesses={basis: guessed[basis] for basis in (Basis.ARCHITECTURE, Basis.OTHERS) if guessed[basis]},
    )


def run_on(seconds: Iterable[float], num_slots: int) -> float:
    """When the last one ends if each takes the first free slot."""
    ends = [0.0] * num_slots
    for duration_s in seconds:
        heapq.heapreplace(ends, ends[0] + duration_s)
    return max(ends)


def write_hours(hours: float) -> str:
    """For people: ``under 0.1``, ``3.4``, ``120``."""
    return "under 0.1" if hours < 0.1 else f"{hours:.{1 if hours < 10 else 0}f}"


def _groups(arch: str, encoder: str, size: Size) -> tuple[tuple[object, ...], ...]:
    """In the order of Basis."""
    return (arch, encoder, size), (arch, size), ()


def _pixels(size: Size | None) -> int:
    assert size is not None, "Estimator drops timings without a size"
    return size[0] * size[1]
