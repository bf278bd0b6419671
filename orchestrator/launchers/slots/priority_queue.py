"""Who waits for a slot of this machine, and with which priority: files beside the slots' locks, by which others give way."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.launchers.base import Requester
from orchestrator.launchers.slots.gpu_sharing import Wish
from orchestrator.launchers.slots.locks import LockFolder

FOLDER = "line"
"""Below that of the slots' lock files."""

REPEAT_S = 0.5
"""Between two times that the same is said."""

FRESH_S = 3.0
"""What was said longer ago counts no more: whoever hangs or is halted must not keep a slot idle."""


class Announcement(BaseModel):
    """What somebody who waits would take as soon as it is free.

    said_s: by the machine's monotonic clock. is_full: they hold as many slots as they may: nothing is left to them just now.
    slots: names of those on the CPU. gpus: by their names.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    schema_version: Literal[1] = 1
    sweep: str
    priority: int
    said_s: float
    is_full: bool
    slots: tuple[str, ...]
    gpus: dict[str, Wish]


@dataclass(frozen=True)
class Ahead:
    """Those who go first, the highest priority before the others."""

    every: Sequence[Announcement]

    def wants(self, slot: str) -> bool:
        """Whether a slot on the CPU is to be left to one of them."""
        return any(slot in said.slots for said in self.every if not said.is_full)

    def wishes_for(self, gpu: str) -> list[Wish]:
        """What they would take of a GPU."""
        return [said.gpus[gpu] for said in self.every if gpu in said.gpus and not said.is_full]


class Line:
    """One dispatcher's place among those of this machine that wait, whoever runs them. Used by one thread.

    What it says counts while the process lives, which its lock tells, and says it again and again.
    ours: names of the slots and GPUs that are waited for here; who waits for none of them stands in another line.
    """

    def __init__(
        self, slots: LockFolder, requester: Requester, ours: Collection[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._locks = LockFolder(slots.path / FOLDER)
        self._claimant = requester
        self._ours = frozenset(ours)
        self._clock = clock
        self._ahead = Ahead(())
        self._place: tuple[str, int] | None = None
        self._state: Hashable = None
        self._said_s = 0.0

    def stand(self, state: Hashable, *, is_full: bool, find: Callable[[], tuple[Collection[str], Mapping[str, Wish]]]) -> None:
        """Say what would be taken. find: names of slots, and wishes; asked where ``state`` is new, or it is time to repeat it."""
        now_s = self._clock()
        if self._place is not None and state == self._state and now_s - self._said_s < REPEAT_S:
            return
        slots, gpus = find()
        said = Announcement(
            sweep=self._claimant.sweep,
            priority=self._claimant.priority,
            said_s=now_s,
            is_full=is_full,
            slots=tuple(slots),
            gpus=dict(gpus),
        )
        self._place = self._place or self._find_place()
        self._state, self._said_s = state, now_s
        with contextlib.suppress(OSError):  # the disk is full: then it is as among equals
            os.pwrite(self._place[1], said.model_dump_json().encode() + b"\n", 0)  # what an earlier one wrote may go on behind it

    def leave(self) -> None:
        """Wait for nothing any more."""
        if self._place is not None:
            os.close(self._place[1])
            self._place = None

    @property
    def goes_first(self) -> Requester | None:
        """Who went first at the last look, if anybody did."""
        return next((Requester(said.sweep, said.priority) for said in self._ahead.every), None)

    def look_ahead(self) -> Ahead:
        """Who goes first now."""
        self._ahead = Ahead(sorted(filter(self._goes_first, self._read_all()), key=lambda said: -said.priority))
        return self._ahead

    def _goes_first(self, said: Announcement) -> bool:
        is_fresh = abs(self._clock() - said.said_s) < FRESH_S
        return is_fresh and said.priority > self._claimant.priority and not self._ours.isdisjoint((*said.slots, *said.gpus))

    def _read_all(self) -> Iterator[Announcement]:
        for name in map(str, itertools.count()):
            if not self._locks.file(name).exists():
                break
            said = None if self._place is not None and name == self._place[0] else self._read(name)
            if said is not None:
                yield said

    def _read(self, name: str) -> Announcement | None:
        """None where nobody stands, or what they say is not understood."""
        try:
            written = self._locks.read_held(name)
            return None if written is None else Announcement.model_validate_json(written.partition(b"\n")[0])
        except (FileNotFoundError, ValidationError):  # being written, of another version, or swept away
            return None

    def _find_place(self) -> tuple[str, int]:
        """The first that nobody has: its name and its lock."""
        self._locks = LockFolder(self._locks.path)  # a cleaner of /tmp may have found it empty
        for name in map(str, itertools.count()):
            if (descriptor := self._locks.try_lock(name)) is None:
                continue
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
                return name, descriptor
            os.close(descriptor)  # another user's, which may only be read
        raise AssertionError("unreachable")
