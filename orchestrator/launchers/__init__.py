"""Ways to run an attempt: in this process, in processes of this machine; chosen by name."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.launchers.base import Launcher
from orchestrator.launchers.slots import find_slots


def _build_local(num_slots: int | None, num_threads: int | None) -> Launcher:
    from orchestrator.launchers.local import LocalLauncher

    return LocalLauncher(find_slots(num_slots, num_threads))


def _build_inline(_num_slots: int | None, num_threads: int | None) -> Launcher:
    from orchestrator.launchers.inline import InlineLauncher

    return InlineLauncher(find_slots(1, num_threads)[0])


LAUNCHERS: dict[str, Callable[[int | None, int | None], Launcher]] = {"local": _build_local, "inline": _build_inline}
"""Name -> builder, called with the number of slots and of threads a slot; None leaves it to the machine."""
