"""How attempts share one GPU: each holds a lock file, in which the part of the GPU that it has reserved is written."""

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ValidationError

from orchestrator.launchers.base import MemoryEstimate
from orchestrator.launchers.slots.locks import HeldSlot, LockFolder
from orchestrator.launchers.worker.contract import Slot

GATE_S = 1.0
"""How long to wait for another dispatcher that is looking at the same GPU."""

NUM_LOOKS = 4
"""Looks at the memory of other programs of which the largest value counts: an attempt that is only starting hides some of it."""


class Reservation(BaseModel, frozen=True, extra="ignore"):
    """What an attempt has of its GPU, as written into its lock file.

    most_per_gpu: as in Slot. memory_mb: its part of the memory; None: all of it, or the GPU's memory is unknown.
    """

    schema_version: Literal[1] = 1
    most_per_gpu: int | None
    memory_mb: int | None


WHOLE_GPU = Reservation(most_per_gpu=1, memory_mb=None)


class GpuRequest(BaseModel, frozen=True, extra="ignore"):
    """What a waiting dispatcher would take of a GPU, as written into its place in the queue.

    slots: names of lock files, any of which will do. claims: reservations, any of which it would make. others_mb: memory of other
    programs, by its own estimate. drains: whether it wants this GPU emptied because no GPU has room.
    """

    slots: tuple[str, ...]
    claims: tuple[Reservation, ...]
    others_mb: int
    drains: bool


