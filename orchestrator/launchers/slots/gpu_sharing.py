"""How one GPU is shared: each attempt on it holds a lock file, which says what part of the GPU is claimed by it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.launchers.base import MemoryEstimate
from orchestrator.launchers.slots.locks import HeldSlot, LockFolder
from orchestrator.launchers.worker.slot import Slot

GATE_S = 1.0
"""How long to wait for another dispatcher that is looking at the same GPU."""

NUM_LOOKS = 4
"""Of the last looks at what other programs use, the largest counts: an attempt that is only starting hides some of it."""


class Claim(BaseModel):
    """What an attempt has of its GPU: written into its lock file.

    most_per_gpu: as in Slot. memory_mb: its part of the memory; None: all of it, or it is not known how much there is.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    schema_version: Literal[1] = 1
    most_per_gpu: int | None
    memory_mb: int | None


WHOLE = Claim(most_per_gpu=1, memory_mb=None)


class Wish(BaseModel):
    """What somebody who waits would take of a GPU.

    slots: names of the lock files, any of which would do. claims: any of which would be entered. others_mb: what other programs
    use of it, as they reckon. drains: it is this GPU that they want emptied, where there is no room on any.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    slots: tuple[str, ...]
    claims: tuple[Claim, ...]
    others_mb: int
    drains: bool


class SharedGpu:
    """The slots of one dispatcher on one GPU, beside those that other dispatchers, with settings of their own, have there.

    Whoever takes one holds the GPU's gate meanwhile, a lock of its own: so that of two that look at the same time one sees what
    the other has claimed. No attempt is let in where that would break what was promised to one that runs: how many are to
    share the GPU, or its part of the memory.
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
        """The most memory that one attempt can claim; None where it is not known."""
        return None if self._memory_mb is None else self._memory_mb // (self._most or 1)

    @property
    def others_mb(self) -> int:
        """What other programs use of its memory, by the last looks; 0 where nobody has looked."""
        return max(self._others_mb, default=0)

    def count_held(self) -> int:
        """How many attempts there are on the GPU, anybody's."""
        with self._gate():
            return len(self._read_claims())

    def how_busy(self) -> tuple[int, int]:
        """Sorts GPUs: by the attempts on them, then by what other programs use."""
        return self.count_held(), self.others_mb

    def note_used(self, used_mb: int) -> None:
        """Take note of what the driver says is in use just now: beyond what attempts have claimed, it is other programs'.

        May be called from another thread.
        """
        with self._gate() as is_open:
            claims = self._read_claims()
        if is_open and self._memory_mb is not None and not any(self._part(one) >= self._memory_mb for one in claims.values()):
            others_mb = max(0, used_mb - sum(self._part(one) for one in claims.values()))
            self._others_mb = (*self._others_mb, others_mb)[-NUM_LOOKS:]

    def wish_for(self, needs: Iterable[MemoryEstimate], *, drains: bool) -> Wish:
        """What attempts with such needs would take here."""
        claims = tuple(dict.fromkeys(self._make_claim(need) for need in needs))
        return Wish(slots=tuple(self._names), claims=claims, others_mb=self.others_mb, drains=drains)

    def count_free(self, need: MemoryEstimate, ahead: Sequence[Wish] = ()) -> int:
        """How many attempts could be let in now. ahead: wishes of those who go first."""
        with self._gate() as is_open:
            claims = self._read_claims()
        ours, num_free = self._make_claim(need), 0
        if not is_open or self._is_left_to(ahead, claims):
            return 0
        num_files = sum(name not in claims for name in self._names)
        while num_free < num_files and self._admits([*claims.values(), *[ours] * num_free], ours):
            num_free += 1
        return num_free

    def take(self, need: MemoryEstimate, ahead: Sequence[Wish] = ()) -> HeldSlot | None:
        """A slot with its claim entered; None where none can be had now. ahead: wishes of those who go first."""
        ours = self._make_claim(need)
        with self._gate() as is_open:
            claims = self._read_claims()
            if not is_open or self._is_left_to(ahead, claims) or not self._admits([*claims.values()], ours):
                return None
            for slot in self._slots:
                if (descriptor := self._locks.try_lock(slot.name)) is not None:
                    self._write(descriptor, ours, slot)
                    part = ours.memory_mb or self._memory_mb
                    return HeldSlot(replace(slot, memory_mb=part, most_per_gpu=ours.most_per_gpu), descriptor)
        return None

    def _make_claim(self, need: MemoryEstimate) -> Claim:
        if self._most is not None:
            return Claim(most_per_gpu=self._most, memory_mb=self.largest_mb)
        if self._memory_mb is None or (need.mb and not need.is_measured):  # a part was too little for it once
            return WHOLE
        return Claim(most_per_gpu=None, memory_mb=min(need.mb, self._memory_mb) if need.is_measured else self._memory_mb)

    def _is_left_to(self, ahead: Iterable[Wish], claims: Mapping[str, Claim]) -> bool:
        """Whether somebody who goes first could take a slot now, just as they would decide themselves, or is to have the GPU when
        it is empty.
        """
        runs = [*claims.values()]
        return any(
            wish.drains
            or (
                any(name not in claims for name in wish.slots)
                and any(self._admits(runs, claim, others_mb=wish.others_mb) for claim in wish.claims)
            )
            for wish in ahead
        )

    def _admits(self, claims: Sequence[Claim], ours: Claim, *, others_mb: int | None = None) -> bool:
        """Whether there is room for ours beside those that run. others_mb: what other programs use; None: as we reckon."""
        if not claims:
            return True
        together = (*claims, ours)
        if any(claim.most_per_gpu is not None and claim.most_per_gpu < len(together) for claim in together):
            return False
        if self._memory_mb is None:
            return True
        taken = sum(self._part(claim) for claim in claims)
        if ours.most_per_gpu is None:  # with a number in the sweep file, its author vouches for it
            taken += self.others_mb if others_mb is None else others_mb
        return taken + self._part(ours) <= self._memory_mb

    def _part(self, claim: Claim) -> int:
        assert self._memory_mb is not None
        return self._memory_mb if claim.memory_mb is None else claim.memory_mb

    def _read_claims(self) -> dict[str, Claim]:
        """Of all attempts on this GPU, by the names of their lock files."""
        start = self._locks.file(f"{self.name}-").stem
        files = re.compile(re.escape(start) + r"\d+\.lock")
        with self._locks.telling():
            names = [name.removesuffix(".lock") for name in os.listdir(self._locks.path) if files.fullmatch(name)]
        return {name: claim for name in names if (claim := self._read(name)) is not None}

    def _read(self, name: str) -> Claim | None:
        """The claim in a lock file; None where nobody holds it."""
        written = self._locks.read_held(name)
        try:
            return None if written is None else Claim.model_validate_json(written)
        except ValidationError:  # of another version: it may want the GPU to itself
            return WHOLE

    def _write(self, descriptor: int, claim: Claim, slot: Slot) -> None:
        """Enter the claim; where that cannot be done, the lock is let go again."""
        with self._locks.telling():
            try:
                write_claim(descriptor, claim)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBADF:
                    raise
                raise PermissionError(errno.EACCES, "may only be read", str(self._locks.file(slot.name))) from error

    @contextlib.contextmanager
    def _gate(self) -> Iterator[bool]:
        """Be the only one who looks at this GPU; False where another keeps it shut for too long, such as one that is halted."""
        deadline_s = time.monotonic() + GATE_S
        while (descriptor := self._locks.try_lock(self.name)) is None and time.monotonic() < deadline_s:
            time.sleep(0.001)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)


def write_claim(descriptor: int, claim: Claim) -> None:
    """Replace what a lock file says; in one write, which readers see whole or not at all."""
    text = claim.model_dump_json().encode().ljust(120)
    os.pwrite(descriptor, text, 0)


def adjust(held: HeldSlot, peak_mb: float) -> int | None:
    """Let an attempt that shares its GPU by measured memory claim what it has turned out to take; returns what it has now.

    To be called by the attempt itself. Needs no gate: a claim that is lowered lets others in, and one that is raised, because
    the measurement was wrong, only keeps further ones out.
    """
    slot = held.slot
    if slot.most_per_gpu is not None or slot.memory_mb is None:
        return slot.memory_mb
    need = MemoryEstimate.of_peak(peak_mb)
    write_claim(held.descriptor, Claim(most_per_gpu=None, memory_mb=need.mb))
    return need.mb
