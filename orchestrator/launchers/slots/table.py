"""Slots: the shares of this machine's GPUs, or of its CPU, that attempts own one at a time, across all its users."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import psutil

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import DEFAULT_REQUESTER, UNKNOWN, MemoryEstimate, Requester
from orchestrator.launchers.slots.driver import Gpu, GpuListing
from orchestrator.launchers.slots.gpu_sharing import SharedGpu, Wish
from orchestrator.launchers.slots.gpus import GpuWatch, find_gpus
from orchestrator.launchers.slots.locks import HeldSlot, LockFolder
from orchestrator.launchers.slots.priority_queue import Line
from orchestrator.launchers.worker.slot import Slot
from orchestrator.state.machine import allowed_cpus, count_cores

WORKER_MEMORY_GB = 1.5
"""Host memory that a worker on the CPU is counted with; so that many cores and little memory do not swap."""

MOST_SHARES = 8
"""Attempts that may share a GPU when their number goes by memory: more keep it no busier."""

AUTO_THREADS = 4
"""CPU threads of each of them, most of which load pictures, where the sweep file does not say."""

LAST_LOSSES = 2
"""A machine's last GPU is given up when so many attempts in a row have lost it."""


_log = logging.getLogger(__name__)


def find_slots(
    num_slots: int | None = None,
    num_threads: int | None = None,
    *,
    trials_per_gpu: int | Literal["auto"] | None = None,
    environment: Mapping[str, str] = os.environ,
    list_gpus: Callable[[], GpuListing] | None = None,
) -> tuple[Slot, ...]:
    """The slots of this machine: one a GPU, else one a core, which beats one worker with all cores.

    num_slots: a number of one's own; GPUs are then dealt out in turn. num_threads: CPU threads a slot; None divides the cores.
    trials_per_gpu: so many slots on each GPU, of which no more than ``num_slots`` are dealt out; auto: as many as may ever be
    used, of which the table lets in those that the GPU's memory holds.

    Raises:
        LaunchError: as find_gpus.
    """
    gpus = find_gpus(environment, list_gpus=list_gpus)
    return _divide(gpus, num_slots, num_threads, trials_per_gpu=trials_per_gpu)