class SharedGpu:
    """One dispatcher's slots on one GPU; other dispatchers may have slots there with other settings.

    A dispatcher that takes a slot holds the GPU's gate meanwhile, a lock of its own, so that it sees all earlier reservations.
    No attempt is admitted that would break a running one's reservation: how many share the GPU, or its part of the memory.
    """

    def __init__(self, slots: Sequence[Slot], locks: LockFolder) -> None:
        self._slots = tuple(slots)
        self._locks = locks
        self.name = slots[0].visible_devices
        self._names = [locks.file(slot.name).stem for slot in slots]
        self._memory_mb, self._most = slots[0].memory_mb, slots[0].most_per_gpu
        self._others_mb: tuple[int, ...] = ()

    @property
    def largest_mb(self) -> int | None:
        """The most memory that one attempt can reserve; None if unknown."""
        return None if self._memory_mb is None else self._memory_mb // (self._most or 1)

    @property
    def others_mb(self) -> int:
        """Memory of other programs, by the last looks; 0 before the first."""
        return max(self._others_mb, default=0)

    def measure_load(self) -> tuple[int, int]:
        """Sorts GPUs: by the attempts of all dispatchers on them, then by the memory of other programs."""
        with self._gate():
            return len(self._read_reservations()), self.others_mb

    def note_used(self, used_mb: int) -> None:
        """Learn how much memory is in use now: what exceeds the reservations belongs to other programs. Used by any thread."""
        with self._gate() as is_open:
            parts = [self._part(one) for one in self._read_reservations().values()] if self._memory_mb is not None else []
        if is_open and self._memory_mb is not None and all(part < self._memory_mb for part in parts):
            self._others_mb = (*self._others_mb, max(0, used_mb - sum(parts)))[-NUM_LOOKS:]

    def make_request(self, estimates: Iterable[MemoryEstimate], *, drains: bool) -> GpuRequest:
        """What attempts with such estimates would take here."""
        claims = tuple(dict.fromkeys(self._reserve(estimate) for estimate in estimates))
        return GpuRequest(slots=tuple(self._names), claims=claims, others_mb=self.others_mb, drains=drains)

    def count_free(self, memory: MemoryEstimate, ahead: Sequence[GpuRequest] = ()) -> int:
        """How many attempts could be admitted now. ahead: requests with a higher priority."""
        with self._gate() as is_open:
            running = self._read_reservations()
        ours, num_free = self._reserve(memory), 0
        if not is_open or self._is_left_to(ahead, running):
            return 0
        num_files = sum(name not in running for name in self._names)
        while num_free < num_files and self._admits([*running.values(), *[ours] * num_free], ours):
            num_free += 1
        return num_free

    def take(self, memory: MemoryEstimate, ahead: Sequence[GpuRequest] = ()) -> HeldSlot | None:
        """A slot with its reservation written; None if none is free now. ahead: requests with a higher priority."""
        ours = self._reserve(memory)
        with self._gate() as is_open:
            running = self._read_reservations()
            if not is_open or self._is_left_to(ahead, running) or not self._admits([*running.values()], ours):
                return None
            for slot in self._slots:
                if (descriptor := self._locks.try_lock(slot.name)) is not None:
                    self._write(descriptor, ours, slot)
                    part = ours.memory_mb or self._memory_mb
                    return HeldSlot(replace(slot, memory_mb=part, most_per_gpu=ours.most_per_gpu), descriptor)
        return None

    def _reserve(self, memory: MemoryEstimate) -> Reservation:
        """What an attempt with this estimate reserves."""
        if self._most is not None:
            return Reservation(most_per_gpu=self._most, memory_mb=self.largest_mb)
        if self._memory_mb is None or (memory.mb and not memory.is_measured):  # a part was too little for it once
            return WHOLE_GPU
        part = min(memory.mb, self._memory_mb) if memory.is_measured else self._memory_mb
        return Reservation(most_per_gpu=None, memory_mb=part)

    def _is_left_to(self, ahead: Iterable[GpuRequest], running: Mapping[str, Reservation]) -> bool:
        """Whether a request with a higher priority fits now, by its own estimate, or waits for the GPU to be empty."""
        return any(
            request.drains
            or (
                any(name not in running for name in request.slots)
                and any(self._admits([*running.values()], one, others_mb=request.others_mb) for one in request.claims)
            )
            for request in ahead
        )

    def _admits(self, running: Sequence[Reservation], ours: Reservation, *, others_mb: int | None = None) -> bool:
        """Whether there is room for ours. others_mb: memory of other programs; None: by our own looks."""
        if not running:
            return True
        together = (*running, ours)
        if any(one.most_per_gpu is not None and one.most_per_gpu < len(together) for one in together):
            return False
        if self._memory_mb is None:
            return True
        taken = sum(self._part(one) for one in running)
        if ours.most_per_gpu is None:  # with a number in the sweep file, its author vouches for the memory
            taken += self.others_mb if others_mb is None else others_mb
        return taken + self._part(ours) <= self._memory_mb

    def _part(self, reservation: Reservation) -> int:
        assert self._memory_mb is not None
        return self._memory_mb if reservation.memory_mb is None else reservation.memory_mb

    def _read_reservations(self) -> dict[str, Reservation]:
        """Those of all attempts on this GPU, by the names of their lock files."""
        start = self._locks.file(f"{self.name}-").stem
        files = re.compile(re.escape(start) + r"\d+\.lock")
        with self._locks.translated_errors():
            names = [name.removesuffix(".lock") for name in os.listdir(self._locks.path) if files.fullmatch(name)]
        found: dict[str, Reservation] = {}
        for name in names:
            if (written := self._locks.read_held(name)) is not None:
                try:
                    found[name] = Reservation.model_validate_json(written)
                except ValidationError:  # of another version, which may want the GPU to itself
                    found[name] = WHOLE_GPU
        return found

    def _write(self, descriptor: int, reservation: Reservation, slot: Slot) -> None:
        """Write the reservation; release the lock if that fails."""
        with self._locks.translated_errors():
            try:
                write_reservation(descriptor, reservation)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBADF:
                    raise
                raise PermissionError(errno.EACCES, "is read-only", str(self._locks.file(slot.name))) from error

    @contextlib.contextmanager
    def _gate(self) -> Iterator[bool]:
        """Look at this GPU alone; False if another process keeps the gate for too long, such as one that is suspended."""
        deadline_s = time.monotonic() + GATE_S
        while (descriptor := self._locks.try_lock(self.name)) is None and time.monotonic() < deadline_s:
            time.sleep(0.001)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)


def write_reservation(descriptor: int, reservation: Reservation) -> None:
    """Replace the content of a lock file in one write, which readers see whole or not at all."""
    os.pwrite(descriptor, reservation.model_dump_json().encode().ljust(120), 0)


def adjust_reservation(held: HeldSlot, peak_mb: float) -> int | None:
    """Let an attempt reserve what it has turned out to need, where the GPU is shared by memory; returns MB reserved from now on.

    Called by the attempt itself. It needs no gate: a lower reservation lets others in. A higher one, after a wrong estimate, only
    keeps further ones out.
    """
    slot = held.slot
    if slot.most_per_gpu is not None or slot.memory_mb is None:
        return slot.memory_mb
    memory = MemoryEstimate.of_peak(peak_mb)
    write_reservation(held.descriptor, Reservation(most_per_gpu=None, memory_mb=memory.mb))
    return memory.mb
