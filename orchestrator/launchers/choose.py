"""Launchers by name."""

from __future__ import annotations

from typing import Protocol

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import DEFAULT_REQUESTER, Launcher, Requester, TrialsPerGpu


class Builder(Protocol):
    """Makes a launcher.

    num_slots; num_threads of each: None leaves them to the machine. trials_per_gpu: as in find_slots. requester: as in SlotTable.
    """

    def __call__(
        self,
        num_slots: int | None,
        num_threads: int | None,
        /,
        *,
        trials_per_gpu: TrialsPerGpu = None,
        requester: Requester = DEFAULT_REQUESTER,
    ) -> Launcher: ...


def _build_local(
    num_slots: int | None,
    num_threads: int | None,
    *,
    trials_per_gpu: TrialsPerGpu = None,
    requester: Requester = DEFAULT_REQUESTER,
) -> Launcher:
    from orchestrator.launchers.local import LocalLauncher
    from orchestrator.launchers.slots.table import find_choice, find_slots

    if num_slots is None:
        return LocalLauncher(find_slots(None, num_threads, trials_per_gpu=trials_per_gpu), requester=requester)
    choice = find_choice(num_slots, num_threads, trials_per_gpu=trials_per_gpu)
    return LocalLauncher(choice, most=num_slots, requester=requester)


def _build_inline(
    _num_slots: int | None,
    num_threads: int | None,
    *,
    trials_per_gpu: TrialsPerGpu = None,
    requester: Requester = DEFAULT_REQUESTER,
) -> Launcher:
    from orchestrator.launchers.inline import InlineLauncher
    from orchestrator.launchers.slots.table import find_slots

    return InlineLauncher(find_slots(1, num_threads, trials_per_gpu=trials_per_gpu)[0], requester=requester)


def _build_ray(
    num_slots: int | None,
    num_threads: int | None,
    *,
    trials_per_gpu: TrialsPerGpu = None,
    requester: Requester = DEFAULT_REQUESTER,
) -> Launcher:
    try:
        from orchestrator.launchers.ray import RayLauncher
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise LaunchError("--launcher ray: Ray is not installed here. Install it: pip install 'orchestrate[ray]'") from error
    if trials_per_gpu == "auto":
        raise LaunchError(
            "resources.trials_per_gpu is 'auto', which --launcher ray does not support: Ray assigns GPUs by number, not by "
            "memory. Give a number, as in --set resources.trials_per_gpu=2."
        )
    return RayLauncher(num_slots, num_threads, trials_per_gpu=trials_per_gpu)


LAUNCHERS: dict[str, Builder] = {"local": _build_local, "inline": _build_inline, "ray": _build_ray}
"""Name -> builder."""