def _divide(
    gpus: Sequence[Gpu], num_slots: int | None, num_threads: int | None, *, trials_per_gpu: int | Literal["auto"] | None
) -> tuple[Slot, ...]:
    """Slots on these GPUs; where there is none, on the CPU."""
    num_cores = count_cores()
    if gpus:
        return _deal(gpus, num_slots, num_threads, trials_per_gpu=trials_per_gpu, num_cores=num_cores)
    num_slots = num_slots or min(max(1, num_cores // (num_threads or 1)), _fitting_in_memory())
    num_threads = num_threads or max(1, num_cores // num_slots)
    return tuple(Slot(name, "", num_threads) for name in _name_cpu_slots(num_slots))


def find_choice(
    num_slots: int,
    num_threads: int | None,
    *,
    trials_per_gpu: int | Literal["auto"] | None = None,
    environment: Mapping[str, str] = os.environ,
    list_gpus: Callable[[], GpuListing] | None = None,
) -> tuple[Slot, ...]:
    """The slots of which ``num_slots`` may be taken at a time, as find_slots deals them out: where there are GPUs or cores for
    more, those too, as the first may be another sweep's, or break.

    Raises:
        LaunchError: as find_gpus.
    """
    gpus = find_gpus(environment, list_gpus=list_gpus)
    dealt = _divide(gpus, num_slots, num_threads, trials_per_gpu=trials_per_gpu)
    every = _divide(gpus, None, dealt[0].num_threads, trials_per_gpu=trials_per_gpu)
    return every if len(every) > len(dealt) else dealt


def _deal(
    gpus: Sequence[Gpu],
    num_slots: int | None,
    num_threads: int | None,
    *,
    trials_per_gpu: int | Literal["auto"] | None,
    num_cores: int,
) -> tuple[Slot, ...]:
    """Slots on GPUs, in turn."""
    if trials_per_gpu == "auto":
        num_threads = num_threads or max(1, min(AUTO_THREADS, num_cores // len(gpus)))
        # twice as many threads as cores, at most: those of an attempt wait for its GPU most of the time
        each: int | None = max(1, min(MOST_SHARES, 2 * num_cores // (len(gpus) * num_threads)))
    else:
        each = trials_per_gpu
    limits = (num_slots, None if each is None else each * len(gpus))
    num_slots = min((limit for limit in limits if limit is not None), default=len(gpus))
    num_threads = num_threads or max(1, num_cores // num_slots)
    dealt = [(gpus[index % len(gpus)], index // len(gpus)) for index in range(num_slots)]
    counts = Counter(gpu.uuid for gpu, _ in dealt)

    def most(gpu: Gpu) -> int | None:
        return None if trials_per_gpu == "auto" else trials_per_gpu or counts[gpu.uuid]

    return tuple(Slot(f"{gpu.uuid}-{share}", gpu.uuid, num_threads, gpu.memory_mb, most(gpu)) for gpu, share in dealt)


def _name_cpu_slots(num_slots: int) -> list[str]:
    """Names by the CPUs that a process may use, so that jobs that a scheduler has put on different CPUs do not meet."""
    cpus = allowed_cpus()
    shares = [f"-{index // len(cpus)}" if index >= len(cpus) else "" for index in range(num_slots)]
    return [f"cpu-{cpus[index % len(cpus)]}{share}" for index, share in enumerate(shares)]


def _fitting_in_memory() -> int:
    return max(1, int(psutil.virtual_memory().total / 2**30 / WORKER_MEMORY_GB))


class SlotTable:
    """Which of some slots are free, told by lock files that all dispatchers on this machine share, whoever runs them.

    most: that one table may hold at a time; None: all of them. watch: what becomes of the GPUs. One that is gone, or that
    attempts have lost, is left out from then on. requester: a free slot is left to whoever waits for it with a higher priority.

    Raises:
        LaunchError: the lock files cannot be made or opened.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        folder: Path | None = None,
        *,
        most: int | None = None,
        watch: GpuWatch | None = None,
        requester: Requester = DEFAULT_REQUESTER,
    ) -> None:
        self.slots = tuple(slots)
        self._most, self._num_held = most, 0
        self._locks = LockFolder(folder)
        self._line = Line(self._locks, requester, {slot.visible_devices or slot.name for slot in slots})
        self._wanted: tuple[MemoryEstimate, ...] = ()
        self._watch = watch
        self._on_cpu = [slot for slot in slots if not slot.visible_devices]
        names = dict.fromkeys(slot.visible_devices for slot in slots if slot.visible_devices)
        self._gpus = [SharedGpu([slot for slot in slots if slot.visible_devices == name], self._locks) for name in names]
        self._losses: Counter[str] = Counter()
        self._retired: dict[str, str] = {}
        if watch is not None and self._gpus:
            watch.notify(self._note_used)

    @property
    def num_allowed(self) -> int:
        """How many may be held at a time."""
        return len(self.slots) if self._most is None else self._most

    def count_free(self, need: MemoryEstimate = UNKNOWN) -> int:
        """How many could be taken now by attempts with such a need.

        Raises:
            LaunchError: no GPU is left.
        """
        ahead = self._line.look_ahead()
        held = [self._try(slot) for slot in self._on_cpu if not ahead.wants(slot.name)]
        for one in held:
            if one is not None:
                one.give_back()
        on_cpu = sum(one is not None for one in held)
        num_free = on_cpu + sum(gpu.count_free(need, ahead.wishes_for(gpu.name)) for gpu in self._large_enough(need))
        return num_free if self._most is None else min(num_free, self._most - self._num_held)

    def take(self, need: MemoryEstimate = UNKNOWN) -> HeldSlot | None:
        """The first free slot, on the GPU with the fewest attempts, of these where other programs use least; None where all are
        taken, or as many as may be.

        Raises:
            LaunchError: no GPU is left.
        """
        held = None if self._is_full else self._find(need)
        if held is not None:
            self._num_held += 1
            self._stand()
        return held

    @property
    def _is_full(self) -> bool:
        return self._most is not None and self._num_held >= self._most

    def _find(self, need: MemoryEstimate) -> HeldSlot | None:
        ahead = self._line.look_ahead()
        for slot in self._on_cpu:
            if not ahead.wants(slot.name) and (held := self._try(slot)) is not None:
                return held
        for gpu in sorted(self._large_enough(need), key=SharedGpu.how_busy):
            if (held := gpu.take(need, ahead.wishes_for(gpu.name))) is not None:
                return held
        return None

    def line_up(self, needs: Sequence[MemoryEstimate]) -> Requester | None:
        """As SlotOwner.line_up."""
        self._wanted = tuple(dict.fromkeys(needs))
        self._stand()
        return self._line.goes_first if self._wanted else None

    def _stand(self) -> None:
        if not self._wanted:
            self._line.leave()
        else:
            self._line.stand((self._wanted, self._is_full), is_full=self._is_full, find=self._find_wishes)

    def _find_wishes(self) -> tuple[list[str], dict[str, Wish]]:
        """Names of slots on the CPU, and what would be taken of each GPU."""
        live = self._find_live()
        suited = {need: self._choose_large(live, need) for need in self._wanted}
        emptiest = {min(gpus, key=SharedGpu.how_busy).name for gpus in suited.values() if gpus}
        wanted = {gpu.name: [need for need, gpus in suited.items() if gpu in gpus] for gpu in live}
        wishes = {gpu.name: gpu.wish_for(wanted[gpu.name], drains=gpu.name in emptiest) for gpu in live if wanted[gpu.name]}
        return [slot.name for slot in self._on_cpu], wishes

    def fits(self, need: MemoryEstimate) -> bool:
        """Whether a slot is known to be large enough, free or taken."""
        return any(gpu.largest_mb is not None and gpu.largest_mb >= need.mb for gpu in self._find_live())

    def give_back(self, held: HeldSlot, *, is_lost: bool) -> None:
        """Let go of a slot when its attempt has ended. is_lost: for want of its GPU. May be repeated."""
        name = held.slot.visible_devices
        if held.is_given_back:
            return
        self._num_held -= 1
        self._stand()  # before it is free: others look for one all the time
        held.give_back()
        if not name:
            return
        self._losses[name] = self._losses[name] + 1 if is_lost else 0
        has_others = len(self._find_live()) > 1
        if is_lost and name not in self._retired and (has_others or self._losses[name] >= LAST_LOSSES):
            self._retire(name, "an attempt on it has lost it" if has_others else "attempts on it keep losing it")

    def _large_enough(self, need: MemoryEstimate) -> list[SharedGpu]:
        """The GPUs on which an attempt is to run: where none is as large as it needs, the largest."""
        live = self._find_live()
        if self._gpus and not live:
            lost = "; ".join(f"{name}: {why}" for name, why in self._retired.items())
            hint = "See what nvidia-smi and `orchestrate doctor` say; the same command then goes on."
            raise LaunchError(f"no GPU is left on this machine. {lost}. {hint}")
        return self._choose_large(live, need)

    def _choose_large(self, live: Sequence[SharedGpu], need: MemoryEstimate) -> list[SharedGpu]:
        sizes = [gpu.largest_mb for gpu in live if gpu.largest_mb is not None]
        enough_mb = min(need.mb, max(sizes, default=0))
        return [gpu for gpu in live if gpu.largest_mb is None or gpu.largest_mb >= enough_mb]

    def _find_live(self) -> list[SharedGpu]:
        for gpu in self._gpus:
            if gpu.name not in self._retired and self._watch is not None and not self._watch.is_listed(gpu.name):
                self._retire(gpu.name, "the driver no longer lists it")
        return [gpu for gpu in self._gpus if gpu.name not in self._retired]

    def _retire(self, name: str, why: str) -> None:
        self._retired[name] = why
        _log.warning("%s: %s. It gets no more trials from this sweep until the sweep is started again.", name, why)

    def _note_used(self, watch: GpuWatch) -> None:
        for gpu in self._gpus:
            gpu.note_used(watch.used_mb(gpu.name))

    def _try(self, slot: Slot) -> HeldSlot | None:
        descriptor = self._locks.try_lock(slot.name)
        return None if descriptor is None else HeldSlot(slot, descriptor)
