"""Checks this machine: installed packages, GPUs and whether torch can use them, free disk space."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

from packaging.requirements import Requirement

from orchestrator.errors import LaunchError
from orchestrator.launchers.slots.driver import Gpu, GpuListing, ask_driver
from orchestrator.launchers.slots.gpus import find_gpus
from orchestrator.launchers.slots.locks import make_shared, slots_folder
from orchestrator.operations.doctor.findings import Finding, error, ok, warning
from orchestrator.spec.sections import LimitsSpec
from orchestrator.state.disk import free_gb
from orchestrator.state.home import Home
from orchestrator.state.units import format_gb

LITTLE_GB = 20.0
"""Free disk space that a sweep of a few dozen trials needs."""

BUSY_MB = 1000
"""GPU memory in use: more than a screen takes."""

ASK_TORCH = "import torch; print(torch.version.cuda, torch.cuda.is_available() and torch.cuda.device_count())"


def check_packages() -> Iterator[Finding]:
    """Whether the installed packages are those that this version requires."""
    versions = f"orchestrate {importlib.metadata.version('orchestrate')}, Python {platform.python_version()}"
    faults = [fault for text in importlib.metadata.requires("orchestrate") or () if (fault := _find_fault(Requirement(text)))]
    if faults:
        yield warning("packages", f"{versions}; {'; '.join(faults)}", "Install orchestrate again: `make setup` or pip install.")
    else:
        names = ("torch", "mlflow", "optuna")
        yield ok("packages", ", ".join([versions, *(f"{name} {importlib.metadata.version(name)}" for name in names)]))


def _find_fault(requirement: Requirement) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} {found} is not {requirement.specifier}"


def check_gpus(list_gpus: Callable[[], GpuListing] = ask_driver) -> Iterator[Finding]:
    """Which GPUs the driver lists, and whether torch sees them too; a separate process frees what torch allocates."""
    try:
        gpus = find_gpus(list_gpus=list_gpus)
    except LaunchError as failure:
        yield error("GPUs", str(failure), "Sweeps do not start; with CUDA_VISIBLE_DEVICES= they use the CPU.")
        return
    if not gpus:
        yield ok("GPUs", f"none: trials run on {os.cpu_count()} cores")
        return
    yield _compare_with_torch(gpus)
    if busy := [gpu for gpu in gpus if gpu.used_mb > BUSY_MB]:
        used = ", ".join(f"{gpu.uuid}: {gpu.used_mb} of {gpu.memory_mb} MB" for gpu in busy)
        yield warning("GPU memory", f"already in use: {used}", "`nvidia-smi` shows by whom; trials get only the rest.")


def _compare_with_torch(gpus: tuple[Gpu, ...]) -> Finding:
    asked = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, check=False)
    answer = asked.stdout.split()
    if asked.returncode or len(answer) != 2:
        reason = (asked.stderr.strip().splitlines() or ["no answer"])[-1]
        return error("GPUs", f"{len(gpus)}, but torch cannot be imported: {reason}", "Install torch again.")
    build, seen = answer
    has_parts = any(gpu.uuid.startswith("MIG") for gpu in gpus)  # CUDA shows a process one MIG part at a time
    if seen == str(len(gpus)) or (has_parts and seen not in ("0", "False")):
        sizes = ", ".join("a part (MIG)" if gpu.uuid.startswith("MIG") else f"{gpu.memory_mb} MB" for gpu in gpus)
        return ok("GPUs", f"{len(gpus)} ({sizes}), torch for CUDA {build}")
    advice = "Install a torch for CUDA." if build == "None" else "Is the driver too old for this torch? See `nvidia-smi`."
    return error("GPUs", f"the driver lists {len(gpus)}, torch (CUDA {build}) sees {seen}", advice)


def check_disk(home: Home) -> Iterator[Finding]:
    """Whether home and slots folder are writable, and how much disk space is free."""
    for subject, folder, make in (
        ("home", home.root, partial(os.makedirs, exist_ok=True)),
        ("slots", slots_folder(), make_shared),
    ):
        try:
            make(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as failure:
            yield error(subject, f"{folder}: {failure.strerror}", f"Set ORCHESTRATE_{subject.upper()} to a writable folder.")
            return
    found, floor = free_gb(home.root), LimitsSpec().free_disk_gb
    free = f"{format_gb(found)} free in {home.root}"
    if found < floor:
        advice = "Run `orchestrate clean`, or move ORCHESTRATE_HOME."
        yield error("disk", f"{free}; no trial starts below {format_gb(floor)}", advice)
    elif found < LITTLE_GB:
        advice = "That is little for a sweep; `orchestrate sweep FILE --plan` estimates what one needs."
        yield warning("disk", free, advice)
    else:
        yield ok("disk", free)
