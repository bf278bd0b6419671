"""Ways to run an attempt: in this process, in processes of this machine; chosen by name."""

from __future__ import annotations

from typing import Literal, Protocol

from orchestrator.launchers.base import Launcher
from orchestrator.launchers.slots import find_slots


class Builder(Protocol):
    """Makes a launcher. None leaves the number of slots and of threads a slot to the machine; trials_per_gpu as in find_slots."""

    def __call__(
        self, num_slots: int | None, num_threads: int | None, /, *, trials_per_gpu: int | Literal["auto"] | None = None
    ) -> Launcher: ...


def _build_local(
    num_slots: int | None, num_threads: int | None, *, trials_per_gpu: int | Literal["auto"] | None = None
) -> Launcher:
    from orchestrator.launchers.local import LocalLauncher

    return LocalLauncher(find_slots(num_slots, num_threads, trials_per_gpu=trials_per_gpu))


def _build_inline(
    _num_slots: int | None, num_threads: int | None, *, trials_per_gpu: int | Literal["auto"] | None = None
) -> Launcher:
    from orchestrator.launchers.inline import InlineLauncher

    return InlineLauncher(find_slots(1, num_threads, trials_per_gpu=trials_per_gpu)[0])


LAUNCHERS: dict[str, Builder] = {"local": _build_local, "inline": _build_inline}
"""Name -> builder."""
