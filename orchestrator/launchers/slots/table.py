"""Slots: the shares of this machine's GPUs, or of its CPU, each held by one attempt at a time, across all users."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import DEFAULT_REQUESTER, UNKNOWN, MemoryEstimate, Requester, TrialsPerGpu
from orchestrator.launchers.slots.driver import Gpu, GpuListing
from orchestrator.launchers.slots.gpu_sharing import GpuRequest, SharedGpu
from orchestrator.launchers.slots.gpus import GpuWatch, find_gpus
from orchestrator.launchers.slots.locks import HeldSlot, LockFolder
from orchestrator.launchers.slots.priority_queue import PriorityQueue, QueueEntry
from orchestrator.launchers.worker.contract import Slot
from orchestrator.state.machine import allowed_cpus, count_cores

WORKER_MEMORY_GB = 1.5
"""Host memory that is reckoned for a worker on the CPU, so that a machine with many cores and little memory does not swap."""

MOST_SHARES = 8
"""Attempts that may share a GPU when its memory decides: more keep it no busier."""

AUTO_THREADS = 4
"""CPU threads of each of them, most of which load images; unless the sweep file sets a number."""

LAST_LOSSES = 2
"""A machine's last GPU is given up when this many attempts in a row have lost it."""

_log = logging.getLogger(__name__)


def find_slots(
    num_slots: int | None = None,
    num_threads: int | None = None,
    *,
    trials_per_gpu: TrialsPerGpu = None,
    with_spares: bool = False,
    environment: Mapping[str, str] = os.environ,
    list_gpus: Callable[[], GpuListing] | None = None,
) -> tuple[Slot, ...]:
    """The slots of this machine: one per GPU, else one per core, which is faster than one worker with all cores.

    num_slots: another number; GPUs are then dealt out in turn. num_threads: CPU threads per slot; None divides the cores.
    trials_per_gpu: slots on each GPU, of which no more than ``num_slots`` are dealt out. auto: as many as may ever be used; the
    table then admits those that the GPU's memory holds.
    with_spares: add the slots on further GPUs or cores, in case the first ones are another sweep's, or break.

    Raises:
        LaunchError: as find_gpus.
    """
    gpus = find_gpus(environment, list_gpus=list_gpus)
    dealt = _divide(gpus, num_slots, num_threads, trials_per_gpu=trials_per_gpu)
    every = _divide(gpus, None, dealt[0].num_threads, trials_per_gpu=trials_per_gpu) if with_spares else dealt
    return every if len(every) > len(dealt) else dealt


