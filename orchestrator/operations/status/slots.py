"""Which slots of this machine are in use, by anybody's sweep: told by their lock files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.locks import LockFolder
from orchestrator.launchers.slots.table import find_slots


@dataclass(frozen=True)
class SlotUse:
    """Names of slots. free: of those that a sweep has here by default. trouble: why this machine's slots are not known."""

    in_use: tuple[str, ...]
    free: tuple[str, ...]
    trouble: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"in_use": list(self.in_use), "free": list(self.free), "trouble": self.trouble}

    def describe(self) -> str:
        """In one line, for people."""
        names = f" ({', '.join(self.in_use)})" if self.in_use else ""
        return f"slots of this machine: {len(self.in_use)} in use{names}, {self.trouble or f'{len(self.free)} free'}"


def look_at_slots() -> SlotUse:
    """Look at all slots that have ever been used here, and at those that a sweep would use by default."""
    try:
        folder = LockFolder()
        locked = [path.stem for path in sorted(folder.path.glob("*.lock")) if not _is_free(folder, path.stem)]
    except LaunchError as error:
        return SlotUse((), (), str(error))
    try:
        own = [slot.name for slot in find_slots()]
    except LaunchError as error:
        return SlotUse(tuple(locked), (), str(error))
    return SlotUse(tuple(locked), tuple(name for name in own if name not in locked))


def _is_free(folder: LockFolder, name: str) -> bool:
    descriptor = folder.try_lock(name)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
