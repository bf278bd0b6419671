"""Launchers by name."""

from collections.abc import Callable

from orchestrator.errors import LaunchError
from orchestrator.launchers.base import Launcher, SlotRequest


def _build_local(asked: SlotRequest) -> Launcher:
    from orchestrator.launchers.local import LocalLauncher
    from orchestrator.launchers.slots.table import find_slots

    found = find_slots(asked.num_slots, asked.num_threads, trials_per_gpu=asked.trials_per_gpu, with_spares=True)
    return LocalLauncher(found, most=asked.num_slots, requester=asked.requester)


def _build_inline(asked: SlotRequest) -> Launcher:
    from orchestrator.launchers.inline import InlineLauncher
    from orchestrator.launchers.slots.table import find_slots

    slot = find_slots(1, asked.num_threads, trials_per_gpu=asked.trials_per_gpu)[0]
    return InlineLauncher(slot, requester=asked.requester)


def _build_ray(asked: SlotRequest) -> Launcher:
    try:
        from orchestrator.launchers.ray import RayLauncher
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise LaunchError("--launcher ray: Ray is not installed here. Install it: pip install 'orchestrate[ray]'") from error
    if asked.trials_per_gpu == "auto":
        raise LaunchError(
            "resources.trials_per_gpu is 'auto', which --launcher ray does not support: Ray assigns GPUs by number, not by "
            "memory. Give a number, as in --set resources.trials_per_gpu=2."
        )
    return RayLauncher(asked.num_slots, asked.num_threads, trials_per_gpu=asked.trials_per_gpu)


LAUNCHERS: dict[str, Callable[[SlotRequest], Launcher]] = {"local": _build_local, "inline": _build_inline, "ray": _build_ray}
"""Name -> builder."""
