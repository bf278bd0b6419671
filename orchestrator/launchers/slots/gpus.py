"""The GPUs that CUDA_VISIBLE_DEVICES leaves to us, and a watch on them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.driver import Gpu, GpuListing, ask_driver

NO_DEVICE = "NoDevFiles"
"""What SLURM writes into CUDA_VISIBLE_DEVICES for a job without GPUs."""

WATCH_S = 15.0
"""Between two questions to the driver."""

_log = logging.getLogger(__name__)


def find_gpus(
    environment: Mapping[str, str] = os.environ, *, list_gpus: Callable[[], GpuListing] | None = None
) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves; of one that is partitioned (MIG), its parts.

    CUDA would show only the first part, and the memory of the whole would be promised. list_gpus: default: ask_driver.

    Raises:
        LaunchError: the driver is broken, or the variable names a GPU that is not there.
    """
    names = read_visible(environment)
    if names is not None and not names:
        return ()
    listing = (list_gpus or ask_driver)()
    for complaint in listing.complaints:
        _log.warning("the NVIDIA driver: %s", complaint)
    if not listing.by_index:
        return ()
    found = listing.by_index.values() if names is None else _choose(names, listing)
    return tuple(dict.fromkeys(part for gpu in found for part in listing.parts.get(gpu.uuid, (gpu,))))


def read_visible(environment: Mapping[str, str]) -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES up to an empty or negative one, which ends the list for CUDA; None if it is not set."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    names = [name.strip() for name in visible.split(",")]
    ends = (index for index, name in enumerate(names) if name in ("", NO_DEVICE) or name.startswith("-"))
    return names[: next(ends, len(names))]


def _choose(names: Sequence[str], listing: GpuListing) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names. Where the driver reports lost GPUs, a missing one is left out beside others."""
    found: list[Gpu] = []
    missing: list[LaunchError] = []
    for name in names:
        try:
            found.append(_find_gpu(name, listing.by_index))
        except LaunchError as error:
            missing.append(error)
    if missing and not (found and listing.complaints):
        raise missing[0]
    for one in missing:
        _log.warning("%s The others are used.", one)
    return found


def _find_gpu(name: str, by_index: Mapping[str, Gpu]) -> Gpu:
    """One entry of CUDA_VISIBLE_DEVICES: an index, the beginning of a UUID, or a part of a GPU (MIG)."""
    if name.startswith("MIG"):
        return Gpu(name, None)
    found = [gpu for index, gpu in by_index.items() if name == index or (not name.isdigit() and gpu.uuid.startswith(name))]
    if len(found) == 1:
        return found[0]
    if found:
        raise LaunchError(f"CUDA_VISIBLE_DEVICES names {name!r}, with which {len(found)} GPUs begin. Give more of the UUID.")
    raise LaunchError(f"CUDA_VISIBLE_DEVICES names {name!r}. Found here: {', '.join(by_index)}. Correct or unset it.")


class GpuWatch:
    """Asks the driver for the GPUs at intervals, in a thread of its own, since a broken driver may take long.

    If it gives no answer, the last one stays valid: trials on a broken GPU fail soon enough.
    """

    def __init__(self, list_gpus: Callable[[], GpuListing] = ask_driver, *, interval_s: float = WATCH_S) -> None:
        self._list_gpus = list_gpus
        self._interval_s = interval_s
        self._known: Mapping[str, Gpu] | None = None
        self._listener: Callable[[GpuWatch], None] | None = None
        self._is_closed = threading.Event()

    def notify(self, listener: Callable[[GpuWatch], None]) -> None:
        """Call ``listener`` after each look, in the watch's thread."""
        self._listener = listener

    def start(self) -> None:
        """Ask now, and then at intervals until ``close``."""
        self.look()
        threading.Thread(target=self._repeat, name="watch-gpus", daemon=True).start()

    def close(self) -> None:
        self._is_closed.set()

    def look(self) -> None:
        """Ask once."""
        try:
            self._known = {gpu.uuid: gpu for gpu in self._list_gpus().by_index.values()}
            if self._listener is not None:
                self._listener(self)
        except LaunchError as error:
            _log.debug("the GPUs cannot be listed: %s", error)

    def is_listed(self, uuid: str) -> bool:
        """Whether the GPU is there, as far as is known; parts of GPUs (MIG) always are."""
        return self._known is None or uuid.startswith("MIG") or uuid in self._known

    def used_mb(self, uuid: str) -> int:
        """MiB of its memory that all programs use; 0 if unknown."""
        gpu = (self._known or {}).get(uuid)
        return gpu.used_mb if gpu else 0

    def _repeat(self) -> None:
        while not self._is_closed.wait(self._interval_s):
            self.look()
