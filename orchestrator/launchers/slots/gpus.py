"""The GPUs of this machine as the driver names them, found without touching CUDA in this process, and watched from then on."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import LaunchError

NO_DEVICE = "NoDevFiles"
"""SLURM's word in CUDA_VISIBLE_DEVICES for a job that asked for no GPU."""

WATCH_S = 15.0
"""Between two questions to the driver."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """A GPU by its UUID, which stays the same however devices are numbered."""

    uuid: str
    memory_mb: int | None
    used_mb: int = 0
    """What was taken of it when the driver was asked, by anybody."""


def find_gpus(
    environment: Mapping[str, str] = os.environ,
    *,
    list_gpus: Callable[[], str] | None = None,
    list_parts: Callable[[], str] | None = None,
) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, found without touching CUDA in this process. Of one that is cut up (MIG), its
    parts: CUDA would show the first of them alone, and the memory of the whole would be promised.

    list_gpus: gives lines of ``index, uuid, megabytes``, and perhaps the megabytes in use; default: the driver's nvidia-smi.
    list_parts: gives what ``nvidia-smi -L`` prints, which is the default unless list_gpus is given.

    Raises:
        LaunchError: the driver is broken, or the variable names a GPU that is not there.
    """
    names = read_visible(environment)
    if names is not None and not names:
        return ()
    listing = (list_gpus or ask_nvidia_smi)()
    by_index = _read(listing)
    complaints = [line for line in listing.splitlines() if line.strip() and not _read(line)]
    for line in complaints:
        _log.warning("nvidia-smi: %s", line)  # such as of a GPU that is lost: the sweep has the others
    if not by_index:
        return ()
    found = by_index.values() if names is None else _choose(names, by_index, has_lost=bool(complaints))
    parts = _read_parts(list_parts() if list_parts else "" if list_gpus else _ask_parts())
    return tuple(dict.fromkeys(part for gpu in found for part in parts.get(gpu.uuid, (gpu,))))


def read_visible(environment: Mapping[str, str]) -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES that count, none where it hides all GPUs; None where it is not set.

    For CUDA, an entry that is empty or negative ends them.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    names = [name.strip() for name in visible.split(",")]
    ends = (index for index, name in enumerate(names) if name in ("", NO_DEVICE) or name.startswith("-"))
    return names[: next(ends, len(names))]


def _read(listing: str) -> dict[str, Gpu]:
    """GPUs by their index; lines that are something else are passed over.

    Such as a complaint about a GPU that is lost, which may also stand in place of its UUID: ``[GPU is lost]``.
    """
    fields = [[field.strip() for field in line.split(",")] for line in listing.splitlines()]
    told = (f for f in fields if len(f) >= 3 and f[0].isdigit() and f[1].startswith("GPU-"))
    return {index: Gpu(uuid, *_megabytes(rest)) for index, uuid, *rest in told}


def _read_parts(listing: str) -> dict[str, list[Gpu]]:
    """Parts of GPUs, by the GPU's UUID, of which each line with one names the GPU above it."""
    parts: dict[str, list[Gpu]] = {}
    whole = ""
    for uuid in re.findall(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)", listing):
        if uuid.startswith("GPU"):
            whole = uuid
        else:
            parts.setdefault(whole, []).append(Gpu(uuid, None))
    return parts


def _megabytes(fields: Sequence[str]) -> tuple[int | None, int]:
    """Of a GPU's memory, where it tells, and of what is in use."""
    numbers = [int(field) if field.isdigit() else None for field in fields]
    return numbers[0], (numbers[1] if len(numbers) > 1 else None) or 0


