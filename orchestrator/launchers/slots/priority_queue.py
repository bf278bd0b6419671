"""Which dispatchers of this machine wait for a slot, by priority: files beside the lock files, which the others respect."""

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Literal

from pydantic import BaseModel, ValidationError

from orchestrator.launchers.base import Requester
from orchestrator.launchers.slots.gpu_sharing import GpuRequest
from orchestrator.launchers.slots.locks import LockFolder

FOLDER = "line"
"""Below that of the slots' lock files."""

REPEAT_S = 0.5
"""Between two writes of an unchanged entry."""

FRESH_S = 3.0
"""Older entries do not count: a process that hangs or is suspended must not keep a slot idle."""


class QueueEntry(BaseModel, frozen=True, extra="ignore"):
    """What a waiting dispatcher would take as soon as it is free.

    said_s: when it was written, by the machine's monotonic clock. is_full: the dispatcher holds as many slots as it may, so that
    nothing is left to it now. slots: names of those on the CPU. gpus: requests by the GPUs' names.
    """

    schema_version: Literal[1] = 1
    sweep: str
    priority: int
    said_s: float
    is_full: bool
    slots: tuple[str, ...]
    gpus: dict[str, GpuRequest]


class PriorityQueue:
    """One dispatcher's view of the queue of all users of this machine, and its own place in it. Used by one thread.

    An entry counts while its process lives, which its lock proves, and writes it again and again.
    ours: names of the slots and GPUs that this dispatcher may wait for; entries for none of them are ignored.
    """

    def __init__(
        self, slots: LockFolder, requester: Requester, ours: Collection[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._locks = LockFolder(slots.path / FOLDER)
        self._requester = requester
        self._ours = frozenset(ours)
        self._clock = clock
        self._ahead: list[QueueEntry] = []
        self._place: tuple[str, int] | None = None
        self._state: Hashable = None
        self._written_s = 0.0

    def enter(
        self, state: Hashable, *, is_full: bool, find: Callable[[], tuple[Collection[str], Mapping[str, GpuRequest]]]
    ) -> None:
        """Write what would be taken. find: returns slots and requests; called if ``state`` is new, or it is time to repeat it."""
        now_s = self._clock()
        if self._place is not None and state == self._state and now_s - self._written_s < REPEAT_S:
            return
        slots, gpus = find()
        entry = QueueEntry(
            sweep=self._requester.sweep,
            priority=self._requester.priority,
            said_s=now_s,
            is_full=is_full,
            slots=tuple(slots),
            gpus=dict(gpus),
        )
        self._place = self._place or self._find_place()
        self._state, self._written_s = state, now_s
        with contextlib.suppress(OSError):  # the disk is full: then priorities do not count
            # the rest of a longer entry may follow the newline
            os.pwrite(self._place[1], entry.model_dump_json().encode() + b"\n", 0)

    def leave(self) -> None:
        """Leave the queue."""
        if self._place is not None:
            os.close(self._place[1])
            self._place = None

    @property
    def goes_first(self) -> Requester | None:
        """Who had the highest priority above ours at the last look, if anybody."""
        return next((Requester(entry.sweep, entry.priority) for entry in self._ahead), None)

    def look_ahead(self) -> list[QueueEntry]:
        """The entries to leave slots to now, the highest priority first."""
        self._ahead = sorted(filter(self._is_ahead, self._read_all()), key=lambda entry: -entry.priority)
        return [entry for entry in self._ahead if not entry.is_full]

    def _is_ahead(self, entry: QueueEntry) -> bool:
        is_fresh = abs(self._clock() - entry.said_s) < FRESH_S
        is_higher = entry.priority > self._requester.priority
        return is_fresh and is_higher and not self._ours.isdisjoint((*entry.slots, *entry.gpus))

    def _read_all(self) -> list[QueueEntry]:
        ours = None if self._place is None else self._place[0]
        entries: list[QueueEntry] = []
        for name in map(str, itertools.count()):
            if not self._locks.file(name).exists():
                break
            with contextlib.suppress(FileNotFoundError, ValidationError):  # deleted; being written, or of another version
                if name != ours and (written := self._locks.read_held(name)) is not None:
                    entries.append(QueueEntry.model_validate_json(written.partition(b"\n")[0]))
        return entries

    def _find_place(self) -> tuple[str, int]:
        """Lock the first free place; returns its name and descriptor."""
        self._locks = LockFolder(self._locks.path)  # a cleaner of /tmp may have removed the empty folder
        for name in map(str, itertools.count()):
            if (descriptor := self._locks.try_lock(name)) is None:
                continue
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
                return name, descriptor
            os.close(descriptor)  # another user's file, which is read-only for us
        raise AssertionError("unreachable")