def _divide(
    gpus: Sequence[Gpu], num_slots: int | None, num_threads: int | None, *, trials_per_gpu: TrialsPerGpu
) -> tuple[Slot, ...]:
    """Slots on these GPUs in turn, or on the CPU if there are none."""
    num_cores = count_cores()
    if not gpus:
        fitting = max(1, int(psutil.virtual_memory().total / 2**30 / WORKER_MEMORY_GB))
        num_slots = num_slots or min(max(1, num_cores // (num_threads or 1)), fitting)
        num_threads = num_threads or max(1, num_cores // num_slots)
        # named by the CPUs that this process may use, so that a scheduler's jobs on different CPUs do not compete
        cpus = allowed_cpus()
        shares = [f"-{index // len(cpus)}" if index >= len(cpus) else "" for index in range(num_slots)]
        return tuple(Slot(f"cpu-{cpus[index % len(cpus)]}{share}", "", num_threads) for index, share in enumerate(shares))
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
    most = {uuid: None if trials_per_gpu == "auto" else trials_per_gpu or count for uuid, count in counts.items()}
    return tuple(Slot(f"{gpu.uuid}-{share}", gpu.uuid, num_threads, gpu.memory_mb, most[gpu.uuid]) for gpu, share in dealt)


class SlotTable:
    """Which slots are free, by lock files that all dispatchers on this machine share.

    most: held at a time; None: all. watch: which GPUs the driver lists; one that is gone, or that attempts have lost, is left out
    from then on. requester: a free slot is left to whoever waits for it with a higher priority.

    Raises:
        LaunchError: the lock files cannot be created or opened.
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
        self.num_allowed = len(slots) if most is None else most
        self._most, self._num_held = most, 0
        self._locks = LockFolder(folder)
        self._queue = PriorityQueue(self._locks, requester, {slot.visible_devices or slot.name for slot in slots})
        self._waiting: tuple[MemoryEstimate, ...] = ()
        self._watch = watch
        self._on_cpu = [slot for slot in slots if not slot.visible_devices]
        names = dict.fromkeys(slot.visible_devices for slot in slots if slot.visible_devices)
        self._gpus = [SharedGpu([slot for slot in slots if slot.visible_devices == name], self._locks) for name in names]
        self._losses: Counter[str] = Counter()
        self._retired: dict[str, str] = {}
        if watch is not None and self._gpus:
            watch.notify(self._note_used)

    def count_free(self, memory: MemoryEstimate = UNKNOWN) -> int:
        """How many such attempts could take a slot now.

        Raises:
            LaunchError: no GPU is left.
        """
        ahead = self._queue.look_ahead()
        num_free = sum(self._locks.read_held(slot.name) is None for slot in self._find_cpu(ahead))
        for gpu in self._large_enough(memory):
            num_free += gpu.count_free(memory, [entry.gpus[gpu.name] for entry in ahead if gpu.name in entry.gpus])
        return num_free if self._most is None else min(num_free, self._most - self._num_held)

    def take(self, memory: MemoryEstimate = UNKNOWN) -> HeldSlot | None:
        """A free slot on the GPU with the fewest attempts, among those the one with the least memory of other programs.

        None if all are taken, or as many as may be held.

        Raises:
            LaunchError: no GPU is left.
        """
        held = None if self._is_full else self._find(memory)
        if held is not None:
            self._num_held += 1
            self._queue_up()
        return held

    @property
    def _is_full(self) -> bool:
        return self._most is not None and self._num_held >= self._most

    def _find(self, memory: MemoryEstimate) -> HeldSlot | None:
        ahead = self._queue.look_ahead()
        for slot in self._find_cpu(ahead):
            if (descriptor := self._locks.try_lock(slot.name)) is not None:
                return HeldSlot(slot, descriptor)
        for gpu in sorted(self._large_enough(memory), key=SharedGpu.measure_load):
            requests = [entry.gpus[gpu.name] for entry in ahead if gpu.name in entry.gpus]
            if (held := gpu.take(memory, requests)) is not None:
                return held
        return None

    def line_up(self, estimates: Sequence[MemoryEstimate]) -> Requester | None:
        """As SlotOwner.line_up."""
        self._waiting = tuple(dict.fromkeys(estimates))
        self._queue_up()
        return self._queue.goes_first if self._waiting else None

    def _queue_up(self) -> None:
        if not self._waiting:
            self._queue.leave()
        else:
            self._queue.enter((self._waiting, self._is_full), is_full=self._is_full, find=self._make_requests)

    def _make_requests(self) -> tuple[list[str], dict[str, GpuRequest]]:
        """Names of slots on the CPU, and what would be taken of each GPU."""
        live = self._find_live()
        suited = {memory: self._choose_large(live, memory) for memory in self._waiting}
        emptiest = {min(gpus, key=SharedGpu.measure_load).name for gpus in suited.values() if gpus}
        wanted = {gpu.name: [memory for memory, gpus in suited.items() if gpu in gpus] for gpu in live}
        requests = {gpu.name: gpu.make_request(wanted[gpu.name], drains=gpu.name in emptiest) for gpu in live if wanted[gpu.name]}
        return [slot.name for slot in self._on_cpu], requests

    def fits(self, memory: MemoryEstimate) -> bool:
        """Whether a slot, free or taken, is known to be large enough."""
        return any(gpu.largest_mb is not None and gpu.largest_mb >= memory.mb for gpu in self._find_live())

    def release(self, held: HeldSlot, *, is_lost: bool) -> None:
        """Release a slot when its attempt has ended. is_lost: the attempt lost its GPU. May be repeated."""
        name = held.slot.visible_devices
        if held.is_released:
            return
        self._num_held -= 1
        self._queue_up()  # before it is free: others look for one all the time
        held.release()
        if not name:
            return
        self._losses[name] = self._losses[name] + 1 if is_lost else 0
        has_others = len(self._find_live()) > 1
        if is_lost and name not in self._retired and (has_others or self._losses[name] >= LAST_LOSSES):
            self._retire(name, "an attempt on it has lost it" if has_others else "attempts on it keep losing it")

    def _large_enough(self, memory: MemoryEstimate) -> list[SharedGpu]:
        """The GPUs that are large enough for an attempt; if there is none, the largest."""
        live = self._find_live()
        if self._gpus and not live:
            lost = "; ".join(f"{name}: {why}" for name, why in self._retired.items())
            hint = "See what nvidia-smi and `orchestrate doctor` say; then run the same command again to resume."
            raise LaunchError(f"no GPU is left on this machine. {lost}. {hint}")
        return self._choose_large(live, memory)

    def _choose_large(self, live: Sequence[SharedGpu], memory: MemoryEstimate) -> list[SharedGpu]:
        sizes = [gpu.largest_mb for gpu in live if gpu.largest_mb is not None]
        enough_mb = min(memory.mb, max(sizes, default=0))
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

    def _find_cpu(self, ahead: Sequence[QueueEntry]) -> list[Slot]:
        return [slot for slot in self._on_cpu if not any(slot.name in entry.slots for entry in ahead)]
