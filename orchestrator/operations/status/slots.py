"""Finds which slots of this machine are in use, by any sweep, from their lock files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.locks import LockFolder
from orchestrator.launchers.slots.table import find_slots


@dataclass(frozen=True)
class SlotUse:
    """Names of slots. free: of those that a sweep uses by default. problem: why this machine's slots are unknown."""

    in_use: tuple[str, ...]
    free: tuple[str, ...]
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"in_use": list(self.in_use), "free": list(self.free), "problem": self.problem}

    def describe(self) -> str:
        """One line for people."""
        names = f" ({', '.join(self.in_use)})" if self.in_use else ""
        return f"slots of this machine: {len(self.in_use)} in use{names}, {self.problem or f'{len(self.free)} free'}"


def find_slot_use() -> SlotUse:
    """Check all slots that were ever used here, and those that a sweep uses by default."""
    try:
        folder = LockFolder()
        locked = []
        for path in sorted(folder.path.glob("*.lock")):
            if (descriptor := folder.try_lock(path.stem)) is None:
                locked.append(path.stem)
            else:
                os.close(descriptor)
    except LaunchError as error:
        return SlotUse((), (), str(error))
    try:
        own = [slot.name for slot in find_slots()]
    except LaunchError as error:
        return SlotUse(tuple(locked), (), str(error))
    return SlotUse(tuple(locked), tuple(name for name in own if name not in locked))
