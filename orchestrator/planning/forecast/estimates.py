"""What the trials that are still to run will take, by what earlier ones took; pure: timings.py reads the past.

On the CPU times are counted in seconds of one core, because slots have different numbers of threads; on a GPU in seconds of
the GPU. Both go with the epochs and with the pixels of the pictures in each, of those trained on and those validated on.
"""

from __future__ import annotations

import heapq
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
"""What is written to go on from, in best checkpoints: weights and two moments of each."""


class Basis(StrEnum):
    """What a figure goes by, the best first; all but the first are guesses."""

    SAME = "the same architecture, encoder and size"
    ARCHITECTURE = "the same architecture and size with other encoders"
    OTHERS = "other architectures or sizes"


@dataclass(frozen=True)
class Machine:
    """Where the trials will run: slots of one kind. device: ``cpu``, or a GPU's name as torch has it. num_gpus: that the slots
    are on; None: as many as slots.
    """

    device: str
    num_slots: int
    num_threads: int
    num_gpus: int | None = None

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


@dataclass(frozen=True)
class Job:
    """A trial that is to run, as far as its cost goes. size: (height, width) that the network sees."""

    spec: TrialSpec
    size: Size
    num_train: int
    num_val: int


@dataclass(frozen=True)
class Cost:
    """What a trial is expected to take. kept_bytes: left in its folder; running_bytes: beside them, while it runs."""

    seconds: float
    kept_bytes: float
    running_bytes: float
    basis: Basis


@dataclass(frozen=True)
class Estimate:
    """What the rest of a sweep is expected to take on ``machine``.

    durations_s: by trial's key. num_unlisted: trials among ``num_trials`` that a search has not proposed yet, taken for points of
    its space. kept_bytes: left by all; running_bytes: beside that, as long as they run; first_bytes: what the first trials, one a
    slot, need at once.
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
        """Hours of GPUs, or of cores: attempts that share a GPU count together, as in ``budget.gpu_hours``."""
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
        """One line for people."""
        kind, what = ("core", "the CPU") if self.machine.is_cpu else ("GPU", self.machine.device)
        slots = f"{self.machine.num_slots} slot{'s' * (self.machine.num_slots > 1)}"
        told = f"estimate: {format_duration(self.wall_s)} on {slots} of {what}, {write_hours(self.device_hours)} {kind}-hours"
        guesses = [f"{count} of {self.num_trials} trials by {basis}" for basis, count in self.guesses.items()]
        guesses += [f"{self.num_unlisted} not proposed yet, taken for points of the space"] if self.num_unlisted else []
        return f"{told} (guess: {'; '.join(guesses)})" if guesses else told


@dataclass(frozen=True)
class _Figures:
    """Of trials of one kind.

    train_s, val_s: seconds (of a core on the CPU) an epoch, picture and pixel; overhead_s: a trial's beside its epochs.
    """

    train_s: float
    val_s: float
    overhead_s: float


class Estimator:
    """Knows what trials on one kind of device took; rates are medians."""

    def __init__(self, timings: Iterable[Timing], machine: Machine) -> None:
        self._machine = machine
        self._groups: defaultdict[tuple[object, ...], list[Timing]] = defaultdict(list)
        for timing in timings:
            if timing.device == machine.device and timing.size is not None:
                for group in _groups(timing.arch, timing.encoder, timing.size):
                    self._groups[group].append(timing)
        self._figures: dict[tuple[object, ...], _Figures] = {}

    def cost_of(self, job: Job) -> Cost | None:
        """None where nothing has run on this kind of device yet."""
        groups = _groups(job.spec.train.arch, job.spec.train.encoder, job.size)
        known = next(((basis, group) for basis, group in zip(Basis, groups, strict=True) if group in self._groups), None)
        if known is None:
            return None
        basis, group = known
        figures = self._measure(group)
        train_s = figures.train_s * job.num_train * _repetitions(job.spec)
        val_s = figures.val_s * job.num_val * len(FLIPPED_AXES[job.spec.train.test_time_flips])
        epochs_s = job.spec.train.epochs * (train_s + val_s) * _pixels(job.size)
        share = self._machine.num_threads if self._machine.is_cpu else 1
        kept, running = self._measure_bytes(group, job)
        return Cost(epochs_s / share + figures.overhead_s, kept, running, basis)

    def _measure(self, group: tuple[object, ...]) -> _Figures:
        if group not in self._figures:
            timings = self._groups[group]
            self._figures[group] = _Figures(
                train_s=median(t.train_s * self._cores(t) / (t.num_samples * _pixels(t.size)) for t in timings),
                val_s=median(t.val_s * self._cores(t) / (max(1, t.num_val * t.views) * _pixels(t.size)) for t in timings),
                overhead_s=median(t.overhead_s for t in timings),
            )
        return self._figures[group]

    def _cores(self, timing: Timing) -> int:
        return timing.num_threads if self._machine.is_cpu else 1

    def _measure_bytes(self, group: tuple[object, ...], job: Job) -> tuple[float, float]:
        """What stays, and what is there beside it while it runs. A checkpoint is written beside the one that it replaces."""
        timings = self._groups[group]
        weights = median([t.weights_bytes for t in timings if t.weights_bytes] or [0])
        per_pixel = median(t.other_bytes / (max(1, t.num_val) * _pixels(t.size)) for t in timings)
        return weights + per_pixel * job.num_val * _pixels(job.size), weights * (1 + 2 * BEST_CHECKPOINTS_OF_LAST)


def estimate(jobs: Sequence[Job], estimator: Estimator, machine: Machine, *, unlisted: Sequence[Job] = ()) -> Estimate | None:
    """What ``jobs`` take, in the order in which they are started; None where nothing has run on this kind of device yet.

    unlisted: stand-ins for what a search has not proposed yet.
    """
    costs = [estimator.cost_of(job) for job in (*jobs, *unlisted)]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    listed = known[: len(jobs)]
    guessed = Counter(cost.basis for cost in listed)
    first, seconds = known[: machine.num_slots], [cost.seconds for cost in known]
    return Estimate(
        machine=machine,
        num_trials=len(known),
        wall_s=run_on(seconds, machine.num_slots),
        slot_s=sum(seconds),
        kept_bytes=sum(cost.kept_bytes for cost in known),
        running_bytes=sum(sorted((cost.running_bytes for cost in known), reverse=True)[: machine.num_slots]),
        first_bytes=sum(cost.kept_bytes + cost.running_bytes for cost in first),
        durations_s={job.spec.key: cost.seconds for job, cost in zip(jobs, listed, strict=True)},
        num_unlisted=len(unlisted),
        guesses={basis: guessed[basis] for basis in (Basis.ARCHITECTURE, Basis.OTHERS) if guessed[basis]},
    )


def run_on(seconds: Iterable[float], num_slots: int) -> float:
    """When the last ends, where each goes to the slot that is free first."""
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
    assert size is not None, "left out before"
    return size[0] * size[1]


def _repetitions(spec: TrialSpec) -> int:
    """How often each picture is shown, as far as that does not depend on what the pictures hold."""
    factor = 1
    for repeat in spec.train.sampling.repeat:
        factor *= repeat.factor if repeat.classes == "all" else 1
    return factor