def _choose(names: Sequence[str], by_index: Mapping[str, Gpu], *, has_lost: bool) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names. has_lost: what is not found may be lost; it is left out beside others."""
    found: list[Gpu] = []
    missing: LaunchError | None = None
    for name in names:
        try:
            found.append(_find_gpu(name, by_index))
        except LaunchError as error:
            if not has_lost:
                raise
            missing = error
    if missing is not None and not found:
        raise missing
    if missing is not None:
        _log.warning("%s The others are used.", missing)
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


def ask_nvidia_smi(fields: str = "index,uuid,memory.total,memory.used", *, devices: Path = Path("/dev")) -> str:
    """A line of these fields for each GPU that the driver knows; none where there is no driver.

    Where it fails and lists some all the same, the others are lost or broken, and these can be used. devices: where the driver
    shows the GPUs.

    Raises:
        LaunchError: the driver is broken, or does not answer.
    """
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (FileNotFoundError, PermissionError):
        if found := next(devices.glob("nvidia[0-9]*"), None):
            raise LaunchError(
                f"there is a GPU here ({found}), but no nvidia-smi to tell which. Put it on the PATH (a container needs the "
                "driver's `utility` capability), or set CUDA_VISIBLE_DEVICES= to train on the CPU."
            ) from None
        return ""  # no driver, no GPU
    except subprocess.CalledProcessError as error:
        if not re.search(r"^(\d+, *)?GPU-", error.stdout, re.MULTILINE):
            raise _say_broken(error) from error
        _log.debug("nvidia-smi: %s; it said %r", error, error.stdout)
        return str(error.stdout)
    except subprocess.TimeoutExpired as error:
        raise _say_broken(error) from error


def _ask_parts() -> str:
    """What nvidia-smi lists of GPUs and their parts; nothing where it does not say."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("nvidia-smi -L: %s", error)
        return ""


def _say_broken(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> LaunchError:
    return LaunchError(
        f"nvidia-smi found no GPU: {error}; it said {error.stdout!r}. Mend the driver, or set CUDA_VISIBLE_DEVICES= ."
    )


def name_gpus() -> dict[str, str]:
    """UUID -> what torch calls the GPU too, such as ``NVIDIA H100 80GB HBM3``.

    Raises:
        LaunchError: the driver is broken, or does not answer.
    """
    lines = ask_nvidia_smi("uuid,name").splitlines()
    return {uuid.strip(): name.strip() for uuid, name in (line.split(",", 1) for line in lines if "," in line)}


class GpuWatch:
    """What the driver says of the GPUs from time to time.

    It is asked in a thread: a driver in trouble may take its time, and nobody waits for it here. Where it gives no answer, the
    last one stands: trials that a broken GPU fails tell as much.
    """

    def __init__(self, list_gpus: Callable[[], str] = ask_nvidia_smi, *, interval_s: float = WATCH_S) -> None:
        self._list_gpus = list_gpus
        self._interval_s = interval_s
        self._known: Mapping[str, Gpu] | None = None
        self._listener: Callable[[GpuWatch], None] | None = None
        self._is_over = threading.Event()

    def tell(self, listener: Callable[[GpuWatch], None]) -> None:
        """Have ``listener`` called after each look, in the thread of it."""
        self._listener = listener

    def start(self) -> None:
        """Ask now, and then until ``close``."""
        self.look()
        threading.Thread(target=self._go_on, name="watch-gpus", daemon=True).start()

    def close(self) -> None:
        self._is_over.set()

    def look(self) -> None:
        """Ask once."""
        try:
            self._known = {gpu.uuid: gpu for gpu in _read(self._list_gpus()).values()}
            if self._listener is not None:
                self._listener(self)
        except LaunchError as error:
            _log.debug("the GPUs cannot be looked at: %s", error)

    def is_listed(self, uuid: str) -> bool:
        """Whether the GPU is there, as far as is known; parts of GPUs (MIG) are not listed in any case."""
        return self._known is None or uuid.startswith("MIG") or uuid in self._known

    def used_mb(self, uuid: str) -> int:
        """What is taken of its memory, by anybody; 0 where that is not known."""
        gpu = (self._known or {}).get(uuid)
        return gpu.used_mb if gpu else 0

    def _go_on(self) -> None:
        while not self._is_over.wait(self._interval_s):
            self.look()
